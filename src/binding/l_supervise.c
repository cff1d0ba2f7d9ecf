/* fp8llm.supervise: the processes of the command serve. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "binding/binding.h"
#include "util/process.h"

enum { MAX_PROCESSES = 64, MAX_ARGS = 128 };

/* The command at the top of the stack: {word, ..., stop = "TERM"}.  Its words live in a userdata
 * that takes its place. */
static int read_command(lua_State *L, fl_process *p, fl_err *err) {
    fl_check_type(L, -1, LUA_TTABLE);
    const int command = lua_gettop(L);
    size_t n;
    const char *stop = "TERM";
    fl_opt_string(L, command, "stop", &stop);
    p->stop_signal = !strcmp(stop, "QUIT") ? SIGQUIT : SIGTERM;
    if (strcmp(stop, "TERM") != 0 && strcmp(stop, "QUIT") != 0)
        return fl_fail(err, FL_E_ARG, "stop: need TERM or QUIT, got '%.60s'", stop);
    const char **argv = fl_check_strings(L, command, "command", MAX_ARGS, &n);
    if (!n) return fl_fail(err, FL_E_ARG, "command: need 1 to %d words, got none", MAX_ARGS);
    p->argv = (char *const *)argv;
    lua_replace(L, command);
    lua_settop(L, command);
    return FL_OK;
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
    int rc = FL_OK;
    if (n > MAX_PROCESSES)
        rc = fl_fail(&err, FL_E_ARG, "commands: at most %d, got %zu", MAX_PROCESSES, n);
    if (!rc && (grace_s < 0 || grace_s > 86400))
        rc = fl_fail(&err, FL_E_ARG, "grace_s: need 0 to 86400, got %lld", (long long)grace_s);
    luaL_checkstack(L, MAX_PROCESSES + 8, NULL);
    for (size_t i = 0; !rc && i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        rc = read_command(L, &p[i], &err);
    }
    if (rc) return fl_push_err(L, &err);
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
    if (port < 1 || port > 65535) {
        fl_fail(&err, FL_E_ARG, "port: need 1 to 65535, got %lld", (long long)port);
        return fl_push_err(L, &err);
    }
    if (fl_process_check_port(host, (int)port, &err)) return fl_push_err(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

void fl_register_supervise(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"supervise", l_supervise}, {"lock", l_lock}, {"check_port", l_check_port}, {NULL, NULL}};
    fl_set_functions(L, functions);
}
