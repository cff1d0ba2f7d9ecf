#!/bin/sh
# lint.sh MODULE "COMPILER FLAGS" - the rules of the house, one TAP line each; run by `make lint`.
module=$1
compile=$2
count=0
failed=0

# rule SENTENCE COMMAND...: passes when the command succeeds; its output explains a failure.
rule() {
    sentence=$1
    shift
    count=$((count + 1))
    if said=$("$@" 2>&1); then
        echo "ok $count - $sentence"
    else
        failed=$((failed + 1))
        echo "not ok $count - $sentence"
        echo "$said" | sed 's/^/# /'
    fi
}

nothing() { # the output of a command must be empty
    found=$("$@")
    [ -z "$found" ] || { echo "$found"; return 1; }
}
top_level() {
    ls | grep -vxE 'rockspec|src|cuda|lua|examples|spec|build|Makefile|(README|CHANGELOG|CONTRIBUTING|SECURITY)\.md|LICENSE'
}
exports() {
    nm -D --defined-only "$module" | awk '{ print $3 }' | grep -v '^luaopen_'
}
libraries() {
    readelf -d "$module" | sed -n 's/.*NEEDED.*\[\(.*\)\].*/\1/p' |
        grep -vE '^(libm|libc|libdl|libpthread|ld-linux-x86-64)\.so'
}
stripped_size() {
    strip -o "$module.stripped" "$module" && size=$(wc -c <"$module.stripped")
    rm -f "$module.stripped"
    [ "$size" -lt 2097152 ] || { echo "$module: $size bytes stripped, limit 2097152"; return 1; }
}
headers_alone() {
    bad=0
    for h in src/*/*.h; do
        $compile -fsyntax-only -x c "$h" || bad=1
    done
    return $bad
}
c_files() {
    find src cuda spec/c spec/cuda spec/emu spec/fuzz spec/storm -name '*.[ch]' ! -name 'unicode_tab*'
}
formatted() {
    clang-format --dry-run -Werror $(c_files)
}
versions() {
    v=$(sed -n 's/.*FL_VERSION "\(.*\)"/\1/p' src/util/version.h)
    top=$(sed -n 's/^## \([0-9.]*\).*/\1/p' CHANGELOG.md | head -n 1)
    [ "$v" = "$top" ] || { echo "src/util/version.h: $v, CHANGELOG.md: $top"; return 1; }
    nothing grep -rnE "_VERSION *= *[\"'][0-9]" lua examples
}
unfinished() {
    grep -rnwE 'TO[D]O|FIX[M]E|X[X]X' src spec lua examples rockspec Makefile *.md
}
paths_exist() { # what a README names in backquotes with a folder in front
    for readme in *.md src/README.md spec/README.md src/quant/README.md lua/fp8llm/cmd/README.md examples/*.md \
        examples/*/*.md; do
        for path in $(grep -oE '`(src|spec|lua|examples|rockspec)/[A-Za-z0-9_./]*[A-Za-z0-9_]`' $readme | tr -d '`'); do
            case $path in *NAME*) ;; *) [ -e "$path" ] || echo "$readme: $path is not there" ;; esac
        done
    done
}
said_twice() { # headings, and lines long enough that no two are alike by chance; shown commands may be
    find . -name build -prune -o -name '*.md' -print | while read -r document; do
        awk -v document="$document" '(/^#/ || /^[^ ]/ && length > 40) && seen[$0]++ {
            print document ":" FNR ": again: " $0 }' "$document"
    done
}
shell_syntax() {
    for f in .ci/run lua/*.sh spec/*/*.sh; do sh -n "$f" || return 1; done
}

rule "the top level holds what it should" nothing top_level
rule "includes point down, files and functions are short" luajit spec/lint/layers.lua
rule "every header compiles alone" headers_alone
rule "the module exports luaopen_* only" nothing exports
rule "the module needs libc only" nothing libraries
rule "errors of the binding name their function" nothing grep -nE 'luaL_(error|arg|opt|check[^s]|checkstring)' src/binding/*.c
rule "the stripped module is under 2 MB" stripped_size
rule "C is laid out by clang-format" formatted
rule "Lua passes luacheck" luacheck -q --no-color lua examples spec rockspec/*.rockspec
rule "the version is stated once" versions
rule "nothing is marked unfinished" nothing unfinished
rule "READMEs name files that exist" nothing paths_exist
rule "documents say nothing twice" nothing said_twice
rule "shell scripts parse" shell_syntax
echo "1..$count"
[ $failed = 0 ]
