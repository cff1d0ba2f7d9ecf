---@meta fp8llm
-- The whole Lua interface in one place: signatures for editors (LuaCATS), prose for people.
-- spec/lua/api_spec.lua compares it with the module. Nothing requires this file.
--
-- Errors, by one rule:
--
-- | what                                                              | what happens                               |
-- |-------------------------------------------------------------------|--------------------------------------------|
-- | an argument, option or field of the wrong type                    | raises                                     |
-- | an option or field that nobody knows                              | raises                                     |
-- | use of an object that is closed, stale, or another process's      | raises                                     |
-- | a number or word of the right type that will not do (threads = -1) | nil, message, "ARG"                        |
-- | the same of a tensor: an index, shape or element type             | raises                                     |
-- | the same where no message is among the results below (schedule)   | raises                                     |
-- | what files, models, memory, devices, queues or time bring         | nil, message, code                         |
-- | the same in the middle of a loop: pieces(), model:stream()        | raises: a loop has no place for a message  |
-- | JSON text in place of a table (submit), whatever is wrong with it | nil, message, code                        |
--
-- What raises begins with the name of the function, "engine:submit: unknown field 'temprature'", and names the
-- option or field. Messages that are returned name the file or field at fault. Codes: ARG NOMEM IO FORMAT
-- UNSUPPORTED DEVICE LIMIT CANCELLED BUSY.
--
-- close() may be called twice, and collecting the object does the same. Objects hold what they need: a sequence keeps
-- its model alive, until somebody closes the model, which closes all sequences and engines made of it. tostring says
-- what an object is. Token ids and positions are the model's own numbers and count from 0; tensor indices count from 1.

---@alias fp8llm.code "ARG"|"NOMEM"|"IO"|"FORMAT"|"UNSUPPORTED"|"DEVICE"|"LIMIT"|"CANCELLED"|"BUSY"
---@alias fp8llm.ids integer[]

---@class fp8llm
---@field _VERSION string
local fp8llm = {}

---@class fp8llm.load_options
---@field device? "auto"|"cpu"|"cuda"|string where to run: "cuda:N" is GPU N, "cuda" the first (default "auto", the CPU)
---@field isa? "scalar"|"avx2"|"avx512" CPU instruction set (default: the best there is)
---@field threads? integer CPU threads, 0 = one per physical core (default 0)
---@field context? integer longest sequence in tokens (default: the model's, at most 8192)
---@field kv? "auto"|"bf16"|"fp8" numbers of the KV cache; auto: as the checkpoint says, else bf16
---@field kv_tokens? integer tokens that all sequences together can hold (default: context; on a GPU as many as its
---  memory has room for, 256 times context at most)
---@field gpu_memory_utilization? number part of a GPU's memory that the model with its KV cache may take, more than 0
---  and at most 1 (default 0.9)
---@field max_step_rows? integer most tokens computed in one step (default 256)
---@field prefix_cache? boolean keep full KV pages for later prompts that begin alike (default true)
---@field graphs? boolean on a GPU: steps of one token a sequence are recorded and replayed as one graph (default true)
---@field batch_invariant? boolean a sequence gives the same bits alone, in chunks and in any company (default false).
---  On a GPU each linear then has one kernel for all numbers of rows and cuBLASLt has none; on the CPU it is always so
---@field sparse_prefill? "compressed"|"dense" on a GPU, what products of more than 8 rows read of 2:4 weights: the
---  compressed form, or a dense copy beside it through cuBLASLt, one byte more a weight (default compressed; the CPU
---  refuses dense, and so does batch_invariant)
---@field tp? integer tensor-parallel ranks: 1
---@field load_format? "auto"|"dummy" dummy: random weights of the right flavour, config.json is enough (default auto)
---@field config_json? string with dummy: the text of a config.json in place of dir's; dir is then only a name
---@field time_ops? boolean count what each op of the backend takes, for model:op_times() (default false)
---@field progress? fun(part: number) called while loading, 0 <= part <= 1

---Load a checkpoint: config.json, tokenizer.json, *.safetensors; BF16, F16, F32 or FP8.
---@param dir string a directory; or org/name, org/name@revision of the Hugging Face cache (HF_HUB_CACHE, HF_HOME),
---  where `fp8llm pull org/name` puts it. tokenizer, describe and quantize take the same
---@param options? fp8llm.load_options
---@return fp8llm.model? model
---@return string? message
---@return fp8llm.code? code
function fp8llm.load(dir, options) end

---Only the tokenizer of a directory, or a tokenizer.json.
---@param dir string
---@return fp8llm.tokenizer?
---@return string? message
---@return fp8llm.code? code
function fp8llm.tokenizer(dir) end

---A chat template from its source, or the one of a tokenizer (of that name, if one is given). With a
---tokenizer it can encode.
---@param source string|fp8llm.tokenizer
---@param tokenizer? fp8llm.tokenizer|string a tokenizer for the source; or the name of the tokenizer's template
---@return fp8llm.template?
---@return string? message
---@return fp8llm.code? code
function fp8llm.template(source, tokenizer) end

---@param options? fp8llm.sampler_options
---@return fp8llm.sampler?
---@return string? message
---@return fp8llm.code? code
function fp8llm.sampler(options) end

---One safetensors file.
---@param path string
---@return fp8llm.safetensors?
---@return string? message
---@return fp8llm.code? code
function fp8llm.safetensors(path) end

---Zeros, or values: flat and row by row, or nested. With nested values the shape may be left out.
---@param dtype fp8llm.dtype
---@param shape integer[]|table[]
---@param values? number[]|table[]
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function fp8llm.tensor(dtype, shape, values) end

---@class fp8llm.quantize_options
---@field src string BF16, F16 or F32 checkpoint directory
---@field dst string directory to make; it must not exist and appears complete or not at all
---@field scheme "fp8-static"|"fp8-dynamic"|"fp8-block" see `fp8llm quantize --help`
---@field format? "autofp8"|"compressed-tensors"|"modelopt" (default "autofp8"; fp8-dynamic: "compressed-tensors")
---@field observer? "minmax"|"mse" how weight scales are chosen (default "minmax")
---@field sparse? "2:4" prune two of every four neighbouring weights
---@field sparse_method? "wanda"|"magnitude" which two: by |w| and the activations, or by |w| (default "wanda")
---@field sparse_format? "dense"|"bitmask" (default "dense")
---@field kv? "fp8" calibrated scales of an FP8 KV cache
---@field compat? boolean the BF16 arithmetic of AutoFP8 or compressed-tensors, bit for bit
---@field ignore? string|string[] linears to leave alone: a module's name, or "re:" and a regular expression
---@field calibrate? string JSON lines: {"messages": [...]} or {"text": "..."}; for input scales, KV scales, Wanda
---@field samples? integer at most this many lines
---@field max_length? integer at most this many tokens of a line
---@field max_shard_bytes? integer tensors in one weight file (default 5 GB); more become shards with an index
---@field device? string where the calibration runs: "auto", "cpu", "cuda", "cuda:N"
---@field gpu_memory_utilization? number see load_options
---@field threads? integer
---@field progress? fun(phase: string, part: number)

---Write an FP8 checkpoint of a BF16 one.
---@param options fp8llm.quantize_options
---@return {linears: integer, ignored: integer, samples: integer, tokens: integer, bytes_in: integer,
---  bytes_out: integer}? report
---@return string? message
---@return fp8llm.code? code
function fp8llm.quantize(options) end

---@class fp8llm.described_tensor
---@field name string
---@field file string
---@field dtype string as safetensors names it: "F8_E4M3"
---@field shape integer[]
---@field bytes integer
---@field scale? fp8llm.inspect_scale
---@field unused? string why loading does not read it

---What a checkpoint directory is, from its JSON files, the headers of its weight files and its scales; no
---weight is read. The module fp8llm.inspect makes a report of it.
---@param dir string
---@return {architecture: string, chat_template: boolean, config: table, quantization: table, refused: string?,
---  warnings: string[], tensors: fp8llm.described_tensor[]}? description
---@return string? message
---@return fp8llm.code? code
function fp8llm.describe(dir) end

---What fp8llm.load can run on here: "cpu", and "cuda:N" of each GPU with memory left.
---@return {device: string, name: string, mem_free: integer, mem_total: integer}[]
function fp8llm.devices() end

---Seconds on a clock that only goes forward.
---@return number
function fp8llm.clock() end

---What a request may ask for, from the table that checks it: name, type, min and max (of a number, of
---the items of a list, of the bytes of a text), default (if it has one) and doc of each field.
---@return {name: string, type: string, min: number, max: number, default: any, doc: string}[]
function fp8llm.request_fields() end
---Run programs until one of them ends, or SIGTERM or SIGINT comes; then end the others, one after the other, each
---with its `stop` signal ("TERM" or "QUIT") and after grace_s seconds with SIGKILL. Processes that a program leaves in
---its group when it ends are killed. For a command that consists of several programs: it blocks, and takes the signals
---and children of the process for itself.
---@param commands {[integer]: string, stop?: "TERM"|"QUIT"}[]
---@param grace_s integer
---@return integer? index of the one that ended by itself, 0: a signal came
---@return integer|string status its exit status, or 128 + the signal that killed it
---@return fp8llm.code? code
function fp8llm.supervise(commands, grace_s) end

---Take a lock file for this process and the programs it starts from now on, until all of them have ended.
---@param path string made when it is not there
---@return true? locked, string? message it names the process that has it, string? code
function fp8llm.lock(path) end

---Whether a server could listen there now.
---@param host string an address or a name, without brackets
---@param port integer
---@return true? free, string? message, string? code `BUSY`: another server does
function fp8llm.check_port(host, port) end

---Bytes per second that threads read sequentially from a buffer of that size, the best of several
---passes. A buffer that fits the last-level cache measures that cache. On a GPU, with `device`: bytes
---that copies between two such buffers read and write.
---@param options? {threads?: integer, bytes?: integer, device?: string} default: one per physical core, 256 MiB, "cpu"
---@return number? bytes_per_second
---@return string? message
---@return fp8llm.code? code
function fp8llm.read_bandwidth(options) end

---Multiplications and additions a second that threads make together out of registers: what the
---vector units can do at best. On a GPU, with `device`: those of a product of two matrices of that
---type and size (a multiple of 16).
---@param options? {threads?: integer, device?: string, dtype?: "fp8"|"bf16", size?: integer} default: one per
---  physical core, "cpu", "fp8", 8192
---@return number? flops
---@return string? message
---@return fp8llm.code? code
function fp8llm.flop_peak(options) end

-- Where results go and lines come from, for commands: nothing is lost unseen.

---A file, a pipe or stdout that is written to. A failure stays: all later calls fail as the first one did.
---@class fp8llm.sink
local sink = {}

---Writes go behind what a file holds. BUSY: another process's sink has the file.
---@param path? string default: stdout
---@return fp8llm.sink?
---@return string? message
---@return fp8llm.code? code
function fp8llm.sink(path) end

---What this returns true for is with the kernel, whole.
---@param text string
---@return true?
---@return string? message names the file, and how many bytes of how many were written
---@return fp8llm.code? code
function sink:write(text) end

---A regular file is cut to so many bytes.
---@param bytes integer
---@return true?
---@return string? message
---@return fp8llm.code? code
function sink:cut(bytes) end

---Whether it is the very file that path leads to; without a path: what stdout is.
---@param path? string
---@return boolean
function sink:is(path) end

---@return boolean whether it is a file that keeps what is written
function sink:is_regular() end

---Brings all of it to the disk. May be called twice.
---@return true?
---@return string? message what was not written, or a file that holds less than was
---@return fp8llm.code? code
function sink:close() end

---A text that is read line by line, once: a file, a pipe, a terminal. A line comes without its end, LF or CR LF; a byte
---order mark at the beginning is skipped.
---@class fp8llm.lines
local lines = {}

---@param path? string default: stdin
---@return fp8llm.lines?
---@return string? message
---@return fp8llm.code? code
function fp8llm.lines(path) end

---@param wait? boolean false: do not wait for one (default true)
---@return string|false|nil line false: none has come yet; nil: there is no further one, or it cannot be read
---@return string? message
---@return fp8llm.code? code
function lines:next(wait) end

---How many of the lines to come are not blank; -1: that cannot be known without reading them.
---@return integer?
---@return string? message
---@return fp8llm.code? code
function lines:count() end

---@return integer bytes from the beginning up to the end of the last line that had one
function lines:whole_bytes() end

function lines:close() end

---Columns of the terminal that stderr is; nil: it is none.
---@return integer?
function fp8llm.terminal() end

---Shows text in place of the status line on stderr; nil wipes it.
---@param text? string
function fp8llm.status(text) end

---From now on SIGINT and SIGTERM wipe the status line, then end the process. For commands, not for libraries.
---@param advice? string what SIGINT says on stderr first, at most 255 bytes
function fp8llm.catch_interrupts(advice) end

---Whether stdin, stdout and stderr are terminals.
---@return boolean
function fp8llm.interactive() end

---From now on the first SIGINT or SIGTERM only sets what interrupted() tells; a second one ends the process.
function fp8llm.hold_interrupts() end

---@return boolean there was one since the last call
function fp8llm.interrupted() end

---A line typed at the terminal; false: interrupted, where interrupts are held; nil: end of input. For commands.
---@param text string what it shows before the line
---@return string|false|nil line
function fp8llm.prompt(text) end

---A line that the arrow keys find again in fp8llm.prompt, where libedit is installed.
---@param line string
function fp8llm.remember(line) end

---Seconds of processor time of the calling thread.
---@return number
function fp8llm.thread_clock() end

---Seconds of processor time, of both threads, for one of them to wake the other and to sleep until
---that, after `work` (0) seconds of its own, which do not count, wakes it: the mean of `rounds` (1000).
---@param options? {rounds?: integer, work?: number}
---@return number? seconds
---@return string? message
---@return fp8llm.code? code
function fp8llm.handover_cost(options) end

---@class fp8llm.schedule_item
---@field share? integer whose it is, a number for each key: what there is, is divided between them (default 0)
---@field running? boolean holds pages
---@field parked? boolean gets no rows now
---@field paused? boolean parked because its reader lags: leaves when others need room
---@field length? integer tokens in the cache
---@field pending integer known tokens that are not: 1 = decode, more = prompt
---@field pages? integer held
---@field shared_tail? boolean the page of its next token must be copied first
---@field rows? integer answer: rows of the next step
---@field preempt? boolean answer: gives its pages back now

---The engine's scheduler by itself, for simulations: fills rows and preempt of each item. Items come
---in the order they should be served.
---@param items fp8llm.schedule_item[]
---@param limits {max_rows: integer, max_seqs: integer, max_running: integer, free_pages: integer, page_tokens: integer}
---@return fp8llm.schedule_item[] items
function fp8llm.schedule(items, limits) end

---What is wrong with the fields of a table as a request of that kind, for modules of this library; nil: nothing.
---@param request table
---@param kind? "own"|"completion"|"chat" (default "own")
---@return string?
function fp8llm._misuse(request, kind) end

---C blocks alive now: for leak tests.
---@return integer
function fp8llm._live() end

-- ---- model -----------------------------------------------------------------------------------

---A loaded Llama. May be shared by any number of sequences.
---
---Objects keep what they need: a sequence or an engine its model, a stream its tokenizer, a row its tensor. A method
---that runs while its object is closed (by its option's __index or a finalizer) still ends well. Objects belong to the
---Lua state, and thread, that made them; only an engine computes on a thread of its own.
---@class fp8llm.model
local model = {}

---Linears of one name in layers that follow each other, and how products of a step are computed:
---"rows" on CUDA cores, weights read once for each 8 rows; "tiles" by a kernel of ours on tensor cores; "cublaslt" by
---cuBLASLt, scales included; "cublaslt-f32" by cuBLASLt, the scales being applied by what follows.
---@class fp8llm.linear_paths
---@field linear "qkv_proj"|"o_proj"|"gate_up_proj"|"down_proj"|"lm_head"
---@field count integer
---@field n integer rows of the weight
---@field k integer columns of the weight
---@field dtype string
---@field steps {rows: integer, path: string}[] of more rows than the one before, up to `rows`

---@class fp8llm.info
---@field dir string
---@field device string name of what it runs on
---@field quantization string "none", "autofp8 static", ...
---@field kv_dtype string
---@field weight_bytes integer
---@field kv_bytes integer
---@field scratch_bytes integer
---@field memory_planned integer bytes that loading was to take, before it began: weights, buffers of a step, and the
---  KV cache that was asked for (else that of one context)
---@field memory_budget integer bytes that it could take: what was free, of a GPU at most gpu_memory_utilization
---@field bytes_per_token integer weights read to decode one token
---@field context integer
---@field kv_tokens integer
---@field parameters integer
---@field kv_pages_free integer KV pages that no sequence holds, those of the prefix cache too
---@field prefix_queries integer KV pages looked for in the prefix cache
---@field prefix_hits integer those found
---@field prefix_evictions integer those that the cache gave up for others
---@field paths fp8llm.linear_paths[] on a GPU: how each linear is computed; empty where there is one way

---@return fp8llm.info
function model:info() end

---@class fp8llm.op_time
---@field op string
---@field n integer of a linear or embed, its shape n x k; else 0
---@field k integer
---@field dtype? string of its weight
---@field calls integer
---@field rows integer
---@field seconds number
---@field bytes number
---@field flops number

---What the backend's ops took since the last call; empty unless loaded with time_ops. bytes is what an op
---must at least read and write, flops its multiplications and additions (linear, attend).
---@return fp8llm.op_time[]
function model:op_times() end

---config.json as it was understood: hidden_size, num_hidden_layers, vocab_size, eos_token_ids, ...
---@return table<string, any>
function model:config() end

---Sampling defaults of generation_config.json; keys it does not have are absent.
---@return {temperature?: number, top_p?: number, top_k?: integer, min_p?: number, repetition_penalty?: number,
---  max_new_tokens?: integer, do_sample?: boolean}
function model:generation_config() end

---@return fp8llm.tokenizer?
---@return string? message
---@return fp8llm.code? code
function model:tokenizer() end

---The chat template, or the one of that name.
---@param name? string
---@return fp8llm.template?
---@return string? message
---@return fp8llm.code? code
function model:template(name) end

---Ids that end a text: of config.json, generation_config.json and the tokenizer.
---@return fp8llm.ids
function model:eos() end

---A read-only copy of a tensor of the checkpoint, as stored: it outlives the model, and the file.
---IO when the file has become shorter since the model was loaded.
---@param name string
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function model:tensor(name) end

---An empty sequence. It shares the model's KV pages with other sequences and engines, and has its own until it is
---closed or collected; a feed that finds none is LIMIT and says who has them.
---@return fp8llm.sequence?
---@return string? message
---@return fp8llm.code? code
function model:sequence() end

---How likely is each choice after the context? The context is computed once. With texts, context
---and choice are tokenized joined.
---@param context string|fp8llm.ids
---@param choices string[]|fp8llm.ids[]
---@return number[]? logprobs natural logarithm, summed over the tokens of each choice
---@return boolean[]|string greedy whether every token of the choice was the most likely one
---@return fp8llm.code? code
function model:score(context, choices) end

---The memory goes back now: sequences and engines of the model are closed with it, running requests end cancelled.
---Rows of logits stay readable, they have a copy of their own; so do requests, with what they have got.
function model:close() end

-- ---- text in, text out -----------------------------------------------------------------------
--
-- Over one engine that the model gets on first use. A request is read by the code that serves /v1/chat/completions and
-- /v1/completions: fields mean the same, and what they leave out comes from the model's generation_config.json. Where
-- that is silent, too: temperature 0.7, top_p 0.95, max_tokens 1024 for an answer and 256 for a prompt.

---@class (exact) fp8llm.chat_options: fp8llm.sampling_fields
---@field [1]? string the same as text
---@field text? string what the user says: one message
---@field system? string what the system says, before the messages
---@field messages? table[] the whole conversation, in place of text: {role =, content =}
---@field on_piece? fun(piece: string, event: fp8llm.event): boolean? called with each piece of text; false ends it here
---@field wait? fun(answer: fp8llm.answer) called instead of blocking when there is nothing yet: coroutine.yield
---@field tools? table[] for the chat template
---@field tool_choice? "auto"|"none"
---@field documents? table[] for the chat template
---@field chat_template_kwargs? table further variables of the chat template
---@field add_generation_prompt? boolean (default true)
---@field continue_final_message? boolean go on writing the last message (default false)
---@field max_completion_tokens? integer OpenAI's newer name of max_tokens
---@field logprobs? boolean log-probabilities in events
---@field top_logprobs? integer with logprobs: of so many alternatives
---@field response_format? table only {type = "text"}
---@field return_token_ids? boolean

---@class (exact) fp8llm.generate_options: fp8llm.sampling_fields
---@field [1]? string the same as prompt
---@field prompt? string|fp8llm.ids the text to continue
---@field on_piece? fun(piece: string, event: fp8llm.event): boolean? called with each piece of text; false ends it here
---@field wait? fun(answer: fp8llm.answer) called instead of blocking when there is nothing yet: coroutine.yield
---@field echo? boolean the completion begins with the prompt (default false)
---@field logprobs? integer log-probability of each token and of so many alternatives
---@field add_special_tokens? boolean BOS and the like before a text (default true)
---@field parse_special? boolean see special tokens in the text (default true)
---@field return_token_ids? boolean

---The answer to a text, a message or a conversation: print(model:chat "What is the capital of France?")
---@param request string|fp8llm.chat_options
---@return string?
---@return string? message
---@return fp8llm.code? code
function model:chat(request) end

---What follows a prompt, which no template is put around.
---@param request string|fp8llm.generate_options
---@return string?
---@return string? message
---@return fp8llm.code? code
function model:generate(request) end

---for piece, event in model:stream {text = "..."} do: chat, or generate where there is a prompt, piece by piece. What
---goes wrong raises.
---@param request string|fp8llm.chat_options|fp8llm.generate_options
---@return fun(): string?, fp8llm.event?
function model:stream(request) end

---The same for event loops: an answer that is still to come. It has fd(), poll() and read().
---@param request string|fp8llm.chat_options|fp8llm.generate_options
---@return fp8llm.answer?
---@return string? message
---@return fp8llm.code? code
function model:submit(request) end

---A conversation with the model. What it has read already is found in the prefix cache: each turn computes only what
---is new.
---@param options? fp8llm.chat_options fields of all its turns, without text and messages
---@return fp8llm.conversation
function model:conversation(options) end

---@class fp8llm.conversation
---@field last? fp8llm.read_result of the last answer
local conversation = {}

---@param request string|fp8llm.chat_options text, and fields of this turn
---@return string? answer nil: nothing has been said
---@return string? message
---@return fp8llm.code? code
function conversation:say(request) end

---Another answer in place of the last one, which stays when that fails.
---@param options? fp8llm.chat_options fields of this turn
---@return string?
---@return string? message
---@return fp8llm.code? code
function conversation:again(options) end

---Takes the last question and its answer back.
---@return string? question nil: there is none
function conversation:undo() end

---Nothing has been said, but what is the system's.
function conversation:reset() end

---What has been said, oldest first, without the system's: a copy.
---@return {role: string, content: any}[]
function conversation:messages() end

---Into a JSON file, whole or not at all.
---@param path string
---@return true?
---@return string? message
---@return fp8llm.code? code
function conversation:save(path) end

---What save has written, in place of what has been said.
---@param path string
---@return fp8llm.conversation? self
---@return string? message
---@return fp8llm.code? code
function conversation:load(path) end

-- ---- sequence --------------------------------------------------------------------------------

---One growing list of tokens with its KV cache. #seq is its length.
---@class fp8llm.sequence
local sequence = {}

---Append tokens. On failure the sequence is as before; LIMIT: the context or the KV cache is full.
---@param ids fp8llm.ids|integer
---@return fp8llm.tensor? logits f32 [vocab] after the last token; the next feed overwrites it
---@return string? message
---@return fp8llm.code? code
function sequence:feed(ids) end

---Append tokens and tell how likely each was. The first token of an empty sequence counts 0.
---@param ids fp8llm.ids
---@return fp8llm.tensor? logprobs f32 [#ids]
---@return boolean[]|string greedy whether each was the most likely one
---@return fp8llm.code? code
function sequence:score(ids) end

---A second sequence with the same history; memory is shared until one of them grows.
---@return fp8llm.sequence?
---@return string? message
---@return fp8llm.code? code
function sequence:fork() end

---Keep the first n tokens.
---@param n integer
---@return fp8llm.sequence? self
---@return string? message
---@return fp8llm.code? code
function sequence:rewind(n) end

---@return fp8llm.ids
function sequence:ids() end

---@return integer
function sequence:length() end

---Tokens of the first feed; what follows is output to the penalties of a sampler.
---@return integer
function sequence:prompt_length() end

function sequence:close() end

-- ---- tokenizer -------------------------------------------------------------------------------

---Text <-> token ids as tokenizer.json says. #tok is the largest id + 1.
---@class fp8llm.tokenizer
local tokenizer = {}

---@class fp8llm.encode_options
---@field add_special_tokens? boolean BOS and so on (default true)
---@field parse_special? "none"|"all"|"reject"|(integer|string)[] special tokens to see in the text (default "none")
---@field strict? boolean refuse invalid UTF-8 instead of reading U+FFFD (default false)

---@param text string
---@param options? fp8llm.encode_options
---@return fp8llm.ids?
---@return string? message
---@return fp8llm.code? code
function tokenizer:encode(text, options) end

---Ids of the model's vocabulary that no token has, as padded rows give them, are no text; ids
---outside the vocabulary are an error.
---@param ids fp8llm.ids
---@param options? {skip_special_tokens?: boolean} default false
---@return string?
---@return string? message
---@return fp8llm.code? code
function tokenizer:decode(ids, options) end

---@param piece string as written in tokenizer.json
---@return integer?
function tokenizer:id(piece) end

---The token as written in tokenizer.json.
---@param id integer
---@return string?
function tokenizer:piece(id) end

---The bytes a token stands for, maybe part of a character.
---@param id integer
---@return string?
function tokenizer:bytes(id) end

---@return integer?
function tokenizer:bos() end

---@return integer?
function tokenizer:eos() end

---Source of the chat template, or of the one of that name.
---@param name? string
---@return string?
function tokenizer:chat_template(name) end

---Ids one at a time -> whole pieces of text.
---@param options? {skip_special_tokens?: boolean} default false
---@return fp8llm.stream
function tokenizer:stream(options) end

function tokenizer:close() end

---@class fp8llm.stream
local stream = {}

---@param id integer
---@return string? text what this id completes, maybe ""
---@return string? message
---@return fp8llm.code? code
function stream:push(id) end

---What is left; the stream can begin a new text.
---@return string
function stream:finish() end

function stream:close() end

-- ---- template --------------------------------------------------------------------------------

---A chat template. Messages are a list of {role=, content=, ...}, or a whole context with a
---member `messages`, as tables or as JSON text. Arguments of tool calls in JSON text are handed to
---the template as tables, absent content as none; content that is a list of text parts becomes one
---text unless the template goes through lists.
---@class fp8llm.template
local template = {}

---Every other member is a variable of the template.
---@class fp8llm.template_options
---@field add_generation_prompt? boolean end where the assistant's answer begins (default false)
---@field continue_final_message? boolean end behind the content of the last message (default false)
---@field tools? table[]|string descriptions of tools, also as a JSON list (default none)
---@field documents? table[]|string texts to answer from, also as a JSON list (default none)
---@field now? number Unix time for strftime_now (default the clock)

---The text of a conversation.
---@param messages {role: string, content: any}[]|table|string
---@param options? fp8llm.template_options
---@return string?
---@return string? message
---@return fp8llm.code? code
function template:render(messages, options) end

---The same as token ids: special tokens that the template writes are read as such, those in a
---message are plain text. Needs a template that came with a tokenizer.
---@param messages {role: string, content: any}[]|table|string
---@param options? fp8llm.template_options
---@return fp8llm.ids?
---@return string? message
---@return fp8llm.code? code
function template:encode(messages, options) end

function template:close() end

-- ---- sampler ---------------------------------------------------------------------------------

---Chooses tokens. It has a random stream of its own, which each choice advances.
---@class fp8llm.sampler
local sampler = {}

---@class fp8llm.sampler_options
---@field temperature? number >= 0; 0 always takes the most likely token (default 1)
---@field top_k? integer only the k most likely and ties of the k-th; 0 or -1 = all (default 0)
---@field top_p? number (0, 1]: only the smallest set that reaches this probability (default 1)
---@field min_p? number [0, 1]: only tokens with this part of the best one's probability (default 0)
---@field repetition_penalty? number > 0: divides logits of tokens in prompt and output (default 1)
---@field frequency_penalty? number [-2, 2]: subtracted for each time a token is in the output (default 0)
---@field presence_penalty? number [-2, 2]: subtracted when a token is in the output (default 0)
---@field logit_bias? table<integer, number> added to the logits of these ids, at most 100 either way
---@field allowed_token_ids? fp8llm.ids only these
---@field seed? integer same seed, same tokens; -1 = a new one from the system (default -1)
---@field order? fp8llm.stage[] (default: the order of fp8llm.stage, which is vLLM's)

---llama.cpp's order is {"bias", "penalties", "top_k", "top_p", "min_p", "temperature"}.
---@alias fp8llm.stage "allowed"|"bias"|"penalties"|"temperature"|"min_p"|"top_k"|"top_p"

---@alias fp8llm.history fp8llm.sequence|{prompt?: fp8llm.ids, output?: fp8llm.ids}

---Choose a token. The logits stay as they are.
---@param logits fp8llm.tensor f32 [vocab]
---@param history? fp8llm.history what the penalties look at
---@return integer? id
---@return number|string logprob under the logits as given
---@return fp8llm.code? code
function sampler:sample(logits, history) end

---Everything but the choice, in place: removed tokens become -inf.
---@param logits fp8llm.tensor
---@param history? fp8llm.history
---@return fp8llm.tensor? logits
---@return string? message
---@return fp8llm.code? code
function sampler:process(logits, history) end

---A copy that continues the random stream from the same place.
---@return fp8llm.sampler?
---@return string? message
---@return fp8llm.code? code
function sampler:clone() end

function sampler:close() end

-- ---- tensor ----------------------------------------------------------------------------------

---@alias fp8llm.dtype "f32"|"bf16"|"f16"|"e4m3"|"i32"

---A dense array of up to four dimensions, row by row. #t is the first dimension. Methods that
---change a tensor return it; an index or a shape that does not fit raises.
---@class fp8llm.tensor
local tensor = {}

---@return integer[]
function tensor:shape() end

---@return fp8llm.dtype
function tensor:dtype() end

---@return string
function tensor:device() end

---One element: an index for each dimension.
---@param ... integer
---@return number
function tensor:get(...) end

---t:set(i, j, value)
---@param ... number
---@return fp8llm.tensor self
function tensor:set(...) end

---A view of row i: the same memory.
---@param i integer
---@return fp8llm.tensor
function tensor:row(i) end

---The k largest elements of a vector, descending, equal ones by index. On a row of logits the
---token id is index - 1.
---@param k integer
---@return integer[] indices
---@return number[] values
function tensor:topk(k) end

---The largest element of a vector, the first of equals. On a row of logits the token id is
---index - 1.
---@return integer index
---@return number value
function tensor:argmax() end

---Nested tables.
---@return table
function tensor:totable() end

---Where the elements lie, for ffi.cast("float *", t:address()); keep the tensor alive meanwhile. Of tensors on
---the CPU; another raises.
---@return number
function tensor:address() end

---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function tensor:clone() end

---A copy in another type, or on another device: "cpu", "cuda", "cuda:N". On a GPU the methods compute there
---(totable, argmax and topk read the values back, linear packs its weight through the host),
---with the CPU's results, but for softmax, in f32 (relative error below 1e-5) and linear, in the kernels' order.
---When the GPU fails, all of them return nil, message, "DEVICE". Tensors on different devices do not mix: that
---raises. Other objects take tensors on the CPU.
---@param what fp8llm.dtype|"cpu"|"cuda"|string
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function tensor:to(what) end

---In place: plus a number, a tensor of the same shape, or a vector that meets every row.
---@param x number|fp8llm.tensor
---@return fp8llm.tensor self
function tensor:add(x) end

---In place: times a number, a tensor of the same shape, or a vector that meets every row.
---@param x number|fp8llm.tensor
---@return fp8llm.tensor self
function tensor:mul(x) end

---In place: the values of x, rounded to this tensor's type.
---@param x number|fp8llm.tensor
---@return fp8llm.tensor self
function tensor:copy(x) end

---In place, over the last dimension.
---@param temperature? number default 1
---@return fp8llm.tensor self
function tensor:softmax(temperature) end

---In place, on a row of logits: add to one token's. The id counts from 0, as token ids do.
---@param id integer
---@param value number
---@return fp8llm.tensor self
function tensor:add_at(id, value) end

---In place: value where mask is not 0, or at the listed indices.
---@param mask fp8llm.tensor|integer[]
---@param value number
---@return fp8llm.tensor self
function tensor:mask_fill(mask, value) end

---To E4M3 with one scale for the tensor, each row of a weight (channel), each row of an
---activation (token) or each 128 values of such a row (group): real value = code x scale.
---@param options? {scheme?: "token"|"tensor"|"channel"|"group"} default token
---@return fp8llm.tensor? codes e4m3
---@return fp8llm.tensor|string scales f32
---@return fp8llm.code? code
function tensor:quantize(options) end

---Codes times their scale: one number, one of each row, or one of each group of 128.
---@param scale number|fp8llm.tensor
---@param dtype? fp8llm.dtype default f32
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function tensor:dequantize(scale, dtype) end

---@class fp8llm.linear_options
---@field scale? number|fp8llm.tensor of an e4m3 weight: one, one a row, or [N,ceil(K/128)]: one for each 128 columns
---@field bias? fp8llm.tensor
---@field act? "none"|"token"|"static"|"group" how x is quantized before it is multiplied (default "none")
---@field x_scale? number with act = "static"
---@field out? "f32"|"bf16"|"f16" default f32

---x [T,K] times w [N,K] transposed -> [T,N], by the kernels that run the model.
---@param w fp8llm.tensor
---@param options? fp8llm.linear_options
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function tensor:linear(w, options) end

function tensor:close() end

-- ---- safetensors -----------------------------------------------------------------------------

---One file of tensors, mapped. #st is their number. A file that is made shorter meanwhile is an
---error (IO) of whatever reads it, here as in load, quantize and describe: the process goes on, for
---which a handler of SIGBUS is installed that passes on what is not about such a file.
---@class fp8llm.safetensors
local safetensors = {}

---@return string[]
function safetensors:names() end

---@param name string
---@return {dtype: string, shape: integer[], file: string}?
---@return string? message
---@return fp8llm.code? code
function safetensors:info(name) end

---A read-only copy of a tensor: it outlives the file. IO when the file has become shorter since it
---was opened.
---@param name string
---@return fp8llm.tensor?
---@return string? message
---@return fp8llm.code? code
function safetensors:tensor(name) end

function safetensors:close() end

-- Engine -------------------------------------------------------------------------------------

---@class fp8llm.engine_options
---@field names? string[] what OpenAI requests of submit may call the model (default: anything); see listen for sockets
---@field max_running? integer completions that hold KV pages at a time (default 256)
---@field max_queued? integer completions that may wait; beyond it submit says BUSY (default 1024)
---@field max_step_tokens? integer tokens of one step (default: the model's max_step_rows)
---@field max_unread? integer tokens a request without policy may be ahead of its reader (default 4096)
---@field page_timeout_ms? integer how long a request waits for KV pages that sequences hold (default 10000)
---@field policy_timeout_ms? integer silence after which a policy's request ends (default 30000)
---@field max_policy_rows? integer rows of logits for policies with policy_logits or logprobs, at a time; a request
--- beyond is BUSY (default 64)
---@field num_speculative_tokens? integer guesses a step by prompt lookup, 0 to 32; results stay the same (default 0)
---@field prompt_lookup_min? integer equal tokens a guess needs (default 2)
---@field prompt_lookup_max? integer tokens compared at most (default 4)
---@field priority_between_keys? boolean a request's priority counts before the keys' turns; else within its key only

---Many requests in one batch, computed by a thread of its own. One at a time or hundreds: each gets
---the tokens it would get alone. Engines and sequences of one model share its KV pages: a request
---that lacks some waits, and what is given back goes to the engine that has waited longest. One that waits for
---sequences fails after `page_timeout_ms` with LIMIT and who holds the pages.
---@param options? fp8llm.engine_options
---@return fp8llm.engine?
---@return string? message
---@return fp8llm.code? code
function model:engine(options) end

---@class fp8llm.engine
local engine = {}

---What the requests of all kinds may ask for.
---@class fp8llm.sampling_fields
---@field n? integer completions of the one prompt (default 1)
---@field max_tokens? integer else to the end of the context; 0 only to echo or score the prompt
---@field min_tokens? integer no end of text before so many tokens (default 0)
---@field temperature? number 0 is greedy (default 1)
---@field top_k? integer keep the k likeliest; 0 and -1 keep all (default 0)
---@field top_p? number keep the likeliest that hold p together (default 1)
---@field min_p? number keep those with p times the best probability (default 0)
---@field repetition_penalty? number on ids of prompt and output (default 1)
---@field frequency_penalty? number times the count in the output (default 0)
---@field presence_penalty? number on ids in the output (default 0)
---@field seed? integer same seed, same tokens; any integer of 64 bits; -1 is one from the system (default -1)
---@field logit_bias? table<integer, number> added to the logits, each in [-100, 100]
---@field allowed_token_ids? fp8llm.ids only these may be chosen
---@field order? string[] order of the sampler's stages
---@field stop? string|string[] texts that end the completion
---@field stop_token_ids? fp8llm.ids ids that end the completion
---@field bad_words? string|string[] texts that may not be completed
---@field include_stop_str_in_output? boolean keep the stop text or the token that ends the text (default false)
---@field ignore_eos? boolean end-of-text ids do not end it (default false)
---@field skip_special_tokens? boolean not in the text (default true)
---@field prompt_logprobs? integer the same for the prompt
---@field truncate_prompt_tokens? integer keep only the last so many of the prompt
---@field timeout_ms? integer end after so long
---@field priority? integer lower runs first (default 0)
---@field cache_salt? string prefixes are shared among equal salts only
---@field num_speculative_tokens? integer guesses a step of what followed the same tokens; else as the engine has it
---@field prompt_lookup_min? integer equal tokens a guess needs; else as the engine has it
---@field prompt_lookup_max? integer tokens compared at most; else as the engine has it

---Exactly one of messages, prompt, ids. Sampling parameters may also stand in a table `sampler`.
---@class (exact) fp8llm.request_options: fp8llm.sampling_fields
---@field messages? table[] a conversation, through the model's chat template
---@field prompt? string|fp8llm.ids text, or ids
---@field ids? fp8llm.ids
---@field tools? table[] for the chat template
---@field documents? table[] for the chat template
---@field chat_template_kwargs? table further variables of the chat template
---@field add_generation_prompt? boolean (default true)
---@field continue_final_message? boolean go on writing the last message (default false)
---@field add_special_tokens? boolean BOS and the like before a text (default true)
---@field parse_special? boolean see special tokens in the text (default false; in bodies of /v1/completions true)
---@field echo? boolean the completion begins with the prompt (default false)
---@field logprobs? integer log-probability of each token and of so many alternatives
---@field policy? boolean a policy chooses the tokens (default false)
---@field policy_candidates? integer the likeliest tokens that a policy is shown (default 20)
---@field policy_logits? boolean a policy is given whole rows of logits instead (default false)
---@field sampler? fp8llm.sampling_fields

---Never blocks. BUSY: the queue is full; LIMIT: the prompt does not fit, or all rows of policies are lent.
---A request is a table or its JSON text, where a custom_id is ignored. With a kind, `request` is the body of an OpenAI
---request, which is read, checked and answered by the code that serves sockets: also lists of prompts, the model's own
---defaults and names. Give the text as it came: a table knows no order of keys, no {} beside [] and no 1.0.
---@param request fp8llm.request_options|table|string
---@param kind? "own"|"completion"|"chat" (default "own")
---@param defaults? fp8llm.request_options of kind own: members that the request does not have
---@return fp8llm.request|fp8llm.answer|nil
---@return string? message
---@return fp8llm.code? code
---@return string? param the member at fault, of OpenAI requests
function engine:submit(request, kind, defaults) end

---The answer to an OpenAI request. Its events are those of src/serve/serve.h; null in them is that of fp8llm.json.
---It may be read at any time, or never: it waits for nobody.
---@class fp8llm.answer
---@field kind "completion"|"chat"
---@field start table what its first line says: stream, choices, prompt_tokens, model, ...
local answer = {}

---The next event; false: none has come yet; nil: all have been read, or message and code.
---@return table|false|nil event
---@return string? message
---@return fp8llm.code? code
function answer:poll() end

---Until poll would not say false, or ms milliseconds passed.
---@param ms? integer (default: for ever)
---@return boolean ready
function answer:wait(ms) end

---for piece, event in answer:pieces() do ... end: the text of each event as it comes; event.i tells of which
---completion. What goes wrong raises.
---@return fun(): string?, table?
function answer:pieces() end

---What pieces gives next; nothing at the end.
---@param wait? fun(answer: fp8llm.answer) called instead of blocking
---@return string? piece
---@return table? event
function answer:next_piece(wait) end

---A file descriptor, for poll, epoll and event loops: readable while poll() would not say false. It is the answer's.
---@return integer?
---@return string? message
---@return fp8llm.code? code
function answer:fd() end

---@class fp8llm.read_result
---@field text string
---@field ids fp8llm.ids
---@field finish_reason "stop"|"length"|"timeout"|"cancelled" cancelled: on_piece said false
---@field stop_reason? integer|string the id or the text that ended it, but for the end of text
---@field prompt_tokens integer
---@field cached_tokens integer of the prompt, those not computed again
---@field completion_tokens integer
---@field prompt_seconds number until the first token
---@field decode_steps integer
---@field decode_seconds number

---Waits for all that is to come of a single completion.
---@param hooks? {on_piece?: fun(piece: string, event: table): boolean?, wait?: fun(answer: fp8llm.answer)}
---@return fp8llm.read_result?
---@return string? message
---@return fp8llm.code? code
function answer:read(hooks) end

---Waits for the end; each completion is one event then, whatever has been read before.
---@return {choices: table[], usage: table}?
---@return string? message
---@return fp8llm.code? code
function answer:result() end

---Waits for the end -> OpenAI's response object, as a server would send it; nil where a completion was broken off.
---@param options? {model_name?: string, id?: string} model_name: for bodies that name none
---@return table?
---@return string? message
---@return fp8llm.code? code
function answer:response(options) end

function answer:cancel() end

---What still runs is cancelled.
function answer:close() end

---for i, result, message, code in eng:map(list, function(item, i) return request end) do ... end
---Runs them together, gives results in the order of the list; nil and a message for one that was refused.
---@param list any[]
---@param make fun(item: any, i: integer): fp8llm.request_options
---@return fun(): integer?, table?, string?, fp8llm.code?
function engine:map(list, make) end

---@class fp8llm.listen_options
---@field names? string[] the model's names for clients; another one in a request is refused (default: any)
---@field policies? string[] names of policies that clients may choose: see step:policy
---@field row_policies? string[] those of them that work on whole rows: see policy_logits
---@field max_connections? integer (default 1024)
---@field max_request_bytes? integer (default 16 MiB)
---@field drain_ms? integer how long a stop lets generations finish (default 30000)
---@field signals? boolean SIGTERM and SIGINT stop it; call it from the main thread (default false)
---@field temperature_default? number for requests that say none, where the model says none either (default 1, OpenAI's)
---@field notify? string where systemd awaits READY=1: os.getenv "NOTIFY_SOCKET"

---Serve clients on a unix socket, from threads of the engine's own; the protocol is in src/serve/serve.h, its
---client for nginx in lua/resty/fp8llm.lua. While it listens, steps waits for requests to come.
---@param path string of the socket, at most 90 bytes; "unix:" before it is ignored
---@param options? fp8llm.listen_options
---@return true?
---@return string? message
---@return fp8llm.code? code
function engine:listen(path, options) end

---Iterator over completions of all requests that wait for a policy, until no request is left, and none can
---come through a socket.
---@return fun(): fp8llm.step?
function engine:steps() end

---Now: running and parked (completions), queued (requests), kv_pages, kv_pages_used. Since the engine
---was made: requests, finished, steps, preemptions, prompt_tokens (computed), cached_tokens,
---output_tokens, prefix_queries and prefix_hits (pages, of the whole model), draft_tokens and
---accepted_tokens (guesses checked, and right), device_tokens (of output_tokens, those a GPU drew from
---logits that stayed there), thread_s (processor time of its thread), and of step_s
---the seconds before and after the model (schedule_s) and of choosing tokens (sample_s). Histograms of
---seconds: step_s, queue_s (until the first row), first_token_s, inter_token_s, total_s, policy_s (parked
---to answered).
---@return table<string, number|fp8llm.histogram>
function engine:stats() end

---@class fp8llm.histogram
---@field count integer
---@field sum number
---@field le number[] upper bounds of the buckets
---@field n integer[] how many were at most that: cumulative, as Prometheus has it

---A file descriptor that is readable when any request has news; clear_fd makes it wait again.
---@return integer
function engine:fd() end
function engine:clear_fd() end

---No more requests; those there are cancelled, or with `drain` finished first.
---@param drain? boolean
function engine:close(drain) end

---@class fp8llm.event
---@field t fp8llm.ids new tokens; with echo those of the prompt first
---@field d string new text, whole characters
---@field i integer which completion, from 0
---@field lp? number[] with logprobs; 0 for the first token of an echoed prompt, which nothing predicts
---@field top? table[] with logprobs > 0: for each token a list of {id, logprob}
---@field fin? "stop"|"length"|"cancelled"|"timeout"|"error" it is the completion's last
---@field reason? integer|string the id or the text that ended it
---@field message? string of an error
---@field code? fp8llm.code of an error

---@class fp8llm.request
local request = {}

---What is new; false when nothing is yet; nil when all has been read.
---@return fp8llm.event|false|nil
function request:poll() end

---Wait for news, at most ms milliseconds.
---@param ms? integer (default: as long as it takes)
---@return boolean there_is_news
function request:wait(ms) end

---A file descriptor, for poll, epoll and event loops: readable while poll() would not say false. It is the request's.
---@return integer?
---@return string? message
---@return fp8llm.code? code
function request:fd() end

---for piece, event in req:pieces() do ... end
---@return fun(): string?, fp8llm.event?
function request:pieces() end

---Wait for the end: everything of every completion, whatever was read before.
---@return {choices: fp8llm.event[], usage: table, prompt_logprobs: number[]?, prompt_top: table[]?}?
---@return string? message
---@return fp8llm.code? code
function request:result() end

---prompt_tokens, completion_tokens, cached_tokens, queue_s, first_token_s, total_s.
---@return table<string, number>
function request:usage() end

---Iterator over the completions of this request that wait for a policy, until it ends. A policy that is
---alone makes the step after its answer here, on the caller's thread; if nobody comes back for the next
---completion, the engine makes it within 20 ms.
---@return fun(): fp8llm.step?
function request:steps() end

---Ends within one step, also while it waits in the queue.
function request:cancel() end

---A request that is closed (or collected) is cancelled.
function request:close() end

---One token to be chosen. With `policy_logits` the row of logits is `step.logits`, a tensor that is
---writable until an answer, even a refused one, closes it. A step that is dropped without an answer ends its
---completion with an error; using one that has been answered raises.
---@class fp8llm.step
---@field logits fp8llm.tensor
local step = {}

---The likeliest tokens, descending; without policy_logits.
---@return fp8llm.ids ids
---@return number[] logits
function step:candidates() end

---Any id may be accepted, candidate or not.
---@param id integer
---@return integer? id
---@return number|string|nil logprob when the request has logprobs: under the row as it is now
---@return fp8llm.code? code CANCELLED: the completion has ended
function step:accept(id) end

---Let the request's own sampler choose: from the row as it is now, or without policy_logits what it
---would have chosen without a policy. With `logits`: from the candidates with these instead of theirs.
---@param logits? number[]
---@return integer? id
---@return number|string|nil logprob
---@return fp8llm.code? code
function step:sample(logits) end

---End the completion here.
---@return boolean?
---@return string? message
---@return fp8llm.code? code
function step:stop() end

---@return fp8llm.ids prompt
---@return fp8llm.ids completion so far
function step:history() end

---Which completion of its request, from 0.
---@return integer
function step:index() end

---The number of its request, in the order of submission, from 0.
---@return integer
function step:arrival() end

---The name of the policy that a client of engine:listen chose.
---@return string?
function step:policy() end

---End the completion with an error, unless it has been answered.
function step:fail() end

return fp8llm
