# SPDX-License-Identifier: BSD-2-Clause
# A disk's file system fills up: the failed system call is in evidence, followed by programs on functions.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
qmp-pausewatch --check >storage_check.txt
cat storage_check.txt
expect_text storage_check.txt "system calls (fexit)"
expect_text storage_check.txt "block layer (raw_tp)"
mkdir -p /tmp/small
mount -t tmpfs -o size=4m small /tmp/small || fail "mount"
fill_disk() {
  rm -f /tmp/small/disk.raw /tmp/one /tmp/two storage.vmt
  truncate -s 64M /tmp/small/disk.raw
  qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 32 -display none -vga none -S \
    -drive if=floppy,format=raw,readonly=on,file=/lab/guests/writer.bin -boot a -serial file:/tmp/storage.serial \
    -blockdev driver=file,node-name=disk0,filename=/tmp/small/disk.raw \
    -device virtio-blk-pci,drive=disk0,werror=stop,romfile= \
    -qmp unix:/tmp/one,server=on,wait=off -qmp unix:/tmp/two,server=on,wait=off 2>storage_qemu.err &
  qemu=$!
  i=0
  until [ -S /tmp/two ] || [ $((i += 1)) -gt 100 ]; do usleep 100000; done
  qmp-pausewatch -s /tmp/one --expect storage-full/errno=ENOSPC --within 90s --qmp-deadline 30s -o storage.vmt \
    -- qmp-call -s /tmp/two cont >storage.txt 2>storage.err
  status=$?
  kill $qemu
  wait $qemu
  cat storage.txt storage.err storage_qemu.err
}
fill_disk
# A guest of an emulated processor may never come up; one that has written must have been seen.
if [ $status -ne 0 ] && ! grep -q '[.E]' /tmp/storage.serial; then
  echo "the guest did not come up: once more"
  fill_disk
fi
expect_eq $status 0 "exit status of qmp-pausewatch"
expect_text storage.txt "failed with ENOSPC"
vm-trace cat storage.vmt | grep -F io_syscall >storage_calls.txt
expect_text storage_calls.txt "what=failed"
