#include "util/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/err.h"

static fl_log_sink sink;
static _Thread_local fl_log_listener listener;
static _Thread_local void *listener_ctx;
static const char *const level_name[] = {"error", "warn", "info", "debug"};

static int threshold(void) {
    const char *want = getenv("FP8LLM_LOG");
    for (int i = 0; want && i <= FL_LOG_DEBUG; i++) {
        if (!strcmp(want, level_name[i])) return i;
    }
    return FL_LOG_WARN;
}

void fl_log(fl_log_level level, const char *fmt, ...) {
    if (!listener && (int)level > threshold()) return;
    char msg[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    fl_printable(msg);
    if (listener)
        listener(listener_ctx, level, msg);
    else if (sink)
        sink(level, msg);
    else
        fprintf(stderr, "fp8llm: %s: %s\n", level_name[level], msg);
}

void fl_log_capture(fl_log_listener fn, void *ctx) {
    listener = fn;
    listener_ctx = ctx;
}

void fl_log_set_sink(fl_log_sink s) {
    sink = s;
}
