#include "util/prompt.h"

#include <dlfcn.h>
#include <locale.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "util/terminal.h"

/* What is used of libedit's interface, which is that of its histedit.h. */
enum { EL_PROMPT = 0, EL_EDITOR = 2, EL_SIGNAL = 3, EL_HIST = 10, EL_GETCFN = 13 };
enum { H_SETSIZE = 1, H_ENTER = 10 };
typedef struct {
    int number;
    const char *text;
} history_event;

static struct {
    void *(*init)(const char *, FILE *, FILE *, FILE *);
    int (*set)(void *, int, ...);
    const char *(*gets)(void *, int *);
    void *(*history_init)(void);
    int (*history)(void *, history_event *, int, ...);
    void *line, *past;
} edit;

static const char *shown = "";
static bool interrupted;

/* The next byte of standard input; -1: its end, or an interrupt.  An interrupt that comes just before poll is
 * noticed when that gives up. */
static int next_byte(void) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    unsigned char c;
    for (;;) {
        if ((interrupted = fl_interrupt_take())) return -1;
        if (poll(&in, 1, 500) > 0) return read(STDIN_FILENO, &c, 1) == 1 ? c : -1;
    }
}

/* Of a character in UTF-8. */
static int next_character(void *line, wchar_t *out) {
    (void)line;
    int c = next_byte();
    if (c < 0) return 0;
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    if (more) c &= 0x3f >> more;
    while (more-- > 0) {
        const int next = next_byte();
        if (next < 0) return 0;
        c = c << 6 | (next & 0x3f);
    }
    *out = (wchar_t)c;
    return 1;
}

static const char *prompt_text(void *line) {
    (void)line;
    return shown;
}

static void *find_library(void) {
    static const char *const names[] = {"libedit.so.2", "libedit.so.0", "libedit.so"};
    void *library = NULL;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names) && !library; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

static bool open_edit(void) {
    static bool tried;
    if (tried) return edit.line != NULL;
    tried = true;
    void *library = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? find_library() : NULL;
    if (!library) return false;
    *(void **)&edit.init = dlsym(library, "el_init");
    *(void **)&edit.set = dlsym(library, "el_set");
    *(void **)&edit.gets = dlsym(library, "el_gets");
    *(void **)&edit.history_init = dlsym(library, "history_init");
    *(void **)&edit.history = dlsym(library, "history");
    if (!edit.init || !edit.set || !edit.gets || !edit.history_init || !edit.history) return false;
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    history_event event;
    if (!(edit.past = edit.history_init())) return false;
    edit.history(edit.past, &event, H_SETSIZE, 1000);
    if (!(edit.line = edit.init("fp8llm", stdin, stdout, stderr))) return false;
    edit.set(edit.line, EL_PROMPT, prompt_text);
    edit.set(edit.line, EL_EDITOR, "emacs");
    edit.set(edit.line, EL_SIGNAL, 0);
    edit.set(edit.line, EL_HIST, edit.history, edit.past);
    edit.set(edit.line, EL_GETCFN, next_character);
    return true;
}

fl_prompt_result fl_prompt(const char *text, fl_bytes *line) {
    interrupted = false;
    shown = text;
    if (open_edit()) {
        int n = 0;
        const char *typed = edit.gets(edit.line, &n);
        if (interrupted) return FL_PROMPT_INTERRUPTED;
        if (!typed || n <= 0) return FL_PROMPT_END;
        fl_bytes_put(line, typed, strcspn(typed, "\r\n"));
        return FL_PROMPT_LINE;
    }
    fputs(text, stdout);
    fflush(stdout);
    int c;
    bool any = false;
    while ((c = next_byte()) >= 0 && c != '\n') {
        const char byte = (char)c;
        any = true;
        fl_bytes_put(line, &byte, 1);
    }
    if (interrupted) return FL_PROMPT_INTERRUPTED;
    return c < 0 && !any ? FL_PROMPT_END : FL_PROMPT_LINE;
}

void fl_prompt_remember(const char *line) {
    history_event event;
    if (open_edit()) edit.history(edit.past, &event, H_ENTER, line);
}
