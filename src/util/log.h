/* log.h - messages for the operator, not for the program: warnings about a
 * checkpoint, which backend was chosen.  Thread-safe. */
#ifndef FL_UTIL_LOG_H
#define FL_UTIL_LOG_H

#include "util/err.h"

typedef enum { FL_LOG_ERROR, FL_LOG_WARN, FL_LOG_INFO, FL_LOG_DEBUG } fl_log_level;

/* Level from FP8LLM_LOG (error|warn|info|debug), default warn; sink stderr. */
void fl_log(fl_log_level level, const char *fmt, ...) FL_PRINTF(2, 3);

/* Replace the sink; NULL restores stderr.  Call before threads start. */
typedef void (*fl_log_sink)(fl_log_level level, const char *msg);
void fl_log_set_sink(fl_log_sink sink);

/* Messages of the calling thread go to fn instead; NULL ends that. */
typedef void (*fl_log_listener)(void *ctx, fl_log_level level, const char *msg);
void fl_log_capture(fl_log_listener fn, void *ctx);

#endif
