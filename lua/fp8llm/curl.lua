--- One HTTP request, made by the command curl, so that proxies and certificates are those of the machine.
--
-- curl reads what it is to do from its standard input: a token is never on a command line, where other users could
-- read it. Its standard output is what we read: the header, the body, and a trailer of ours with what it complained
-- about, its exit status and the length of the complaint.
local fp8llm = require "fp8llm"

local curl = {}

local chunk_bytes = 65536
local said_bytes = 1500
local tail_bytes = said_bytes + 8 -- of the trailer, at most

local script = [[
LC_ALL=C; export LC_ALL
exec 3>&1
said=$({ %s
cat <<'END_OF_CONFIG'
%s
END_OF_CONFIG
} | curl -K - 2>&1 >&3)
code=$?
said=$(printf '%%.%ds' "$said")
printf '%%s%%03d%%05d' "$said" $code ${#said}
]]

local function config_value(text) return '"' .. text:gsub('[\\"]', "\\%0") .. '"' end

-- Nothing in an address may end its line of the configuration.
local function clean_url(url)
  return (url:gsub('[^!-~]', function(c) return ("%%%02X"):format(c:byte()) end):gsub('["\\]', {['"'] = "%22",
    ["\\"] = "%5C"}))
end

local function command(url, options)
  local lines = {
    "url = " .. config_value(clean_url(url)), "silent", "show-error", "include", "globoff", "no-location",
    "suppress-connect-headers", "connect-timeout = 30", "speed-limit = 1", "speed-time = 60",
    'proto = "=http,https"', "user-agent = " .. config_value("fp8llm/" .. fp8llm._VERSION),
  }
  if options.head then lines[#lines + 1] = "head" end
  if options.from then lines[#lines + 1] = ('range = "%d-"'):format(options.from) end
  local token = options.token
    and 'printf \'header = "Authorization: Bearer %s"\\n\' "$(' .. options.token .. ')"' or ":"
  return script:format(token, table.concat(lines, "\n"), said_bytes)
end

-- The trailer at the end of a text -> what is before it, curl's exit status, its complaint
local function split_trailer(text)
  local code, length = text:match "(%d%d%d)(%d%d%d%d%d)$"
  if not code then return text, 127, "curl: cannot be run" end
  local from = #text - 8 - tonumber(length)
  return text:sub(1, from), tonumber(code), (text:sub(from + 1, -9):gsub("\n.*", ""))
end

-- The header, without those of interim answers -> response | nil, all that came
local function read_header(pipe)
  local response
  while true do
    local line = pipe:read "*l"
    if not line then return nil, "" end
    local status = line:match "^HTTP/[%d.]+ (%d%d%d)"
    local name, value = line:match "^([^:%s]+):%s*(.-)%s*$"
    if status then
      response = {status = tonumber(status), headers = {}}
    elseif response and line:match "^\r?$" then
      if response.status >= 200 then return response end
    elseif response and name then
      response.headers[name:lower()] = value
    else -- no header line: curl has ended
      local rest = pipe:read "*a" or ""
      return nil, rest == "" and line or line .. "\n" .. rest
    end
  end
end

-- The body in pieces to `take` -> what came after it | nil, message
local function read_body(pipe, take)
  local held = ""
  while true do
    local piece = pipe:read(chunk_bytes)
    if not piece then return held end
    held = held .. piece
    if #held > tail_bytes then
      local ok, message, code = take(held:sub(1, -tail_bytes - 1))
      if not ok then return nil, message, code end
      held = held:sub(-tail_bytes)
    end
  end
end

-- One request without redirections. begin(response) -> take: who gets the body's pieces.
local function request(url, options, begin)
  local pipe = assert(io.popen(command(url, options), "r"))
  local response, rest = read_header(pipe)
  if not response then
    pipe:close()
    local _, code, said = split_trailer(rest)
    return nil, said ~= "" and said or ("curl: exit status %d"):format(code), "NET", code
  end
  local take = begin(response)
  local tail, message, why = read_body(pipe, take)
  pipe:close()
  if not tail then return nil, message, why end
  tail, response.exit, response.said = split_trailer(tail)
  local ok
  ok, message, why = take(tail)
  if not ok then return nil, message, why end
  return response
end

local function origin(url) return url:match "^%a+://[^/?#]+" end

-- Where a Location leads.
local function resolve(base, location)
  if location:find "^%a[%w+.-]*://" then return location end
  if location:find "^//" then return base:match "^%a+:" .. location end
  if location:find "^/" then return origin(base) .. location end
  return base:match "^[^?#]*/" .. location
end

local redirects = {[301] = true, [302] = true, [303] = true, [307] = true, [308] = true}

local function ignore() return true end

--- options: token (a shell command that prints it, sent to the first address's host only), from (the first byte
-- wanted), head, begin(response) -> function(piece) -> true | nil, message, code: who gets the body of the last
-- answer; without it the answer has a `body`. -> {status, headers = {[lower case]}, first = headers of the first
-- answer, exit = curl's exit status, said = its complaint} | nil, message, code: NET when nothing came, then curl's
-- exit status follows
function curl.request(url, options)
  local first, home = nil, origin(url)
  for _ = 1, 10 do
    local pieces = {}
    local response, message, code, exit = request(url, {
      head = options.head, from = options.from, token = origin(url) == home and options.token or nil,
    }, function(response)
      if redirects[response.status] and response.headers.location then return ignore end
      if options.begin then
        local take = options.begin(response)
        if take then return take end
      end
      return function(piece)
        if #pieces < 1000 then pieces[#pieces + 1] = piece end
        return true
      end
    end)
    if not response then return nil, message, code, exit end
    first = first or response.headers
    local location = redirects[response.status] and response.headers.location
    if not location then
      response.first, response.body, response.url = first, table.concat(pieces), url
      return response
    end
    local to = resolve(url, location)
    if not to:find "^https?://" or (url:find "^https:" and not to:find "^https:") then
      return nil, ("%s: sends us to %s, which is not trusted"):format(url, to), "IO"
    end
    url = to
  end
  return nil, url .. ": more than 10 redirections", "IO"
end

return curl
