#!/bin/sh
# limited.sh SECONDS COMMAND... - runs the command, which may use so many seconds of processor time, with all that it
# starts: on a busy machine a test takes longer, not more.  What uses none for STILL seconds (300) waits for something
# that does not come.  Both are ended, with status 124 and a line that says which it was.
limit=$1
shift
still=${STILL:-300}
ticks=$(getconf CLK_TCK)
setsid "$@" &
session=$!
trap 'kill -KILL -$session; exit 130' INT TERM

# Clock ticks of the session, those of ended children in those of their parents.  The name in a stat line may hold
# anything, so that fields count from behind its bracket.
used() {
    cat /proc/[0-9]*/stat 2>/dev/null |
        awk -v s=$session '{ sub(/^.*\) /, ""); if ($4 == s) n += $12 + $13 + $14 + $15 } END { print n + 0 }'
}

end() {
    echo "DID NOT FINISH: $1: $command"
    for p in $(awk -v s=$session '{ pid = $1; sub(/^.*\) /, ""); if ($4 == s) print pid }' /proc/[0-9]*/stat 2>/dev/null); do
        kill -KILL "$p" 2>/dev/null
    done
    exit 124
}

command=$*
most=0
quiet=0
pause=0.05
while kill -0 $session 2>/dev/null; do
    sleep $pause
    now=$(used)
    if [ "$now" -gt "$most" ]; then
        most=$now
        quiet=$(date +%s)
    fi
    [ $most -le $((limit * ticks)) ] || end "used $((most / ticks)) s of processor time, limit $limit"
    [ "$quiet" = 0 ] && quiet=$(date +%s)
    [ $(($(date +%s) - quiet)) -lt "$still" ] || end "stood still for $still s"
    [ $pause = 1 ] || pause=$( [ $pause = 0.05 ] && echo 0.2 || echo 1)
done
wait $session
