# SPDX-License-Identifier: BSD-2-Clause
# What kvm-stalls costs the scheduler's worst case, `perf bench sched pipe`, where no VM's thread is involved, beside
# bpftrace and perf. Prints figures as tests/bench does, one JSON line each. Runs in the lab (scripts/lab --bench stalls) on
# one processor whose nanosecond is an instruction; needs root. Usage: stalls_peers.sh UNIT
set -u
unit=$1 trips=20000
work=$(mktemp -d)
cd "$work" || exit 1

figure() { # FIGURE VALUE UNIT GOAL PEER PEER_VALUE; "null" where there is none.
  printf '{"bench":"stalls_peers","figure":"%s","value":%s,"unit":"%s","goal":%s,"peer":"%s","peer_value":%s}\n' "$@"
}
calc() { awk "BEGIN { printf \"%.4g\", $1 }"; }

# Units of time that one round trip takes.
trip() { perf bench -f simple sched pipe -l $trips | awk -v trips=$trips '{ printf "%d", 1e9 * $1 / trips }'; }
longer() { calc "100 * ($1 / $alone - 1)"; }

# Starts a tool, waits until its files hold $1, measures, ends it. Leaves the time of a trip in $took.
under() {
  said=$1
  shift
  "$@" >tool.out 2>tool.err &
  tool=$!
  waited=0
  until grep -q "$said" tool.out tool.err 2>/dev/null; do
    kill -0 $tool 2>/dev/null || { cat tool.err; echo "$1 did not start"; exit 1; }
    waited=$((waited + 1))
    [ $waited -lt 600 ] || { cat tool.err; echo "$1 never said '$said'"; exit 1; }
    sleep 0.2
  done
  sleep 1
  took=$(trip)
  kill -INT $tool
  wait $tool
}

# A VM that stands.
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -m 16 -display none -vga none -S -name vm,debug-threads=on \
  >qemu.log 2>&1 &
qemu=$!
sleep 2
trip >/dev/null
alone=$(trip)
echo "[bench] kvm-stalls"
again=$(trip)
figure "perf bench sched pipe, a round trip, without any tool" "$alone" "$unit" null "" null
figure "the same once more: longer by" "$(longer "$again")" "%" null "" null
under watching kvm-stalls -p $qemu --json
stalls=$(longer "$took")
if command -v bpftrace >/dev/null; then
  echo "[bench] bpftrace"
  export BPFTRACE_STRLEN=64
  # What bcc's offcputime does.
  # shellcheck disable=SC2016
  under Attaching bpftrace -e 'tracepoint:sched:sched_switch {
    @began[args->prev_pid] = nsecs; $began = @began[args->next_pid];
    if ($began) { @ns[args->next_pid, kstack] = sum(nsecs - $began); delete(@began[args->next_pid]); } }'
  figure "with kvm-stalls: longer by" "$stalls" "%" 3 "bpftrace, off-CPU time by stack: longer by" "$(longer "$took")"
fi
if command -v perf >/dev/null; then
  echo "[bench] perf"
  perf sched record -o perf.data sleep 100000 >perf.log 2>&1 &
  tool=$!
  sleep 5
  took=$(trip)
  figure "with kvm-stalls: longer by" "$stalls" "%" 3 "perf sched record: longer by" "$(longer "$took")"
  kill -INT $tool
fi
kill $qemu
cd / && rm -rf "$work"
echo "[bench] done"
