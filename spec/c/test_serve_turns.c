/* Whose request the worker reads next, among those that wait. */
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "serve/serve_priv.h"
#include "tap.h"
#include "util/clock.h"
#include "util/mem.h"

enum { MOST = 16 };

/* Queues a request of each of these keys ('-': none), lets the worker take them all, and writes the keys in the order
 * in which it did.  Their clients have gone, so that it only takes them. */
static void order_of(const char *keys, char *out) {
    fl_server s = {.wake = eventfd(0, 0)};
    static fl_conn conns[MOST];
    const size_t n = strlen(keys);
    size_t done = 0;
    s.todo_end = &s.todo;
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.work, NULL);
    for (size_t i = 0; i < n; i++) {
        fl_conn *c = &conns[i];
        *c = (fl_conn){.gone = true, .body = 2, .count = 2};
        if (keys[i] == '-')
            fl_bytes_puts(&c->in, "2 {\"op\":\"tokenize\"}\n");
        else
            fl_bytes_printf(&c->in, "2 {\"op\":\"tokenize\",\"key\":{\"name\":\"%c\"}}\n", keys[i]);
        c->line = c->in.len;
        fl_bytes_puts(&c->in, "{}");
        fl_job_queue(&s, c);
    }
    pthread_create(&s.worker, NULL, fl_job_thread, &s);
    for (const double until = fl_now() + 20; done < n && fl_now() < until;) {
        pthread_mutex_lock(&s.lock);
        done = 0;
        for (const fl_conn *c = s.done; c; c = c->queued) done++;
        pthread_mutex_unlock(&s.lock);
    }
    pthread_mutex_lock(&s.lock);
    s.quit = true;
    pthread_cond_signal(&s.work);
    pthread_mutex_unlock(&s.lock);
    pthread_join(s.worker, NULL);
    out[done] = 0;
    for (const fl_conn *c = s.done; c; c = c->queued)
        out[--done] = keys[c - conns]; /* the last is first */
    for (size_t i = 0; i < n; i++) fl_bytes_free(&conns[i].in);
    for (fl_account *a = s.accounts, *next; a; a = next) {
        next = a->next;
        fl_free(a);
    }
    close(s.wake);
    pthread_cond_destroy(&s.work);
    pthread_mutex_destroy(&s.lock);
}

int main(void) {
    static const char *const cases[][2] = {
        {"aaaabb", "ababaa"}, {"aaaa", "aaaa"},     {"aaabc", "abcaa"},
        {"aa--b-", "a-ba--"}, {"-a-a-a", "-a-a-a"}, {"abcabcc", "abcabcc"},
    };
    char order[MOST];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        order_of(cases[i][0], order);
        check(!strcmp(order, cases[i][1]), "keys take turns: %s as %s, got %s", cases[i][0],
              cases[i][1], order);
    }
    return tap_done();
}
