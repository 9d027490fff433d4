# SPDX-License-Identifier: BSD-2-Clause
# The kernel's own iSCSI client under a VM's disk, whose target stops, or goes.
. /lab/storage.sh
. /lab/network.sh
for module in iscsi_tcp sd_mod; do modprobe $module || fail "modprobe $module"; done
make_far
mkdir -p /var/run/tgtd
start_far 3260 tgtd -f --iscsi portal=$far_address:3260

disks() { ls -d /sys/class/iscsi_session/session*/device/target*/*:*:1/block/* 2>/dev/null; }
# log_in NUMBER: to a new target; the session gives up 15 s after it has lost it. Its disk is $disk.
log_in() {
  name=iqn.2026-01.lab:disk$1
  truncate -s 64M $storage/$1.raw
  tgtadm --lld iscsi --op new --mode target --tid $1 -T $name &&
    tgtadm --lld iscsi --op new --mode logicalunit --tid $1 --lun 1 -b $storage/$1.raw &&
    tgtadm --lld iscsi --op bind --mode target --tid $1 -I ALL || fail "tgtadm"
  before=$(disks | wc -l)
  iscsistart -i iqn.2026-01.lab:host -t $name -g 1 -a $far_address -p 3260 -P node.session.timeo.replacement_timeout=15 ||
    fail "iscsistart"
  tries=0
  until [ "$(disks | wc -l)" -gt $before ]; do
    [ $((tries += 1)) -lt 100 ] || fail "no disk"
    usleep 100000
  done
  disk=$(disks | sort | tail -n 1)
  disk=/dev/${disk##*/}
}

log_in 1
start_vm iscsi-stopped $disk
expect_cause storage-hang proven "kill -STOP $server"
kill -CONT $server
stop_vm

log_in 2
start_vm iscsi-lost $disk
# First its requests wait for another connection, and then the session gives up.
expect_cause storage-network/nospace=false proven "kill -9 $server"
expect_text $vm.txt stalled
expect_text $vm.txt "session recovery timed out"
stop_vm
end_far
