/* Classes sink and lines, and the terminal of a command. */
#include "binding/binding.h"
#include "util/lines.h"
#include "util/prompt.h"
#include "util/sink.h"
#include "util/terminal.h"

#define MT_SINK  "fp8llm.sink"
#define MT_LINES "fp8llm.lines"

/* fp8llm.sink([path]) -> sink | nil, message, CODE */
static int l_sink(lua_State *L) {
    const char *path = (lua_isnoneornil(L, 1) ? NULL : fl_check_string(L, 1));
    fl_sink *s;
    fl_err err;
    void **box = fl_box_new(L, MT_SINK);
    if (fl_sink_open(&s, path, &err)) return fl_push_err(L, &err);
    *box = s;
    return 1;
}

static int answer(lua_State *L, int rc, const fl_err *err) {
    if (rc) return fl_push_err(L, err);
    lua_pushboolean(L, true);
    return 1;
}

/* sink:write(text) -> true | nil, message, CODE */
static int l_write(lua_State *L) {
    fl_sink *s = fl_box_check(L, 1, MT_SINK);
    size_t n;
    fl_err err;
    const char *text = fl_check_text(L, 2, &n);
    return answer(L, fl_sink_put(s, text, n, &err), &err);
}

/* sink:cut(bytes) -> true | nil, message, CODE */
static int l_cut(lua_State *L) {
    fl_sink *s = fl_box_check(L, 1, MT_SINK);
    const int64_t bytes = fl_check_int(L, 2);
    fl_err err;
    if (!(bytes >= 0)) fl_arg_error(L, 2, "not negative expected");
    return answer(L, fl_sink_cut(s, (uint64_t)bytes, &err), &err);
}

/* sink:is([path]) -> whether they are one file */
static int l_is(lua_State *L) {
    lua_pushboolean(L, fl_sink_is(fl_box_check(L, 1, MT_SINK),
                                  (lua_isnoneornil(L, 2) ? NULL : fl_check_string(L, 2))));
    return 1;
}

static int l_is_regular(lua_State *L) {
    lua_pushboolean(L, fl_sink_is_regular(fl_box_check(L, 1, MT_SINK)));
    return 1;
}

/* sink:close() -> true | nil, message, CODE; closed twice is fine */
static int l_sink_close(lua_State *L) {
    void **box = fl_box_raw(L, 1, MT_SINK);
    fl_sink *s = *box;
    fl_err err;
    *box = NULL;
    return answer(L, s ? fl_sink_close(s, &err) : FL_OK, &err);
}

static void free_sink(void *s) {
    fl_sink_free(s);
}

/* fp8llm.lines([path]) -> lines | nil, message, CODE */
static int l_lines(lua_State *L) {
    const char *path = (lua_isnoneornil(L, 1) ? NULL : fl_check_string(L, 1));
    fl_lines *l;
    fl_err err;
    void **box = fl_box_new(L, MT_LINES);
    if (fl_lines_open(&l, path, &err)) return fl_push_err(L, &err);
    *box = l;
    return 1;
}

/* lines:next([wait = true]) -> line | false, none yet | nil, no further one | nil, message, CODE */
static int l_next(lua_State *L) {
    fl_lines *l = fl_box_check(L, 1, MT_LINES);
    const bool wait = fl_check_bool(L, 2, true);
    const char *line;
    size_t n;
    fl_line_result result;
    fl_err err;
    if (fl_lines_next(l, wait, &line, &n, &result, &err)) return fl_push_err(L, &err);
    if (result == FL_LINE)
        lua_pushlstring(L, n ? line : "", n);
    else if (result == FL_LINE_LATER)
        lua_pushboolean(L, false);
    else
        lua_pushnil(L);
    return 1;
}

/* lines:count() -> how many not blank lines are to come; -1: not known | nil, message, CODE */
static int l_count(lua_State *L) {
    int64_t n;
    fl_err err;
    if (fl_lines_count(fl_box_check(L, 1, MT_LINES), &n, &err)) return fl_push_err(L, &err);
    fl_push_number(L, (double)n);
    return 1;
}

static int l_whole_bytes(lua_State *L) {
    fl_push_number(L, (double)fl_lines_whole_bytes(fl_box_check(L, 1, MT_LINES)));
    return 1;
}

static void free_lines(void *l) {
    fl_lines_free(l);
}

/* fp8llm.terminal() -> columns of the terminal that stderr is | nil */
static int l_terminal(lua_State *L) {
    const int columns = fl_terminal_columns();
    if (!columns) return 0;
    lua_pushinteger(L, columns);
    return 1;
}

/* fp8llm.status([text]) */
static int l_status(lua_State *L) {
    fl_terminal_status((lua_isnoneornil(L, 1) ? NULL : fl_check_string(L, 1)));
    return 0;
}

/* fp8llm.catch_interrupts([advice]) */
static int l_catch_interrupts(lua_State *L) {
    fl_interrupt_catch(lua_isnoneornil(L, 1) ? NULL : fl_check_string(L, 1));
    return 0;
}

/* fp8llm.interactive() -> whether stdin, stdout and stderr are terminals */
static int l_interactive(lua_State *L) {
    lua_pushboolean(L, fl_terminal_interactive());
    return 1;
}

/* fp8llm.hold_interrupts(): the first one only sets what interrupted() tells, a second one ends the process */
static int l_hold_interrupts(lua_State *L) {
    (void)L;
    fl_interrupt_hold();
    return 0;
}

/* fp8llm.interrupted() -> whether there was one since the last call */
static int l_interrupted(lua_State *L) {
    lua_pushboolean(L, fl_interrupt_take());
    return 1;
}

/* fp8llm.prompt(text) -> line | false: interrupted | nil: end of input */
static int l_prompt(lua_State *L) {
    fl_bytes line = {0};
    const char *const text = fl_check_string(L, 1);
    const fl_prompt_result result = fl_prompt(text, &line);
    const bool failed = line.failed;
    if (result == FL_PROMPT_LINE && !failed)
        lua_pushlstring(L, fl_bytes_cstr(&line), line.len);
    else if (result == FL_PROMPT_INTERRUPTED)
        lua_pushboolean(L, false);
    else
        lua_pushnil(L);
    fl_bytes_free(&line);
    return 1;
}

/* fp8llm.remember(line) */
static int l_remember(lua_State *L) {
    fl_prompt_remember(fl_check_string(L, 1));
    return 0;
}

void fl_register_stream(lua_State *L) {
    static const luaL_Reg sink[] = {
        {"write", l_write},           {"cut", l_cut},          {"is", l_is},
        {"is_regular", l_is_regular}, {"close", l_sink_close}, {NULL, NULL}};
    static const luaL_Reg lines[] = {
        {"next", l_next}, {"count", l_count}, {"whole_bytes", l_whole_bytes}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"sink", l_sink},
                                         {"lines", l_lines},
                                         {"terminal", l_terminal},
                                         {"status", l_status},
                                         {"catch_interrupts", l_catch_interrupts},
                                         {"hold_interrupts", l_hold_interrupts},
                                         {"interrupted", l_interrupted},
                                         {"interactive", l_interactive},
                                         {"prompt", l_prompt},
                                         {"remember", l_remember},
                                         {NULL, NULL}};
    fl_set_functions(L, functions);
    static const fl_class_type sink_type = {MT_SINK, free_sink, NULL},
                               lines_type = {MT_LINES, free_lines, NULL};
    fl_class(L, &sink_type, sink, NULL);
    fl_class(L, &lines_type, lines, NULL);
}
