# SPDX-License-Identifier: BSD-2-Clause
# Device mapper that holds what it cannot do: a multipath device without a path that works, a thin pool without room.
. /lab/storage.sh
for module in dm-mod dm-multipath dm-round-robin dm-thin-pool sd_mod; do modprobe $module || fail "modprobe $module"; done
rmmod scsi_debug 2>/dev/null
# One disk of 64 MiB, by two ways.
modprobe scsi_debug dev_size_mb=64 add_host=2 || fail "modprobe scsi_debug"
disks() { ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter*/host*/target*/*:*/block/* 2>/dev/null; }
tries=0
until [ "$(disks | wc -l)" = 2 ]; do
  [ $((tries += 1)) -lt 100 ] || fail "no disks"
  usleep 100000
done
paths=$(for disk in $(disks); do cat $disk/dev; done)
sectors=$((64 * 2048))
# multipath FEATURE…: /dev/mapper/paths.
multipath() {
  dmsetup create paths --table "0 $sectors multipath $* 0 1 1 round-robin 0 2 1 $(echo $paths | sed 's/ / 1000 /') 1000" &&
    dmsetup mknodes || fail "dmsetup create paths"
}
all_paths_fail="for disk in $(disks | tr '\n' ' '); do echo offline >\$disk/device/state; done"
all_paths_work() {
  for disk in $(disks); do echo running >$disk/device/state; done
  for path in $paths; do dmsetup message paths 0 "reinstate_path $path"; done
}

multipath 0
start_vm paths-failed /dev/mapper/paths
expect_cause storage-io-error proven "$all_paths_fail"
vm-iowatch -s $storage/$vm.qmp --map >$vm.map || fail "--map"
cat $vm.map
expect_text $vm.map offline
stop_vm
all_paths_work
dmsetup remove paths

multipath 1 queue_if_no_path
start_vm paths-queue /dev/mapper/paths
expect_cause storage-hang proven "$all_paths_fail"
# QEMU ends when its requests do.
all_paths_work
stop_vm
dmsetup remove paths

# A pool with room for 8 MiB, which waits for more, for 15 s.
ram_disk 128
echo 15 >/sys/module/dm_thin_pool/parameters/no_space_timeout
dmsetup create meta --table "0 16384 linear $ram 0" && dmsetup create data --table "0 16384 linear $ram 16384" &&
  dmsetup mknodes || fail "dmsetup create"
dmsetup create pool --table "0 16384 thin-pool /dev/mapper/meta /dev/mapper/data 128 0" && dmsetup mknodes &&
  dmsetup message pool 0 "create_thin 0" || fail "create_thin"
dmsetup create thin --table "0 $sectors thin /dev/mapper/pool 0" && dmsetup mknodes || fail "dmsetup create thin"
start_vm thin-queue /dev/mapper/thin
# First it stands still, and then the pool gives up.
expect_cause storage-thin-full/errno=ENOSPC proven
expect_text thin-queue.txt "stalled"
expect_text thin-queue.txt "(queue IO)"
stop_vm
for name in thin pool data meta; do dmsetup remove $name; done
