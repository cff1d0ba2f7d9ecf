/* meter PORT STREAMS SECONDS BODY - so many requests at a time, for so long, to an engine of
 * spec/nginx/paced.c, whose tokens are the times they were made: prints, as one line of numbers, how
 * many streams were begun and how many were complete, how many tokens came, and how long they took
 * on the way: median, 99th percentile, longest, in microseconds. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_US = 5000000, KEEP = 64 };
static const char before[] = "\"text\":\"", end[] = "data: [DONE]";

typedef struct stream {
    int fd;
    char tail[KEEP]; /* the end of what came before */
    size_t n_tail;
    bool done;
} stream;

static uint32_t count[LONGEST_US + 1]; /* tokens by microseconds on the way */

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* The times behind one `"text":"`; false: cut off, look again when more has come. */
static bool take_times(const char *p, const char *limit, int64_t now) {
    const char *quote = memchr(p, '"', (size_t)(limit - p));
    if (!quote) return false;
    while (p < quote) {
        char *next;
        const int64_t took = now - strtoll(p, &next, 10);
        count[took < 0 ? 0 : took > LONGEST_US ? LONGEST_US : took]++;
        for (p = next; p < quote && *p == ' '; p++) {
        }
    }
    return true;
}

static void take(stream *s, char *data, size_t n, int64_t now) {
    const char *from = data, *limit = data + n, *hit;
    while ((hit = memmem(from, (size_t)(limit - from), before, sizeof(before) - 1))) {
        if (!take_times(hit + sizeof(before) - 1, limit, now)) break;
        from = hit + sizeof(before) - 1;
    }
    s->done = s->done || memmem(data, n, end, sizeof(end) - 1);
    /* What a later read may complete: from an open text, else the last few bytes. */
    if (!hit) hit = limit - from > (long)sizeof(before) ? limit - sizeof(before) : from;
    s->n_tail = (size_t)(limit - hit);
    if (s->n_tail > KEEP) exit(1);
    memmove(s->tail, hit, s->n_tail);
}

/* false: the connection has ended. */
static bool receive(stream *s) {
    static char data[65536 + KEEP + 1];
    memcpy(data, s->tail, s->n_tail);
    ssize_t n = recv(s->fd, data + s->n_tail, 65536, MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    const size_t all = s->n_tail + (size_t)n;
    data[all] = 0;
    if (n) take(s, data, all, now_us());
    return n > 0;
}

static int open_stream(int port, const char *body) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char head[256];
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&a, sizeof(a))) return -1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    int n = snprintf(head, sizeof(head),
                     "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                     "Content-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n",
                     strlen(body));
    bool sent = send(fd, head, (size_t)n, 0) == n &&
                send(fd, body, strlen(body), 0) == (ssize_t)strlen(body);
    return sent ? fd : -1;
}

static int64_t percentile(double part, uint64_t total) {
    uint64_t seen = 0;
    for (int64_t us = 0; us <= LONGEST_US; us++) {
        seen += count[us];
        if (total && (double)seen >= part * (double)total) return us;
    }
    return 0;
}

typedef struct meter {
    int port, epoll, open, begun, complete;
    const char *body;
} meter;

static bool begin(meter *m, stream *s) {
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s};
    *s = (stream){.fd = open_stream(m->port, m->body)};
    if (s->fd < 0 || epoll_ctl(m->epoll, EPOLL_CTL_ADD, s->fd, &ev)) return false;
    m->begun++;
    m->open++;
    return true;
}

/* false: silence, or no connection. */
static bool run(meter *m, int64_t until) {
    while (m->open) {
        struct epoll_event ev[64];
        int got = epoll_wait(m->epoll, ev, 64, 20000);
        if (got == 0) return false;
        for (int i = 0; i < got; i++) {
            stream *s = ev[i].data.ptr;
            if (receive(s)) continue;
            close(s->fd);
            m->open--;
            m->complete += s->done;
            if (now_us() < until && !begin(m, s)) return false;
        }
    }
    return true;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    meter m = {.port = atoi(argv[1]), .epoll = epoll_create1(0), .body = argv[4]};
    const int n = atoi(argv[2]);
    const int64_t until = now_us() + 1000000 * (int64_t)atoi(argv[3]);
    stream *all = calloc((size_t)n + 1, sizeof(*all));
    uint64_t total = 0;
    if (n < 1 || !all || m.epoll < 0) return 2;
    for (int i = 0; i < n; i++) {
        if (!begin(&m, &all[i])) return 1;
    }
    if (!run(&m, until)) return 1;
    for (int64_t us = 0; us <= LONGEST_US; us++) total += count[us];
    printf("%d %d %llu %lld %lld %lld\n", m.begun, m.complete, (unsigned long long)total,
           (long long)percentile(0.5, total), (long long)percentile(0.99, total),
           (long long)percentile(1, total));
    free(all);
    return 0;
}
