# SPDX-License-Identifier: BSD-2-Clause
# A SCSI disk under a VM: a medium error with sense data, one that goes offline, one that is taken away, one that does not
# answer.
. /lab/storage.sh
modprobe sd_mod || fail "modprobe sd_mod"
# disk OPTION…: a disk of 64 MiB; its name is in $disk.
disk() {
  rmmod scsi_debug 2>/dev/null
  modprobe scsi_debug dev_size_mb=64 "$@" || fail "modprobe scsi_debug $*"
  tries=0
  until disk=$(ls -d /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*:*/block/* 2>/dev/null); do
    [ $((tries += 1)) -lt 100 ] || fail "no disk"
    usleep 100000
  done
  disk=$(basename $disk)
}

disk medium_error_start=20000 medium_error_count=64 opts=2
guest=reader start_vm scsi-medium /dev/$disk
expect_cause storage-io-error proven
expect_text scsi-medium.txt "critical medium"
expect_text scsi-medium.txt "Medium Error"
stop_vm

disk
start_vm scsi-offline /dev/$disk
expect_cause storage-io-error proven "echo offline >/sys/block/$disk/device/state"
stop_vm

disk
start_vm scsi-deleted /dev/$disk
expect_cause storage-device-gone proven "echo 1 >/sys/block/$disk/device/delete"
stop_vm

# The kernel gives a command up after this time, and asks again, some times.
disk
echo 10 >/sys/block/$disk/device/timeout
start_vm scsi-silent /dev/$disk
expect_cause storage-hang proven "echo 4 >/sys/bus/pseudo/drivers/scsi_debug/opts" \
  "echo 1 >/sys/bus/pseudo/drivers/scsi_debug/every_nth"
echo 0 >/sys/bus/pseudo/drivers/scsi_debug/every_nth
echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts
stop_vm
