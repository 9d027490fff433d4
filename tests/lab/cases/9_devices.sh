# SPDX-License-Identifier: BSD-2-Clause
# Ports carry the name of the device behind them as QEMU tells it: in the result and in the trace.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 64 -display none -vga none -S \
  -kernel /lab/guests/ring3_loop.elf -serial file:/tmp/devices.serial \
  -qmp unix:/tmp/three,server=on,wait=off -qmp unix:/tmp/four,server=on,wait=off 2>devices_qemu.err &
qemu=$!
i=0
until [ -S /tmp/four ] || [ $((i += 1)) -gt 300 ]; do usleep 100000; done
# "LM" at the serial port: the firmware is done.
kvm-exits -s /tmp/three -o devices.vmt --csv -- \
  sh -c 'qmp-call -s /tmp/four cont; until grep -q LM /tmp/devices.serial; do usleep 100000; done' >devices.csv 2>devices.err
status=$?
kill $qemu
cat devices.csv devices.err devices_qemu.err
expect_eq $status 0 "exit status"
expect_eq "$(awk -F, '$6 == "pio" && $7 == "0x70 write" { print $17 }' devices.csv)" rtc-index "the device at port 0x70"
vm-trace cat --type kvm_exit_summary devices.vmt | grep -F '0x70 write' >devices.txt
expect_text devices.txt 'device="rtc-index"'
