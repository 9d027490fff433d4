# SPDX-License-Identifier: BSD-2-Clause
# Device mapper under a VM's disk: an error target, a flaky one, a slow one, a thin pool that is full.
. /lab/storage.sh
for module in dm-mod dm-flakey dm-delay dm-thin-pool; do modprobe $module || fail "modprobe $module"; done
ram_disk 128
sectors=$((64 * 2048))
# device NAME LINE…: makes /dev/mapper/NAME of that table.
device() {
  name=$1
  shift
  printf '%s\n' "$@" >$storage/table
  dmsetup create $name $storage/table && dmsetup mknodes || fail "dmsetup create $name"
}

# The sectors from 8 MiB on fail; under it, a linear one: the lower one is the first to fail.
device lower "0 16384 linear $ram 0" "16384 $((sectors - 16384)) error"
device upper "0 $sectors linear /dev/mapper/lower 0"
start_vm dm-error /dev/mapper/upper
expect_cause storage-io-error proven
expect_text dm-error.txt "dm-0"
stop_vm
dmsetup remove upper
dmsetup remove lower

# Writes fail from some time on, as of a disk that dies.
device flaky "0 $sectors linear $ram 0"
direct=off start_vm dm-flakey /dev/mapper/flaky
expect_cause storage-io-error proven "dmsetup reload flaky --table '0 $sectors flakey $ram 0 0 3600 1 error_writes'" \
  "dmsetup suspend flaky && dmsetup resume flaky"
stop_vm
dmsetup remove flaky

device slow "0 $sectors delay $ram 0 900"
start_vm dm-delay /dev/mapper/slow
expect_cause storage-slow proven
stop_vm
dmsetup remove slow

# Suspended: requests wait for ever.
device asleep "0 $sectors linear $ram 0"
start_vm dm-suspended /dev/mapper/asleep
expect_cause storage-hang proven "dmsetup suspend --nolockfs --noflush asleep"
dmsetup resume asleep
stop_vm
dmsetup remove asleep

# A pool with room for 8 MiB.
device meta "0 16384 linear $ram 0"
device data "0 16384 linear $ram 16384"
device pool "0 16384 thin-pool /dev/mapper/meta /dev/mapper/data 128 0 1 error_if_no_space"
dmsetup message pool 0 "create_thin 0" || fail "create_thin"
device thin "0 $sectors thin /dev/mapper/pool 0"
start_vm dm-thin /dev/mapper/thin
expect_cause storage-thin-full proven
stop_vm
for name in thin pool data meta; do dmsetup remove $name; done
