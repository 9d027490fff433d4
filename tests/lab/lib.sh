# SPDX-License-Identifier: BSD-2-Clause
# What the cases share. Sourced by each: . /lab/lib.sh
set -u

fail() { echo "FAILED: $*"; exit 1; }
expect_eq() { [ "$1" = "$2" ] || fail "$3: expected $2, got $1"; }
expect_text() { grep -qF -- "$2" "$1" || { echo "--- $1"; cat "$1"; fail "no '$2' in $1"; }; }

# kvm with BTF of its modules (load_kvm) or without (load_kvm nobtf/).
load_kvm() {
  unload_kvm
  for module in irqbypass kvm kvm-amd; do
    [ -d "/sys/module/$(echo $module | tr - _)" ] || insmod "/lab/modules/${1:-}$module.ko" || fail "insmod $module"
  done
  [ -e /dev/kvm ] || fail "no /dev/kvm"
}
# A QEMU that was just killed may still hold the modules.
unload_kvm() {
  for module in kvm_amd kvm irqbypass; do
    tries=0
    while [ -d /sys/module/$module ] && ! rmmod $module 2>/dev/null && [ $((tries += 1)) -lt 100 ]; do usleep 100000; done
  done
}

# The guest with a known number of exits; ends by itself, with exit status 3.
exits_guest="qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel kvm -cpu host -m 16 -display none -vga none
  -bios /lab/guests/exits.rom -device VGA,romfile= -device isa-debug-exit,iobase=0x501,iosize=2"

# Sum of column $4 (9: count) of the CSV file $1 over rows of kind $2 and reason $3.
sum() { awk -F, -v kind="$2" -v reason="$3" -v column="${4:-9}" '$6 == kind && $7 == reason { s += $column } END { print s + 0 }' "$1"; }

# The exits of exits.rom, by their numbers in tests/guests/exits.S.
expect_guest_counts() {
  cat "$1"
  expect_eq "$(sum "$1" kvm cpuid)" 199 "cpuid exits"
  expect_eq "$(sum "$1" kvm msr)" 149 "msr exits"
  expect_eq "$(sum "$1" kvm hlt)" 23 "hlt exits"
  expect_eq "$(sum "$1" pio '0x80 write')" 211 "writes of port 0x80"
  expect_eq "$(sum "$1" pio '0x501 write')" 1 "writes of port 0x501"
  expect_eq "$(sum "$1" mmio '0xb8000 read')" 101 "reads of 0xb8000"
}
