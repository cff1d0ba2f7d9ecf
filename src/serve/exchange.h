/* exchange.h - OpenAI requests of the program that has the engine: what serve.h does for a socket's
 * clients, without a socket.
 *
 * The body goes through the very code that serves connections, on the calling thread, and is answered
 * by the same lines (serve.h).  A desk and its exchanges are used by one thread at a time. */
#ifndef FL_SERVE_EXCHANGE_H
#define FL_SERVE_EXCHANGE_H

#include "serve/serve.h"

typedef struct fl_desk fl_desk;
typedef struct fl_exchange fl_exchange;

/* Of the options names, policies, tokenizer and templates count; they are copied.  Exchanges
 * count one reference each. */
int fl_desk_new(fl_desk **out, fl_engine *e, fl_model *m, const fl_server_options *o, fl_err *err);
void fl_desk_unref(fl_desk *d);

/* op: "chat" or "completion"; body[0..n): JSON.  FL_E_NOMEM only: a refusal is a line like others.
 * A generation never waits for its reader. */
int fl_exchange_new(fl_exchange **out, fl_desk *d, const char *op, const char *body, size_t n,
                    fl_err *err);
void fl_exchange_free(fl_exchange *x); /* cancels what still runs; NULL is fine */
void fl_exchange_cancel(fl_exchange *x);
int fl_exchange_check_owner(const fl_exchange *x, fl_err *err); /* as fl_engine_check_owner */

/* Whole lines that are new, in place of what `lines` holds; maybe none.  The first line is "start" or
 * "error".  *over: nothing comes after these.  FL_E_NOMEM. */
int fl_exchange_read(fl_exchange *x, fl_bytes *lines, bool *over, fl_err *err);
/* Until there is something to read or nothing will come, or ms passed (< 0: for ever): which? */
bool fl_exchange_wait(fl_exchange *x, int64_t ms);
/* *fd: readable while there is something to read, or nothing will come; the exchange's. */
int fl_exchange_fd(fl_exchange *x, int *fd, fl_err *err);
/* Waits for the end; then the events are read anew, one for each completion, whole. */
void fl_exchange_rewind(fl_exchange *x);

#endif
