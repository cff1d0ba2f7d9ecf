/* One request without a socket: a connection that lies in memory and goes through the worker's code. */
#include "serve/exchange.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "serve/serve_priv.h"
#include "util/mem.h"
#include "util/notice.h"

enum { SLICE_MS = 20 }; /* of waiting for one of several requests */

struct fl_desk {
    atomic_int refs;
    fl_server *server; /* without socket and threads */
};

struct fl_exchange {
    fl_desk *desk;
    fl_conn conn;  /* fd -1 */
    bool answered; /* everything has been written into conn.out */
    int fd;        /* of fl_exchange_fd, or -1 */
};

int fl_desk_new(fl_desk **out, fl_engine *e, fl_model *m, const fl_server_options *o, fl_err *err) {
    fl_server_options options = *o;
    fl_desk *d = fl_alloc(sizeof(*d));
    if (!d) return fl_fail(err, FL_E_NOMEM, "desk");
    options.path = NULL;
    int rc = fl_server_new(&d->server, e, m, &options, err);
    if (rc) {
        fl_free(d);
        return rc;
    }
    atomic_init(&d->refs, 1);
    *out = d;
    return FL_OK;
}

void fl_desk_unref(fl_desk *d) {
    if (!d || atomic_fetch_sub(&d->refs, 1) != 1) return;
    fl_server_free(d->server, false);
    fl_free(d);
}

int fl_exchange_new(fl_exchange **out, fl_desk *d, const char *op, const char *body, size_t n,
                    fl_err *err) {
    fl_exchange *x = fl_alloc(sizeof(*x));
    if (!x) return fl_fail(err, FL_E_NOMEM, "request");
    fl_conn *c = &x->conn;
    c->fd = -1;
    x->fd = -1;
    c->state = FL_CONN_PREPARING;
    fl_bytes_puts(&c->in, "0 "); /* the number is read by the socket's side only */
    c->count = c->in.len;
    fl_bytes_printf(&c->in, "{\"op\":\"%s\"}\n", op);
    c->line = c->in.len;
    fl_bytes_put(&c->in, body, n);
    c->body = n;
    if (c->in.failed) {
        fl_bytes_free(&c->in);
        fl_free(x);
        return fl_fail(err, FL_E_NOMEM, "body: %zu bytes", n);
    }
    atomic_fetch_add(&d->refs, 1);
    x->desk = d;
    fl_job_run(d->server, c);
    fl_bytes_free(&c->in);
    /* Its reader may come late or only at the end: it never waits for one. */
    for (int64_t i = 0; i < c->generation.n_requests; i++)
        fl_request_collect(c->generation.requests[i]);
    c->generation.stream = true;
    x->answered = !c->generation.requests;
    *out = x;
    return FL_OK;
}

static void watch(fl_exchange *x, int fd) {
    const fl_generation *g = &x->conn.generation;
    for (int64_t i = 0; i < g->n_requests; i++) fl_request_watch(g->requests[i], fd);
}

int fl_exchange_fd(fl_exchange *x, int *fd, fl_err *err) {
    if (x->fd < 0) {
        int rc = fl_notice_open(&x->fd, err);
        if (rc) return rc;
        fl_notice_set(x->fd);
        watch(x, x->fd);
    }
    *fd = x->fd;
    return FL_OK;
}

/* In a child after a fork the engine may only be let go of. */
static void leave(fl_generation *g) {
    for (int64_t i = 0; i < g->n_requests; i++) fl_request_unref(g->requests[i]);
    fl_free(g->requests);
    fl_free(g->written);
    fl_update_free(&g->update);
}

void fl_exchange_free(fl_exchange *x) {
    if (!x) return;
    if (x->fd >= 0) {
        watch(x, -1);
        close(x->fd);
    }
    if (fl_engine_check_owner(x->desk->server->engine, NULL))
        leave(&x->conn.generation);
    else
        fl_generation_end(x->desk->server, &x->conn.generation);
    fl_bytes_free(&x->conn.out);
    fl_desk_unref(x->desk);
    fl_free(x);
}

int fl_exchange_check_owner(const fl_exchange *x, fl_err *err) {
    return fl_engine_check_owner(x->desk->server->engine, err);
}

void fl_exchange_cancel(fl_exchange *x) {
    const fl_generation *g = &x->conn.generation;
    for (int64_t i = 0; i < g->n_requests; i++) fl_request_cancel(g->requests[i]);
}

static int write_news(fl_exchange *x, fl_err *err) {
    fl_conn *c = &x->conn;
    if (!x->answered && !c->out.len) x->answered = fl_events_write(x->desk->server, c);
    return c->out.failed ? fl_fail(err, FL_E_NOMEM, "no memory for the answer") : FL_OK;
}

int fl_exchange_read(fl_exchange *x, fl_bytes *lines, bool *over, fl_err *err) {
    fl_notice_clear(x->fd);
    int rc = write_news(x, err);
    if (rc) return rc;
    if (x->conn.out.len || x->answered) fl_notice_set(x->fd);
    fl_bytes_free(lines);
    *lines = x->conn.out;
    x->conn.out = (fl_bytes){0};
    *over = x->answered;
    return FL_OK;
}

/* The first request that is not over, NULL: all are. */
static fl_request *unfinished(const fl_generation *g) {
    for (int64_t i = 0; i < g->n_requests; i++) {
        if (!fl_request_ended(g->requests[i])) return g->requests[i];
    }
    return NULL;
}

bool fl_exchange_wait(fl_exchange *x, int64_t ms) {
    const fl_generation *g = &x->conn.generation;
    for (;;) {
        fl_request *r = unfinished(g); /* before the news are written: one that ends now has some */
        if (write_news(x, NULL) || x->answered || x->conn.out.len || !r) return true;
        if (!ms) return false;
        const int64_t slice = g->n_requests == 1 || (ms >= 0 && ms < SLICE_MS) ? ms : SLICE_MS;
        fl_request_wait(r, slice);
        if (ms > 0) ms -= slice;
    }
}

void fl_exchange_rewind(fl_exchange *x) {
    fl_generation *g = &x->conn.generation;
    for (int64_t i = 0; i < g->n_requests; i++) fl_request_wait_end(g->requests[i]);
    x->conn.out.len = 0;
    if (!g->requests) return;
    memset(g->written, 0, (size_t)(g->n_requests * g->n) * sizeof(*g->written));
    g->n_unfinished = g->n_requests * g->n;
    g->stream = false;
    x->answered = false;
    fl_notice_set(x->fd);
}
