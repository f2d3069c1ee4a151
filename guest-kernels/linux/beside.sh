#!/bin/sh
# Rounds of work for a Linux VM beside others: processes, memory, pipes, and a look at a file that nobody may change. As
# many as `rounds` on the kernel's command line says, or for ever. Each says `beside: round N ok`, or why not.

fail() {
    echo "beside: round $round FAILED: $1"
    exit 1
}

dd if=/dev/urandom of=/tmp/kept bs=64k count=32 2>/dev/null
sum=$(md5sum </tmp/kept)
round=0
while [ "$round" != "$rounds" ]; do
    round=$((round + 1))
    left=20
    while [ "$left" -gt 0 ]; do
        busybox true || fail "a process ended with $?"
        left=$((left - 1))
    done
    dd if=/dev/zero of=/dev/null bs=16M count=1 2>/dev/null || fail "dd ended with $?"
    bytes=$(dd if=/dev/zero bs=64k count=80 2>/dev/null | wc -c)
    [ "$bytes" = 5242880 ] || fail "$bytes bytes came through a pipe"
    [ "$(md5sum </tmp/kept)" = "$sum" ] || fail "the file has changed"
    echo "beside: round $round ok"
done
