/* serve_priv.h - the inside of fl_server, for src/serve only. */
#ifndef FL_SERVE_SERVE_PRIV_H
#define FL_SERVE_SERVE_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "serve/openai_request.h"
#include "serve/serve.h"
#include "util/bytes.h"

enum {
    FL_SERVE_LINE_BYTES = 65536,    /* read at a time; what an idle connection may keep */
    FL_SERVE_OUT_BYTES = 256 * 1024 /* unsent bytes after which events wait in the engine */
};

typedef struct fl_account { /* of a key; under the lock */
    struct fl_account *next;
    int64_t running;     /* completions */
    double minute_began; /* the minute in which `tokens` were used */
    int64_t tokens;
    uint64_t turn; /* of the worker's, the last in which it read a request of this account */
    char name[];
} fl_account;

typedef struct fl_generation { /* what a connection runs */
    fl_request **requests;     /* [n_requests], one a prompt; NULL: nothing runs */
    int64_t n_requests, n;     /* n: completions of each */
    int64_t completions;       /* as charged to the account */
    int64_t n_unfinished;      /* completions whose end has not been written */
    bool *written;             /* [n_requests * n]: the first event */
    int64_t bytes;             /* written of an answer that is not streamed */
    bool too_large;            /* ... which has been refused for them */
    bool stream, return_token_ids;
    fl_account *account; /* NULL: nobody's */
    fl_update update;
} fl_generation;

typedef enum {
    FL_CONN_READING,   /* awaits a request; the io thread's */
    FL_CONN_PREPARING, /* in the worker's hands: out and generation are the worker's */
    FL_CONN_RUNNING,   /* the io thread's again, until the last event is written */
} fl_conn_state;

typedef struct fl_conn {
    struct fl_conn *next, *prev; /* of the server's list */
    struct fl_conn *queued;      /* in todo or done; later among the dead */
    fl_account *payer;           /* whose turn it waits for in todo; NULL: nobody's */
    int fd;
    uint32_t events; /* what epoll watches; 0: not in epoll */
    fl_conn_state state;
    atomic_bool gone; /* the peer has closed: free it when it is ours */
    bool closing;     /* nothing more is read: close when everything is sent */
    fl_bytes in;
    int64_t accounted; /* of the server's waiting_bytes */
    size_t searched;   /* bytes of `in` without a line end */
    size_t count, line,
        body; /* a request: "27 " before the line, all of the line, what follows it */
    fl_bytes out;
    size_t sent;
    fl_generation generation;
} fl_conn;

typedef struct fl_server_stats { /* under the lock */
    int64_t connections, generations;
    uint64_t requests, refused, busy;
} fl_server_stats;

struct fl_server {
    fl_engine *engine;
    fl_model_info info;    /* asked once: the model's lock is busy while the engine steps */
    char quantization[64]; /* what info says of it */
    fl_generation_config generation;
    int64_t vocab;
    fl_tokenizer *tokenizer;
    fl_template *chat, *chat_with_tools;
    fl_prompter prompter; /* over these; its ctx is the worker's */
    char *path, *temporary, *notify;
    char **names, **policies, **row_policies; /* NULL-terminated */
    int64_t max_connections, max_request_bytes, max_waiting_bytes, drain_ms;
    pid_t owner;
    dev_t socket_dev; /* which file at `path` is ours */
    ino_t socket_ino;
    int epoll, listener, wake, signals; /* file descriptors, or -1 */
    bool io_started, worker_started;
    pthread_t io, worker;
    atomic_int stop; /* 0 no, 1 drain, 2 now */

    pthread_mutex_t lock; /* covers what follows up to `accounts` */
    pthread_cond_t work;
    fl_conn *todo, **todo_end, *done; /* todo: as they came; see fl_job_thread */
    uint64_t turn, nobodys_turn;      /* how many requests the worker has taken */
    bool quit;                        /* the worker's */
    fl_server_stats stats;
    fl_account *accounts;

    /* The io thread's own. */
    fl_conn *conns, *dead;
    int64_t n_conns;
    int64_t waiting_bytes; /* of requests larger than a line that are read or wait for the worker */
    bool full, stopping;   /* full: no file descriptor was left, the listener waits */
    double deadline;       /* of the stop */
};

/* server.c */
void fl_server_wake(fl_server *s); /* the io thread, from any other */

/* socket.c */
int fl_socket_open(fl_server *s, fl_err *err);    /* bound to a name of its own, listening */
int fl_socket_publish(fl_server *s, fl_err *err); /* ... and now under its path */
void fl_socket_close(fl_server *s);               /* idempotent */
void fl_socket_notify(const fl_server *s, const char *state);

/* conn.c: the io thread's side of a connection. */
void fl_conn_open(fl_server *s, int fd);
void fl_conn_event(fl_server *s, fl_conn *c, uint32_t events);
void fl_conn_done(fl_server *s, fl_conn *c); /* back from the worker */
void fl_conn_pump(fl_server *s, fl_conn *c); /* write the news of what it runs */
void fl_conn_drop(fl_server *s, fl_conn *c); /* close; what it runs is cancelled */
void fl_conn_sweep(fl_server *s);            /* free the dead */

/* job.c: the worker reads the request that lies in c->in and writes the answer, or starts a
 * generation; then the connection is in `done`. */
void fl_job_run(fl_server *s, fl_conn *c);
void *fl_job_thread(void *server);
/* Health and figures, which never wait behind others: answered here.  false: the worker's. */
bool fl_job_quick(fl_server *s, fl_conn *c);
/* Puts c, which has a whole request, into `todo`. */
void fl_job_queue(fl_server *s, fl_conn *c);
void fl_generation_end(fl_server *s, fl_generation *g); /* cancels; idempotent */

/* reply.c: JSON on the wire. */
void fl_put_text(fl_bytes *out, const char *text, size_t n); /* bad UTF-8 becomes U+FFFD */
void fl_put_ids(fl_bytes *out, const int32_t *ids, int64_t n);
void fl_put_token(fl_bytes *out, const fl_tokenizer *t, int32_t id); /* text, or list of bytes */
typedef struct fl_refusal {
    fl_err err;
    const char *param;   /* NULL: none */
    int64_t retry_after; /* seconds; 0: not said */
} fl_refusal;
void fl_put_error(fl_bytes *out, const fl_refusal *why);

/* events.c: what is new of c's generation, as far as out may grow.  true: that was all. */
bool fl_events_write(fl_server *s, fl_conn *c);

/* answers.c: what is no generation.  body: NULL when there was none. */
int fl_answer(fl_server *s, const char *op, const fl_jv *body, fl_bytes *out, fl_refusal *why);

#endif
