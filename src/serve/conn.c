/* A connection as the io thread sees it: bytes in, bytes out, and whose turn it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/serve_priv.h"
#include "util/mem.h"

enum { COUNT_DIGITS = 12 }; /* of the bytes of a body */

static void watch(fl_server *s, fl_conn *c, uint32_t events) {
    struct epoll_event ev = {.events = events, .data.ptr = c};
    if (c->events == events) return;
    const int op = !events ? EPOLL_CTL_DEL : c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(s->epoll, op, c->fd, &ev) && events) {
        fl_conn_drop(s, c); /* no memory in the kernel */
        return;
    }
    c->events = events;
}

static void count(fl_server *s, int64_t *what, int64_t n) {
    pthread_mutex_lock(&s->lock);
    *what += n;
    pthread_mutex_unlock(&s->lock);
}

void fl_conn_open(fl_server *s, int fd) {
    fl_conn *c = fl_alloc(sizeof(*c));
    if (!c) {
        close(fd);
        return;
    }
    c->fd = fd;
    c->in.limit = (size_t)s->max_request_bytes + 2 * FL_SERVE_LINE_BYTES;
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    s->n_conns++;
    count(s, &s->stats.connections, 1);
    watch(s, c, EPOLLIN | EPOLLRDHUP);
}

void fl_conn_drop(fl_server *s, fl_conn *c) {
    if (c->gone) return;
    c->gone = true;
    if (c->events) watch(s, c, 0);
    close(c->fd);
    s->full = false;
    if (c->state == FL_CONN_PREPARING) return; /* dies when the worker gives it back */
    c->queued = s->dead;
    s->dead = c;
}

void fl_conn_sweep(fl_server *s) {
    while (s->dead) {
        fl_conn *c = s->dead;
        s->dead = c->queued;
        if (c->prev)
            c->prev->next = c->next;
        else
            s->conns = c->next;
        if (c->next) c->next->prev = c->prev;
        fl_generation_end(s, &c->generation);
        s->waiting_bytes -= c->accounted;
        fl_bytes_free(&c->in);
        fl_bytes_free(&c->out);
        fl_free(c);
        s->n_conns--;
        count(s, &s->stats.connections, -1);
    }
}

/* Send what there is; false: the connection is gone. */
static bool flush(fl_server *s, fl_conn *c) {
    while (c->sent < c->out.len) {
        ssize_t n =
            send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
        if (n < 0) {
            fl_conn_drop(s, c);
            return false;
        }
        c->sent += (size_t)n;
    }
    c->sent = c->out.len = 0;
    if (c->out.cap > FL_SERVE_LINE_BYTES) fl_bytes_free(&c->out);
    return true;
}

/* What connections hold of requests is accounted for, so that many large ones cannot take all memory.
 * What one read takes is free, as connections are limited. */
static void account(fl_server *s, fl_conn *c) {
    const int64_t held = c->in.cap > 2 * FL_SERVE_LINE_BYTES ? (int64_t)c->in.cap : 0;
    s->waiting_bytes += held - c->accounted;
    c->accounted = held;
}

static void refuse_waiting(fl_server *s, fl_conn *c) {
    fl_refusal why = {.retry_after = 1};
    fl_fail(&why.err, FL_E_BUSY, "server: requests of %lld bytes wait, limit %lld",
            (long long)s->waiting_bytes, (long long)s->max_waiting_bytes);
    fl_put_error(&c->out, &why);
    pthread_mutex_lock(&s->lock);
    s->stats.busy++;
    pthread_mutex_unlock(&s->lock);
    fl_bytes_free(&c->in);
    account(s, c);
    c->searched = 0;
    c->closing = true;
}

static void refuse_input(fl_server *s, fl_conn *c, const char *what) {
    fl_refusal why = {.param = NULL};
    fl_fail(&why.err, FL_E_LIMIT, "request: %s, at most %lld bytes", what,
            (long long)s->max_request_bytes);
    fl_put_error(&c->out, &why);
    c->closing = true;
}

/* "27 {...}": a number before the line counts the bytes of a body after it.  false: no number
 * that we take. */
static bool read_count(const fl_server *s, fl_conn *c) {
    size_t i = 0, n = 0;
    for (; i < c->line && i < COUNT_DIGITS && c->in.data[i] >= '0' && c->in.data[i] <= '9'; i++)
        n = n * 10 + (size_t)(c->in.data[i] - '0');
    if (!i) return true;
    c->body = n;
    c->count = i + 1;
    return c->count < c->line && c->in.data[i] == ' ' && c->line <= FL_SERVE_LINE_BYTES &&
           n <= (size_t)s->max_request_bytes;
}

/* A whole request in `in`?  Sets count, line and body. */
static bool has_request(fl_server *s, fl_conn *c) {
    if (c->searched == c->in.len) return false;
    if (!c->line) {
        const char *end = memchr(c->in.data + c->searched, '\n', c->in.len - c->searched);
        c->searched = c->in.len;
        if (!end) {
            if (c->in.len > (size_t)s->max_request_bytes)
                refuse_input(s, c, "a line without an end");
            return false;
        }
        c->line = (size_t)(end - c->in.data) + 1;
        if (!read_count(s, c)) {
            refuse_input(s, c, "a number, which counts the bytes of a body after the line");
            return false;
        }
    }
    c->searched = c->in.len;
    return c->in.len >= c->line + c->body;
}

static void drop_request(fl_conn *c);

/* Everything sent, nothing running: what next? */
static void go_on(fl_server *s, fl_conn *c) {
    if (!flush(s, c)) return;
    const uint32_t out = c->sent < c->out.len ? EPOLLOUT : 0;
    if (!out && c->state == FL_CONN_READING) {
        if (c->closing || s->stopping) {
            fl_conn_drop(s, c);
            return;
        }
        if (has_request(s, c)) {
            if (fl_job_quick(s, c)) {
                if (c->out.failed) { /* no memory for the answer */
                    fl_conn_drop(s, c);
                    return;
                }
                drop_request(c);
                go_on(s, c);
                return;
            }
            c->state = FL_CONN_PREPARING;
            fl_job_queue(s, c);
        }
        if (c->closing) { /* has_request refused it */
            go_on(s, c);
            return;
        }
    }
    const bool reads = c->state == FL_CONN_READING && !out;
    watch(s, c, EPOLLRDHUP | out | (reads ? EPOLLIN : 0));
}

static void receive(fl_server *s, fl_conn *c) {
    char *at = fl_bytes_reserve(&c->in, FL_SERVE_LINE_BYTES);
    if (!at) {
        fl_conn_drop(s, c); /* no memory */
        return;
    }
    ssize_t n = recv(c->fd, at, FL_SERVE_LINE_BYTES, MSG_DONTWAIT);
    c->in.len -= FL_SERVE_LINE_BYTES - (n > 0 ? (size_t)n : 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        fl_conn_drop(s, c);
        return;
    }
    account(s, c);
    if (c->accounted && s->waiting_bytes > s->max_waiting_bytes && s->waiting_bytes > c->accounted)
        refuse_waiting(s, c);
    go_on(s, c);
}

void fl_conn_event(fl_server *s, fl_conn *c, uint32_t events) {
    if (c->gone) return;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        fl_conn_drop(s, c);
    else if (events & EPOLLIN)
        receive(s, c);
    else if (events & EPOLLOUT && c->state == FL_CONN_RUNNING)
        fl_conn_pump(s, c);
    else
        go_on(s, c);
}

/* The next request, if any, comes to the front of `in`. */
static void drop_request(fl_conn *c) {
    const size_t used = c->line + c->body;
    c->in.len -= used;
    memmove(c->in.data, c->in.data + used, c->in.len);
    if (!c->in.len && c->in.cap > FL_SERVE_LINE_BYTES) {
        size_t limit = c->in.limit;
        fl_bytes_free(&c->in);
        c->in.limit = limit;
    }
    c->searched = c->count = c->line = c->body = 0;
}

void fl_conn_done(fl_server *s, fl_conn *c) {
    c->state = c->generation.requests ? FL_CONN_RUNNING : FL_CONN_READING;
    if (c->gone) {
        c->queued = s->dead;
        s->dead = c;
        return;
    }
    drop_request(c);
    account(s, c);
    if (c->out.failed) { /* no memory for the answer */
        fl_conn_drop(s, c);
        return;
    }
    if (c->state == FL_CONN_RUNNING)
        fl_conn_pump(s, c);
    else
        go_on(s, c);
}

void fl_conn_pump(fl_server *s, fl_conn *c) {
    if (c->gone || c->state != FL_CONN_RUNNING) return;
    while (flush(s, c) && !c->out.len && c->state == FL_CONN_RUNNING) {
        if (fl_events_write(s, c)) {
            fl_generation_end(s, &c->generation);
            c->state = FL_CONN_READING;
        }
        if (c->out.failed) { /* no memory for an event */
            fl_conn_drop(s, c);
            return;
        }
        if (!c->out.len) break; /* nothing new */
    }
    if (!c->gone) go_on(s, c);
}
