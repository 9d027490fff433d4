# SPDX-License-Identifier: BSD-2-Clause
# Where the time of a vCPU goes, by kvm_entry and kvm_exit: a guest that spins, one that halts, a neighbour that takes the
# CPU, a cgroup v2 quota.
. /lab/lib.sh
load_kvm  # A case before may have left modules without BTF.
kvm-stalls --check >stalls_check.txt || { cat stalls_check.txt; fail "--check"; }
grep -qE '^kvm_entry +ok' stalls_check.txt || { cat stalls_check.txt; fail "kvm_entry is not attached"; }

# Boots $1; its pid is in $qemu when the guest runs. A nested guest that never comes up is started once more.
boot() {
  for attempt in 1 2; do
    rm -f serial.txt
    qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 16 -display none -vga none \
      -name vm,debug-threads=on -drive "if=floppy,format=raw,readonly=on,file=/lab/guests/$1.bin" -boot a \
      -serial file:serial.txt >qemu_stalls.log 2>&1 &
    qemu=$!
    tries=0
    while [ $((tries += 1)) -lt 300 ]; do
      grep -q G serial.txt 2>/dev/null && return
      kill -0 $qemu || { cat qemu_stalls.log; fail "QEMU ended"; }
      usleep 200000
    done
    echo "the guest did not come up"
    kill -9 $qemu
    wait $qemu 2>/dev/null
  done
  fail "the guest never came up"
}
# The vCPU's share of state $2 in document $1, in percent.
share() {
  grep -oE '"role":"vcpu"[^}]*"shares":[{][^}]*' "$1" | head -n 1 | grep -oE "[{,]\"$2\":[0-9.eE+-]+" |
    awk -F: '{ s = 100 * $2 } END { printf "%d\n", s }'
}
expect_more() { [ "$(share "$1" "$2")" -ge "$3" ] || { cat "$1"; fail "$1: $2 is below $3 %"; }; }

boot busy
kvm-stalls -p $qemu -d 6s --json >busy.json 2>busy.err || { cat busy.err; fail "kvm-stalls"; }
expect_more busy.json guest 40
expect_text busy.json '"errors":[]'
# As many that never rest as there are CPUs, and one more.
for i in $(seq $(($(nproc) + 1))); do
  sh -c 'while :; do :; done' &
  others="${others:-} $!"
done
kvm-stalls -p $qemu -d 6s -o contended.vmt --json >contended.json 2>contended.err || { cat contended.err; fail "kvm-stalls"; }
kill $others
expect_more contended.json waiting 20
expect_text contended.json '"comm":"sh"'
# From the trace alone.
vm-why contended.vmt >contended.txt
expect_text contended.txt "host-cpu-contention (proven)"
mkdir -p /tmp/cgroup
mount -t cgroup2 cgroup2 /tmp/cgroup || fail "mount cgroup2"
echo +cpu >/tmp/cgroup/cgroup.subtree_control || fail "no cpu controller"
mkdir -p /tmp/cgroup/vm
echo "10000 100000" >/tmp/cgroup/vm/cpu.max || fail "no cpu.max"
echo $qemu >/tmp/cgroup/vm/cgroup.procs
kvm-stalls -p $qemu -d 6s -o quota.vmt --json >quota.json 2>quota.err || { cat quota.err; fail "kvm-stalls"; }
expect_more quota.json throttled 50
vm-why quota.vmt >quota.txt
expect_text quota.txt "host-cpu-quota (proven)"
expect_text quota.txt "10 ms of each 100 ms for /vm"
kill $qemu
wait $qemu 2>/dev/null
boot idle
kvm-stalls -p $qemu -d 6s --json >idle.json 2>idle.err || { cat idle.err; fail "kvm-stalls"; }
kill $qemu
# How much depends on how many of the timer's ticks are made up for: nested KVM under TCG is slow.
expect_more idle.json halted 1
