# SPDX-License-Identifier: BSD-2-Clause
# The monitor tap in both its forms: a client's command is heard, with who sent it.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 16 -display none -vga none -S -name tapped \
  -qmp unix:/tmp/tapped,server=on,wait=off 2>tap_qemu.err &
qemu=$!
# Waits until file $2 has $1.
until_in() {
  i=0
  until grep -qF -- "$1" "$2" 2>/dev/null; do
    [ $((i += 1)) -le 600 ] || { cat "$2" tap.err tap_qemu.err; fail "no '$1' in $2"; }
    usleep 100000
  done
}
i=0
until [ -S /tmp/tapped ] || [ $((i += 1)) -gt 600 ]; do usleep 100000; done
qmp-tap -p $qemu --json >tap.json 2>tap.err &
tap=$!
until_in "listening to tapped" tap.err
qmp-call -s /tmp/tapped query-status >call.txt || { cat call.txt; fail "qmp-call"; }
until_in '"latency_ns"' tap.json
kill -INT $tap
wait $tap
status=$?
kill $qemu
cat tap.json tap.err
expect_eq $status 0 "exit status of qmp-tap"
expect_text tap.json '"execute":"query-status"'
expect_text tap.json '"comm": "qmp-call"'
# A tracepoint tells of the end of a send from Linux 6.3 on.
case $(uname -r) in 6.1.*) form=fexit ;; *) form=tracepoint ;; esac
expect_text tap.json "\"form\":\"$form\""
expect_text tap.json '"lost_pieces":0'
