#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "serve/serve_priv.h"
#include "util/clock.h"
#include "util/mem.h"
#include "util/thread.h"

enum { EVENTS = 64, COMPUTE_NICE = 10, FULL_MS = 1000, WAITING_REQUESTS = 8 /* of full size */ };

static double now_ms(void) {
    return fl_now() * 1e3;
}

void fl_server_wake(fl_server *s) {
    const uint64_t one = 1;
    while (write(s->wake, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
}

static int watch(fl_server *s, int fd, int *tag, fl_err *err) {
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};
    if (!epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev)) return FL_OK;
    return fl_fail(err, FL_E_IO, "epoll: %s", strerror(errno));
}

/* ---- the io thread ---- */

static void accept_all(fl_server *s) {
    for (;;) {
        int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (fd < 0) {
            /* Without a free descriptor the listener would be ready for ever. */
            s->full = errno != EAGAIN && errno != EWOULDBLOCK;
            return;
        }
        if (s->n_conns < s->max_connections) {
            fl_conn_open(s, fd);
            continue;
        }
        fl_refusal why = {.retry_after = 1};
        fl_bytes text = {0};
        fl_fail(&why.err, FL_E_BUSY, "server: %lld connections, limit %lld", (long long)s->n_conns,
                (long long)s->max_connections);
        fl_put_error(&text, &why);
        if (!text.failed) send(fd, text.data, text.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        fl_bytes_free(&text);
        close(fd);
    }
}

/* The listener is watched unless there is no room. */
static void watch_listener(fl_server *s, bool *watched) {
    const bool want = s->listener >= 0 && !s->full;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &s->listener};
    if (want == *watched || s->listener < 0) return;
    if (!epoll_ctl(s->epoll, want ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, s->listener, &ev))
        *watched = want;
}

static void begin_stop(fl_server *s, bool drain) {
    fl_socket_close(s);
    if (!s->stopping) fl_socket_notify(s, "STOPPING=1");
    s->stopping = true;
    s->deadline = drain ? now_ms() + (double)s->drain_ms : 0;
    for (fl_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        bool idle = c->state == FL_CONN_READING && c->sent == c->out.len;
        if (idle || !drain) fl_conn_drop(s, c);
    }
}

/* A person's second Ctrl-C does not wait any more. */
static void on_signal(fl_server *s) {
    struct signalfd_siginfo info;
    if (read(s->signals, &info, sizeof(info)) != sizeof(info)) return;
    if (!s->stopping || info.ssi_signo == SIGINT) begin_stop(s, !s->stopping);
}

static void take_done(fl_server *s) {
    pthread_mutex_lock(&s->lock);
    fl_conn *c = s->done;
    s->done = NULL;
    pthread_mutex_unlock(&s->lock);
    for (fl_conn *next; c; c = next) {
        next = c->queued;
        fl_conn_done(s, c);
    }
}

static void on_wake(fl_server *s) {
    uint64_t ignored;
    while (read(s->wake, &ignored, sizeof(ignored)) < 0 && errno == EINTR) {
    }
    take_done(s);
    for (fl_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        fl_conn_pump(s, c);
    }
    const int stop = atomic_load(&s->stop);
    if (stop == 2 || (stop == 1 && !s->stopping)) begin_stop(s, stop == 1);
}

/* Milliseconds until the stop is over, -1: no stop.  Descriptors that others hold come back
 * without a word: look again after a while. */
static int time_left(fl_server *s) {
    if (!s->stopping) return s->full ? FULL_MS : -1;
    const double left = s->deadline - now_ms();
    if (left > 0) return (int)left + 1;
    for (fl_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        fl_conn_drop(s, c);
    }
    fl_conn_sweep(s);
    return -1; /* what is left comes back from the worker */
}

static void *io_main(void *server) {
    fl_server *s = server;
    bool listening = true;
    while (!s->stopping || s->conns) {
        struct epoll_event ev[EVENTS];
        const int wait = time_left(s);
        if (s->stopping && !s->conns) break;
        int n = epoll_wait(s->epoll, ev, EVENTS, wait);
        if (n == 0) s->full = false;
        for (int i = 0; i < n; i++) {
            void *what = ev[i].data.ptr;
            if (what == &s->listener)
                accept_all(s);
            else if (what == &s->wake)
                on_wake(s);
            else if (what == &s->signals)
                on_signal(s);
            else
                fl_conn_event(s, what, ev[i].events);
        }
        fl_conn_sweep(s);
        watch_listener(s, &listening);
    }
    fl_engine_attach(s->engine, -1);
    return NULL;
}

/* ---- making and ending ---- */

/* Compute threads give way to the one that talks: where all cores compute, a token otherwise
 * waits for a time slice before it goes out. */
static void yield_to_io(void) {
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks) return;
    for (struct dirent *d; (d = readdir(tasks));) {
        const id_t tid = (id_t)strtoul(d->d_name, NULL, 10);
        if (tid && tid != (id_t)syscall(SYS_gettid) &&
            getpriority(PRIO_PROCESS, tid) < COMPUTE_NICE)
            setpriority(PRIO_PROCESS, tid, COMPUTE_NICE);
    }
    closedir(tasks);
}

static int copy_names(char ***out, const char *const *names, const char *what, fl_err *err) {
    size_t n = 0;
    while (names && names[n]) n++;
    *out = fl_alloc_array(n + 1, sizeof(**out));
    for (size_t i = 0; *out && i < n; i++) {
        if (!((*out)[i] = fl_strdup(names[i]))) return fl_fail(err, FL_E_NOMEM, "%s", what);
    }
    return *out ? FL_OK : fl_fail(err, FL_E_NOMEM, "%s", what);
}

static void free_names(char **names) {
    for (size_t i = 0; names && names[i]; i++) fl_free(names[i]);
    fl_free(names);
}

static int set_limit(int64_t *out, int64_t given, int64_t fallback, const char *name, fl_err *err) {
    if (given < 0 || given > 1 << 30)
        return fl_fail(err, FL_E_ARG, "%s: %lld, need 1 to %d", name, (long long)given, 1 << 30);
    *out = given ? given : fallback;
    return FL_OK;
}

static int copy_paths(fl_server *s, const fl_server_options *o, fl_err *err) {
    enum { PATH_BYTES = 90, PID_DIGITS = 24 };
    const size_t n = o->path ? strlen(o->path) : 0;
    if (!o->path) return FL_OK;
    if (!n || n > PATH_BYTES)
        return fl_fail(err, FL_E_ARG, "listen: a path of %zu bytes, need 1 to %d", n, PATH_BYTES);
    s->path = fl_strdup(o->path);
    s->temporary = fl_alloc(n + PID_DIGITS);
    if (o->notify) s->notify = fl_strdup(o->notify);
    if (!s->path || !s->temporary || (o->notify && !s->notify))
        return fl_fail(err, FL_E_NOMEM, "server");
    snprintf(s->temporary, n + PID_DIGITS, "%s.%d", o->path, (int)getpid());
    return FL_OK;
}

static int copy_options(fl_server *s, const fl_server_options *o, fl_err *err) {
    int rc = copy_paths(s, o, err);
    if (!rc) rc = copy_names(&s->names, o->names, "names", err);
    if (!rc) rc = copy_names(&s->policies, o->policies, "policies", err);
    if (!rc) rc = copy_names(&s->row_policies, o->row_policies, "policies", err);
    if (!rc) rc = set_limit(&s->max_connections, o->max_connections, 1024, "max_connections", err);
    if (!rc)
        rc = set_limit(&s->max_request_bytes, o->max_request_bytes, 16 << 20, "max_request_bytes",
                       err);
    s->max_waiting_bytes = WAITING_REQUESTS * s->max_request_bytes;
    if (!rc) rc = set_limit(&s->drain_ms, o->drain_ms, 30000, "drain_ms", err);
    return rc;
}

/* What requests are given that say nothing: the publisher's words, then the operator's. */
static int set_sampling(fl_server *s, const fl_model *m, const fl_server_options *o, fl_err *err) {
    fl_generation_config *g = &s->generation;
    *g = *fl_model_generation_config(m);
    if (!o->has_temperature) return FL_OK;
    if (!(o->temperature >= 0 && o->temperature <= 100))
        return fl_fail(err, FL_E_ARG, "temperature_default: need a number in [0, 100], got %.10g",
                       o->temperature);
    if (g->has_temperature || (g->has_do_sample && !g->do_sample)) return FL_OK;
    g->has_temperature = true;
    g->temperature = o->temperature;
    return FL_OK;
}

static int copy_text(fl_server *s, const fl_server_options *o, fl_err *err) {
    if (!o->tokenizer) return FL_OK;
    s->tokenizer = fl_tokenizer_ref(o->tokenizer);
    if (o->chat) s->chat = fl_template_ref(o->chat);
    if (o->chat_with_tools) s->chat_with_tools = fl_template_ref(o->chat_with_tools);
    s->prompter = (fl_prompter){.tokenizer = s->tokenizer,
                                .chat = s->chat,
                                .chat_with_tools = s->chat_with_tools,
                                .context = fl_engine_capacity(s->engine)};
    return fl_tokenizer_ctx_new(&s->prompter.ctx, s->tokenizer, err);
}

static int open_signals(fl_server *s, fl_err *err) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (s->signals < 0) return fl_fail(err, FL_E_IO, "signalfd: %s", strerror(errno));
    return watch(s, s->signals, &s->signals, err);
}

static int open_all(fl_server *s, bool with_signals, fl_err *err) {
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->epoll < 0 || s->wake < 0) return fl_fail(err, FL_E_IO, "server: %s", strerror(errno));
    int rc = watch(s, s->wake, &s->wake, err);
    if (!rc && with_signals) rc = open_signals(s, err);
    if (!rc) rc = fl_socket_open(s, err);
    if (!rc) rc = watch(s, s->listener, &s->listener, err);
    return rc;
}

static int start_threads(fl_server *s, fl_err *err) {
    yield_to_io();
    int rc = fl_thread_start(&s->io, io_main, s, "fp8-io", err);
    if (rc) return rc;
    s->io_started = true;
    fl_engine_attach(s->engine, s->wake);
    if ((rc = fl_thread_start(&s->worker, fl_job_thread, s, "fp8-worker", err))) return rc;
    s->worker_started = true;
    return FL_OK;
}

int fl_server_new(fl_server **out, fl_engine *e, fl_model *m, const fl_server_options *o,
                  fl_err *err) {
    fl_server *s = fl_alloc(sizeof(*s));
    if (!s) return fl_fail(err, FL_E_NOMEM, "server");
    s->epoll = s->wake = s->listener = s->signals = -1;
    s->todo_end = &s->todo;
    s->owner = getpid();
    s->engine = fl_engine_ref(e);
    fl_model_info_get(m, &s->info);
    snprintf(s->quantization, sizeof(s->quantization), "%s", s->info.quantization);
    s->info.quantization = s->quantization;
    s->vocab = fl_model_config(m)->vocab_size;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    int rc = copy_options(s, o, err);
    if (!rc) rc = set_sampling(s, m, o, err);
    if (!rc) rc = copy_text(s, o, err);
    if (!rc && o->path) rc = open_all(s, o->signals, err);
    if (!rc && o->path) rc = start_threads(s, err);
    if (!rc && o->path) rc = fl_socket_publish(s, err);
    if (rc) {
        fl_server_free(s, false);
        return rc;
    }
    fl_socket_notify(s, "READY=1");
    *out = s;
    return FL_OK;
}

/* In a forked child the threads are not there, and socket and requests are the parent's. */
static void stop_threads(fl_server *s, bool drain) {
    if (s->io_started) {
        atomic_store(&s->stop, drain ? 1 : 2);
        fl_server_wake(s);
    }
    /* The io thread waits for connections that the worker has. */
    if (s->io_started) pthread_join(s->io, NULL);
    pthread_mutex_lock(&s->lock);
    s->quit = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (s->worker_started) pthread_join(s->worker, NULL);
}

void fl_server_free(fl_server *s, bool drain) {
    if (!s) return;
    if (s->owner == getpid()) {
        stop_threads(s, drain);
        fl_socket_close(s);
        pthread_mutex_destroy(&s->lock);
        pthread_cond_destroy(&s->work);
    } else if (s->listener >= 0) {
        close(s->listener);
    }
    if (s->signals >= 0) close(s->signals);
    if (s->wake >= 0) close(s->wake);
    if (s->epoll >= 0) close(s->epoll);
    while (s->accounts) {
        fl_account *a = s->accounts;
        s->accounts = a->next;
        fl_free(a);
    }
    fl_tokenizer_ctx_free(s->prompter.ctx);
    fl_tokenizer_unref(s->tokenizer);
    fl_template_unref(s->chat);
    fl_template_unref(s->chat_with_tools);
    free_names(s->names);
    free_names(s->policies);
    free_names(s->row_policies);
    fl_free(s->path);
    fl_free(s->temporary);
    fl_free(s->notify);
    fl_engine_unref(s->engine);
    fl_free(s);
}
