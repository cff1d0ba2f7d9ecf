#!/bin/sh
# limited_test.sh - what limited.sh ends, and what it leaves alone; TAP.
n=0
try() { # SENTENCE STATUS PATTERN ENVIRONMENT LIMIT COMMAND
    n=$((n + 1))
    said=$(env $4 sh spec/support/limited.sh "$5" sh -c "$6" 2>&1)
    status=$?
    if [ $status = "$2" ] && echo "$said" | grep -q "$3"; then echo "ok $n - $1"; else
        echo "not ok $n - $1"
        echo "# status $status: $said"
    fi
}
busy='while :; do :; done'
try "a command that ends keeps its status" 3 hello STILL=9 1 'echo hello; exit 3'
try "one that sleeps for longer than its limit is left alone" 0 up STILL=9 1 'sleep 1.5; echo up'
try "one that spins is ended" 124 'used [1-9]' STILL=9 1 "$busy"
try "so are its children, together" 124 'used [1-9]' STILL=9 1 "($busy) & ($busy) & wait"
try "what its ended children used counts" 124 'used [1-9]' STILL=9 1 \
    'while :; do sh -c "i=0; while [ \$i -lt 20000 ]; do i=\$((i + 1)); done"; done'
try "one that waits for ever is ended" 124 'stood still for 1 s' STILL=1 5 'sleep 60'
ps -e -o args | grep -q '^sh -c while :' && left=yes
n=$((n + 1))
[ -z "$left" ] && echo "ok $n - nothing of them is left" || echo "not ok $n - nothing of them is left"
echo "1..$n"
