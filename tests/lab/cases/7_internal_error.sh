# SPDX-License-Identifier: BSD-2-Clause
# A guest that KVM cannot emulate: told at once, with the suberror's name and the last exit; vm-why says it from the
# file alone.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 64 -display none -vga none \
  -kernel /lab/guests/emulation_failure.elf >qemu.log 2>&1 &
qemu=$!
while kill -0 $qemu && ! grep -q qemu /proc/$qemu/comm; do sleep 0.1; done
kvm-exits -p $qemu -d 150s -o internal.vmt >internal.txt 2>internal.err &
tool=$!
i=0
while [ $i -lt 140 ] && ! grep -q "KVM internal error" internal.err; do
  kill -0 $tool 2>/dev/null || break
  sleep 1
  i=$((i + 1))
done
kill $qemu
wait $tool
cat internal.err internal.txt qemu.log
expect_text internal.err "KVM internal error: KVM_INTERNAL_ERROR_EMULATION"
expect_text internal.txt "KVM_EXIT_INTERNAL_ERROR"
expect_text internal.txt "ended while it was watched"
vm-why internal.vmt >internal.why || fail "vm-why"
cat internal.why
expect_text internal.why "kvm-internal-error (proven)"
