# SPDX-License-Identifier: BSD-2-Clause
# What kvm-exits costs beside bpftrace and perf, on the same stream of exits: port_storm.rom under each of them. Prints
# figures as tests/bench does, one JSON line each. Runs in the lab (scripts/lab --bench) and on a host with /dev/kvm;
# needs root. Usage: kvm_exits_peers.sh ROM UNIT; UNIT: what the machine's nanoseconds are: ns, or instructions where QEMU
# counts them (-icount).
set -u
rom=$1 unit=$2
work=$(mktemp -d)
cd "$work" || exit 1

figure() { # FIGURE VALUE UNIT GOAL PEER PEER_VALUE; "null" where there is none.
  peer=$5
  printf '{"bench":"kvm_exits_peers","figure":"%s","value":%s,"unit":"%s","goal":%s,"peer":"%s","peer_value":%s}\n' \
    "$1" "$2" "$3" "$4" "$peer" "$6"
}
calc() { awk "BEGIN { printf \"%.4g\", $1 }"; }

# Runs the guest, below the words given. Leaves the ticks of its median round in $ticks.
guest="qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -m 16 -display none -vga none
  -bios $rom -device isa-debug-exit,iobase=0x501,iosize=2
  -chardev file,id=ticks,path=$work/rounds -device isa-debugcon,iobase=0x402,chardev=ticks"
storm() {
  rm -f rounds
  "$@" $guest >qemu.log 2>&1
  ticks=$(od -A n -v -t u8 rounds | tr -s ' ' '\n' | grep . | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] + 0 }')
  [ "$ticks" -gt 0 ] || { cat qemu.log; echo "the guest did not run"; exit 1; }
}

# Ids of all BPF programs.
programs() { bpftool prog show | awk -F: '/^[0-9]+:/ { print $1 }' | sort; }
# Run time of the programs that are new since, all, and those of kvm_exit and kvm_entry alone; and their runs.
costs_since() {
  bpftool prog show | awk -v known=" $(echo $1) " '
    /^[0-9]+:/ { split($1, id, ":"); ns = runs = 0
      if (match($0, /run_time_ns [0-9]+/)) ns = substr($0, RSTART + 12, RLENGTH - 12)
      if (match($0, /run_cnt [0-9]+/)) runs = substr($0, RSTART + 8, RLENGTH - 8)
      if (index(known, " " id[1] " ") != 0) next
      all += ns; count += runs
      if ($0 ~ /kvm_exit|kvm_entry/) pair += ns }
    END { printf "%d %d %d\n", all, pair, count }'
}

# Starts a tool, waits until it is attached, lets the guest run, ends the tool. $1: a word for files; the rest: the tool.
# With $stats=1 also what its BPF programs took: $bpf, those of kvm_exit and kvm_entry alone: $pair, and all $runs.
under() {
  name=$1
  shift
  known=$(programs)
  rm -f raw.vmt
  echo $stats >/proc/sys/kernel/bpf_stats_enabled
  "$@" >$name.out 2>$name.err &
  tool=$!
  waited=0
  until ready; do
    kill -0 $tool 2>/dev/null || { cat $name.err; echo "$name did not start"; exit 1; }
    waited=$((waited + 1))
    [ $waited -lt 600 ] || { cat $name.err; echo "$name never attached"; exit 1; }
    sleep 0.2
  done
  storm
  if [ $stats = 1 ]; then
    set -- $(costs_since "$known")
    bpf=$1 pair=$2 runs=$3
  fi
  kill -INT $tool
  wait $tool
  echo 0 >/proc/sys/kernel/bpf_stats_enabled
}

# The same histogram by bpftrace: time from an exit to the next entry by vCPU and reason; in as little as it takes, and with
# the count, sum and maximum that kvm-exits keeps beside.
script='tracepoint:kvm:kvm_exit { @began[tid] = nsecs; @reason[tid] = args->exit_reason; }
  tracepoint:kvm:kvm_entry /@began[tid]/ { $ns = nsecs - @began[tid]; $r = @reason[tid];
    @ns[tid, $r] = hist($ns); COLUMNS delete(@began[tid]); }'
lean=$(echo "$script" | sed 's/COLUMNS//')
count='tracepoint:kvm:kvm_exit { @[tid, args->exit_reason] = count(); }' # All that bcc's kvmexit shows.
same=$(echo "$script" | sed 's/COLUMNS/@count[tid, $r] = count(); @sum[tid, $r] = sum($ns); @max[tid, $r] = max($ns);/')

bpf_attached() { [ "$(programs)" != "$known" ]; }
said() { grep -q "$1" "$name.err" "$name.out" 2>/dev/null; }

stats=0
storm
alone=$ticks
storm
# Two runs without any tool: how far figures of one boot can be trusted.
figure "an exit-heavy guest, a second time without any tool" "$(calc "$ticks / $alone")" "times as long" null "" null
alone=$(calc "($ticks + $alone) / 2" | awk '{ printf "%d", $1 }')

echo "[bench] kvm-exits"
ready() { said "watching"; }
under exits kvm-exits -a
exits_ratio=$(calc "$ticks / $alone")
under raw kvm-exits -a -o raw.vmt
raw_ratio=$(calc "$ticks / $alone")
records=$(sed -nE 's/.* ([0-9]+) records in .*/\1/p' raw.err)
lost=$(sed -nE 's/.*lost: ([0-9]+)$/\1/p' raw.err)
raw_bytes=$(calc "$(wc -c <raw.vmt) / $records")
stats=1
under exits kvm-exits -a
exits_all=$(calc "$bpf / $records") exits_pair=$(calc "$pair / $records") exits_run=$(calc "$bpf / $runs")
under raw kvm-exits -a -o raw.vmt
raw_pair=$(calc "$pair / $records")

if command -v bpftrace >/dev/null; then
  echo "[bench] bpftrace"
  export BPFTRACE_STRLEN=64
  ready() { said "Attaching" && bpf_attached; }
  stats=0
  under bpftrace bpftrace -e "$lean"
  bpftrace_ratio=$(calc "$ticks / $alone")
  stats=1
  under bpftrace bpftrace -e "$lean"
  bpftrace_all=$(calc "$bpf / $records")
  under bpftrace bpftrace -e "$same"
  bpftrace_same=$(calc "$bpf / $records")
  under bpftrace bpftrace -e "$count"
  bpftrace_count=$(calc "$bpf / $records")
fi
if command -v perf >/dev/null; then
  echo "[bench] perf"
  storm perf record -a -o perf.data -e kvm:kvm_exit -e kvm:kvm_entry --
  perf_ratio=$(calc "$ticks / $alone")
  cat qemu.log
  perf_bytes=$(calc "$(wc -c <perf.data) / $records")
fi

figure "BPF run time of an exit that goes to QEMU, all programs" "$exits_all" "$unit/exit" null "" null
for peer in "bpftrace, counts and no times:${bpftrace_count:-}" "bpftrace, the histogram alone:${bpftrace_all:-}" "bpftrace, the same columns:${bpftrace_same:-}"; do
  value=${peer##*:}
  [ -n "$value" ] || continue
  figure "BPF run time of kvm_exit and kvm_entry" "$exits_pair" "$unit/exit" "$(calc "$value / 4")" "${peer%:*}" "$value"
done
figure "BPF run time of kvm_exit and kvm_entry with raw events" "$raw_pair" "$unit/exit" null "" null
figure "BPF run time of one program, mean" "$exits_run" "$unit/run" null "" null
figure "an exit-heavy guest under kvm-exits" "$exits_ratio" "times as long" 1.01 bpftrace "${bpftrace_ratio:-null}"
figure "an exit-heavy guest under kvm-exits -o" "$raw_ratio" "times as long" null "perf record" "${perf_ratio:-null}"
figure "trace file of a storm, where each exit is like the one before" "$raw_bytes" "bytes/exit" 8 "perf record" "${perf_bytes:-null}"
figure "exits lost by kvm-exits -o, of $records records" "${lost:-null}" "exits" 0 "" null
cd / && rm -rf "$work"
echo "[bench] done"
