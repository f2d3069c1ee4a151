#!/bin/sh
# A workload for a Linux VM with busybox and nothing else. Each part says `workload: NAME ok`, or why not.

fail() {
    echo "workload: $1 FAILED: $2"
    exit 1
}

# 400 processes, eight at a time.
storm() {
    left=50
    while [ "$left" -gt 0 ]; do
        busybox true || return 1
        left=$((left - 1))
    done
}
for worker in 1 2 3 4 5 6 7 8; do
    storm &
    workers="$workers $!"
done
for worker in $workers; do
    wait "$worker" || fail storm "a worker ended with $?"
done
echo "workload: storm ok"

# dd reads into a buffer of 200 MiB, so every page of it is touched, and gives it back.
available() { sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo; }
before=$(available)
[ "$before" -gt 230000 ] || fail memory "only $before KiB are available"
dd if=/dev/zero of=/dev/null bs=200M count=1 2>/tmp/dd || fail memory "dd ended with $?"
grep -q '^1+0 records out' /tmp/dd || fail memory "$(cat /tmp/dd)"
after=$(available)
[ "$after" -gt $((before - 20000)) ] || fail memory "$before KiB were available, then $after"
echo "workload: memory ok"

# Caught ones and deadly ones.
got=0
trap 'got=$((got + 1))' USR1
sent=0
while [ "$sent" -lt 200 ]; do
    kill -USR1 $$
    sent=$((sent + 1))
done
[ "$got" = 200 ] || fail signals "$got of 200 came"
ended=0
while [ "$ended" -lt 20 ]; do
    sleep 1000 &
    kill -TERM $!
    # The shell tells of it on its standard error.
    { wait $!; } 2>/dev/null
    [ $? = 143 ] || fail signals "a process outlived its signal"
    ended=$((ended + 1))
done
echo "workload: signals ok"

# How fast bytes go through a pipe, and whether all do.
start=$(cut -d' ' -f1 /proc/uptime | tr -d .)
bytes=$(dd if=/dev/zero bs=64k count=800 2>/dev/null | wc -c)
end=$(cut -d' ' -f1 /proc/uptime | tr -d .)
[ "$bytes" = 52428800 ] || fail pipe "$bytes bytes came through"
[ "$(seq 100000 | sort -n | tail -n 1)" = 100000 ] || fail pipe "the last number is another"
echo "workload: pipe ok, 50 MiB in $((end - start)) hundredths of a second"

# A 32-bit program of 128 bytes that calls the kernel by int 0x80: ELF header, program header, code, text.
# write(1, "int80: ok\n", 10); exit(42)
{
    printf '\177ELF\001\001\001\000\000\000\000\000\000\000\000\000\002\000\003\000\001\000\000\000'
    printf '\124\200\004\010\064\000\000\000\000\000\000\000\000\000\000\000\064\000\040\000\001\000\000\000\000\000\000\000'
    printf '\001\000\000\000\000\000\000\000\000\200\004\010\000\200\004\010\200\000\000\000\200\000\000\000\005\000\000\000\000\020\000\000'
    printf '\270\004\000\000\000\273\001\000\000\000\271\166\200\004\010\272\012\000\000\000\315\200'
    printf '\270\001\000\000\000\273\052\000\000\000\315\200'
    printf 'int80: ok\n'
} >/tmp/int80
chmod +x /tmp/int80
said=$(/tmp/int80)
[ $? = 42 ] && [ "$said" = "int80: ok" ] || fail int80 "it said \`$said\`"
echo "workload: int80 ok"

# Another one, of 204 bytes: it makes an entry of its local descriptor table, loads GS from it, gives the CPU up, and reads through GS.
# modify_ldt(1, entry, 16); gs = 7; sched_yield(); compare; write(1, "ldt: ok\n", 8); exit(43)
{
    printf '\177\105\114\106\001\001\001\000\000\000\000\000\000\000\000\000\002\000\003\000\001\000\000\000\124\200\004\010'
    printf '\064\000\000\000\000\000\000\000\000\000\000\000\064\000\040\000\001\000\000\000\000\000\000\000'
    printf '\001\000\000\000\000\000\000\000\000\200\004\010\000\200\004\010\314\000\000\000\314\000\000\000\005\000\000\000\000\020\000\000'
    printf '\270\173\000\000\000\273\001\000\000\000\271\264\200\004\010\272\020\000\000\000\315\200\205\300'
    printf '\165\072\270\007\000\000\000\216\350'
    printf '\270\236\000\000\000\315\200'
    printf '\145\213\015\000\000\000\000\073\015\304\200\004\010\165\035'
    printf '\270\004\000\000\000\273\001\000\000\000\271\304\200\004\010\272\010\000\000\000\315\200'
    printf '\273\053\000\000\000\353\005'
    printf '\273\001\000\000\000'
    printf '\270\001\000\000\000\315\200'
    printf '\000\000\000\000\304\200\004\010\377\017\000\000\101\000\000\000\154\144\164\072\040\157\153\012'
} >/tmp/ldt
chmod +x /tmp/ldt
for round in 1 2 3 4 5 6 7 8; do
    said=$(/tmp/ldt)
    [ $? = 43 ] && [ "$said" = "ldt: ok" ] || fail ldt "it said \`$said\`"
done
echo "workload: ldt ok"
echo "workload: all done"
