# SPDX-License-Identifier: BSD-2-Clause
# A main loop that stands in a command: the probe copies its stack on this kernel, and QEMU's own functions are named.
. /lab/lib.sh
load_kvm
mkfifo pipe
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 16 -display none -vga none -S \
  -name vm,debug-threads=on -qmp unix:qmp.sock,server=on,wait=off >qemu_user_stacks.log 2>&1 &
qemu=$!
wait_for_file() { for i in $(seq 150); do [ -e "$1" ] && return; usleep 200000; done; fail "no $1"; }
wait_for_file qmp.sock
kvm-stalls -p $qemu --min-latency 20ms -o user_stacks.vmt >user_stacks.txt 2>user_stacks.err &
stalls=$!
for i in $(seq 150); do grep -q watching user_stacks.err && break; usleep 200000; done
grep -q watching user_stacks.err || { cat user_stacks.err; fail "kvm-stalls"; }
# Nobody reads the pipe.
timeout 60 qmp-call -s qmp.sock pmemsave "{\"val\": 0, \"size\": 4096, \"filename\": \"$PWD/pipe\"}" >call.txt 2>&1 &
for i in $(seq 150); do grep -q "the main thread was blocked" user_stacks.txt && break; usleep 200000; done
cat pipe >/dev/null &
for i in $(seq 150); do grep -q "it is over" user_stacks.txt && break; usleep 200000; done
kill -INT $stalls
wait $stalls
kill -9 $qemu
cat call.txt
grep -q "in QEMU: .*qmp_pmemsave.*main_loop_wait" user_stacks.txt || { cat user_stacks.txt; fail "no stack in QEMU"; }
vm-why user_stacks.vmt >user_stacks_why.txt
expect_text user_stacks_why.txt qemu-main-loop-blocked
expect_text user_stacks_why.txt "qmp_pmemsave"
