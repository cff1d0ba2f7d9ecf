-- Lines of .cu and .cuh that the emulated GPU ran: luajit spec/cuda/coverage.lua FILE...
-- FILE is what EMU_COVER wrote: "path:line hits", a line for each instruction of each kernel.
-- Lines of no instruction (declarations, what the compiler folded away) do not count.
local hits = {}
for _, name in ipairs(arg) do
  for line in io.lines(name) do
    local path, n, count = line:match "([%w_]+%.cuh?):(%d+) (%d+)$"
    -- Headers of the toolkit have the same endings: only our own folder counts.
    if path and line:match "^cuda/" or line:match "/cuda/[%w_]+%.cuh?:" and not line:match "targets/" then
      hits[path] = hits[path] or {}
      n = tonumber(n)
      hits[path][n] = math.max(hits[path][n] or 0, tonumber(count))
    end
  end
end
local all, run = 0, 0
local files = {}
for path in pairs(hits) do files[#files + 1] = path end
table.sort(files)
for _, path in ipairs(files) do
  local missed, total = {}, 0
  for n, count in pairs(hits[path]) do
    total = total + 1
    if count == 0 then missed[#missed + 1] = n end
  end
  table.sort(missed)
  all, run = all + total, run + total - #missed
  print(("%-16s %4d of %4d lines  %s"):format(path, total - #missed, total, table.concat(missed, " ")))
end
print(("%.1f %% of %d lines"):format(100 * run / math.max(all, 1), all))
