# SPDX-License-Identifier: BSD-2-Clause
# QEMU's own functions are followed: a stop has its run state and what led to it.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 16 -display none -vga none -name followed \
  -qmp unix:/tmp/watched,server=on,wait=off -qmp unix:/tmp/followed,server=on,wait=off 2>calls_qemu.err &
qemu=$!
i=0
until [ -S /tmp/followed ] || [ $((i += 1)) -gt 600 ]; do usleep 100000; done
qmp-pausewatch -p $qemu -o calls.vmt >calls.txt 2>calls.err &
watch=$!
# Waits until the trace has $1.
until_recorded() {
  i=0
  until vm-trace cat calls.vmt 2>/dev/null | grep -qF -- "$1"; do
    [ $((i += 1)) -le 300 ] || { vm-trace cat calls.vmt; cat calls.txt calls.err calls_qemu.err; fail "no '$1' recorded"; }
    usleep 200000
  done
}
until_recorded 'are followed"'
until_recorded 'functions of'
qmp-call -s /tmp/followed stop >call.txt || { cat call.txt; fail "qmp-call stop"; }
until_recorded 'function="runstate_set" value="paused"'
qmp-call -s /tmp/followed cont >call.txt || { cat call.txt; fail "qmp-call cont"; }
until_recorded 'function="runstate_set" value="running"'
kill -INT $watch
wait $watch
kill $qemu
vm-trace cat calls.vmt | grep qemu_call
cat calls.txt calls.err
vm-trace cat calls.vmt >calls.cat
expect_text calls.cat 'function="qmp_stop"'
expect_text calls.cat 'vm_prepare_start'
# The callers were found by .eh_frame.
expect_text calls.cat 'callers="vm_stop+'
expect_text calls.txt 'operator-stop (proven)'
