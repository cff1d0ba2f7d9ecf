/* fp8llm.supervise: the processes of the command serve. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "binding/binding.h"
#include "util/process.h"

enum { MAX_PROCESSES = 64, MAX_ARGS = 128 };

static int signal_number(lua_State *L, const char *name) {
    if (!strcmp(name, "TERM")) return SIGTERM;
    if (!strcmp(name, "QUIT")) return SIGQUIT;
    return fl_raise(L, "stop: TERM or QUIT expected, got '%s'", name);
}

/* The command at the top of the stack: {word, ..., stop = "TERM"}.  Its words live in a userdata
 * that takes its place. */
static void read_command(lua_State *L, fl_process *p) {
    fl_check_type(L, -1, LUA_TTABLE);
    const int command = lua_gettop(L);
    size_t n;
    const char *stop = "TERM";
    fl_opt_string(L, command, "stop", &stop);
    p->stop_signal = signal_number(L, stop);
    const char **argv = fl_check_strings(L, command, "command", MAX_ARGS, &n);
    if (!n) fl_raise(L, "a command has 1 to %d words", MAX_ARGS);
    p->argv = (char *const *)argv;
    lua_replace(L, command);
    lua_settop(L, command);
}

/* fp8llm.supervise({{word, ..., stop=}, ...}, grace_s)
 *     -> 0 | index of the one that ended by itself, its status | nil, message, CODE */
static int l_supervise(lua_State *L) {
    fl_process p[MAX_PROCESSES] = {{0}};
    fl_err err;
    int first;
    fl_check_type(L, 1, LUA_TTABLE);
    const int64_t grace_s = fl_check_int(L, 2);
    const size_t n = lua_rawlen(L, 1);
    if (n > MAX_PROCESSES) fl_raise(L, "at most %d processes", MAX_PROCESSES);
    if (!(grace_s >= 0 && grace_s <= 86400)) fl_arg_error(L, 2, "0 to 86400 seconds expected");
    luaL_checkstack(L, MAX_PROCESSES + 8, NULL);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        read_command(L, &p[i]);
    }
    if (fl_process_supervise(p, n, (int)grace_s, &first, &err)) return fl_push_err(L, &err);
    lua_pushinteger(L, first + 1);
    if (first < 0) return 1;
    const int status = p[first].status;
    lua_pushinteger(L, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return 2;
}

/* fp8llm.lock(path) -> true | nil, message, CODE */
static int l_lock(lua_State *L) {
    fl_err err;
    if (fl_process_lock(fl_check_string(L, 1), &err)) return fl_push_err(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* fp8llm.check_port(host, port) -> true | nil, message, CODE */
static int l_check_port(lua_State *L) {
    fl_err err;
    const char *const host = fl_check_string(L, 1);
    const int64_t port = fl_check_int(L, 2);
    if (port < 1 || port > 65535) fl_arg_error(L, 2, "1 to 65535 expected");
    if (fl_process_check_port(host, (int)port, &err)) return fl_push_err(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

void fl_register_supervise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"supervise", l_supervise}, {"lock", l_lock}, {"check_port", l_check_port}, {NULL, NULL}};
    fl_set_functions(L, functions);
}
