/* Lines that come once, and results that are not lost unseen. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tap.h"
#include "util/lines.h"
#include "util/mem.h"
#include "util/sink.h"

static const char *path = "build/spec/test-lines.txt";

static void put_file(const char *text, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, text, n) != (ssize_t)n) exit(2);
    close(fd);
}

/* The lines of a text with a bar behind each; *whole: what whole_bytes said in the end. */
static char *joined(const char *text, size_t n, uint64_t *whole) {
    static char out[256];
    fl_lines *l;
    fl_err err;
    const char *line;
    size_t len;
    fl_line_result r = FL_LINE;
    put_file(text, n);
    out[0] = 0;
    if (fl_lines_open(&l, path, &err)) return NULL;
    while (!fl_lines_next(l, true, &line, &len, &r, &err) && r == FL_LINE) {
        strncat(out, len ? line : "", len);
        strcat(out, "|");
    }
    *whole = fl_lines_whole_bytes(l);
    fl_lines_free(l);
    return out;
}

static void test_lines(void) {
    static const struct {
        const char *text, *want;
        uint64_t whole;
    } cases[] = {{"", "", 0},
                 {"a", "a|", 0},
                 {"a\nb\n", "a|b|", 4},
                 {"a\r\n\r\nb", "a||b|", 5},
                 {"\xef\xbb\xbf"
                  "a\nb\n",
                  "a|b|", 7},
                 {"\n\n", "||", 2}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t whole = 0;
        const char *got = joined(cases[i].text, strlen(cases[i].text), &whole);
        check(got && !strcmp(got, cases[i].want) && whole == cases[i].whole,
              "lines of text %zu are '%s', whole %llu", i, got ? got : "-",
              (unsigned long long)whole);
    }
}

static void test_pipe(void) {
    int ends[2];
    char name[32];
    fl_lines *l;
    fl_err err;
    const char *line;
    size_t n;
    int64_t count = 0;
    fl_line_result r;
    if (pipe(ends)) exit(2);
    snprintf(name, sizeof(name), "/dev/fd/%d", ends[0]);
    int rc = fl_lines_open(&l, name, &err);
    check(!rc && !fl_lines_count(l, &count, &err) && count == -1,
          "lines of a pipe are not counted");
    check(!fl_lines_next(l, false, &line, &n, &r, &err) && r == FL_LINE_LATER, "none yet");
    check(write(ends[1], "half", 4) == 4 && !fl_lines_next(l, false, &line, &n, &r, &err) &&
              r == FL_LINE_LATER,
          "half a line is none");
    check(write(ends[1], "\n", 1) == 1 && !fl_lines_next(l, true, &line, &n, &r, &err) &&
              r == FL_LINE && n == 4 && !memcmp(line, "half", 4),
          "then it comes");
    close(ends[1]);
    check(!fl_lines_next(l, true, &line, &n, &r, &err) && r == FL_LINE_END, "and ends");
    fl_lines_free(l);
    close(ends[0]);
    check(fl_lines_open(&l, "build", &err) == FL_E_IO, "a folder: %s", err.msg);
    check(fl_lines_open(&l, "build/none", &err) == FL_E_IO, "no file: %s", err.msg);
}

static void test_sink(void) {
    fl_sink *s, *other;
    fl_err err = {0};
    struct stat st;
    put_file("ab", 2);
    check(!fl_sink_open(&s, path, &err) && fl_sink_is_regular(s) && fl_sink_is(s, path), "opens");
    check(fl_sink_open(&other, path, &err) == FL_E_BUSY, "once: %s", err.msg);
    check(!fl_sink_put(s, "cd", 2, &err) && !fl_sink_close(s, &err) && !stat(path, &st) &&
              st.st_size == 4,
          "writes behind what is there");
    check(!fl_sink_open(&s, path, &err) && !fl_sink_cut(s, 1, &err) &&
              !fl_sink_put(s, "z", 1, &err),
          "cuts");
    check(!truncate(path, 1) && fl_sink_close(s, &err) == FL_E_IO, "a file that lost some: %s",
          err.msg);
    check(!fl_sink_open(&s, "/dev/full", &err) && fl_sink_put(s, "abc", 3, &err) == FL_E_IO,
          "a full device: %s", err.msg);
    check(fl_sink_put(s, "abc", 3, NULL) == FL_E_IO && fl_sink_cut(s, 0, &err) == FL_E_ARG,
          "a failure stays");
    check(fl_sink_close(s, &err) == FL_E_IO && strstr(err.msg, "0 of 3 bytes"), "to the end: %s",
          err.msg);
    check(fl_sink_open(&s, "build/none/x", &err) == FL_E_IO, "no folder: %s", err.msg);
}

int main(void) {
    mkdir("build/spec", 0777);
    test_lines();
    test_pipe();
    test_sink();
    remove(path);
    return tap_done();
}
