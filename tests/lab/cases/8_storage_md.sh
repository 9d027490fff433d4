# SPDX-License-Identifier: BSD-2-Clause
# Software RAID under a VM's disk: a mirror that loses a member goes on, a stripe does not.
. /lab/storage.sh
for module in dm-mod dm-flakey raid0 raid1; do modprobe $module || fail "modprobe $module"; done
ram_disk 128
half=$((64 * 2048))
md=/sys/block/md_lab/md

# array LEVEL SECTORS: /dev/md_lab of the two halves of the memory disk, each behind a device mapper target of its own.
array() {
  for member in 0 1; do
    dmsetup create member$member --table "0 $half linear $ram $((member * half))" && dmsetup mknodes || fail "dmsetup create"
  done
  echo md_lab >/sys/module/md_mod/parameters/new_array || fail "new_array"
  echo none >$md/metadata_version || fail "metadata_version"
  echo "$1" >$md/level || fail "level $1"
  echo 2 >$md/raid_disks || fail "raid_disks"
  case $1 in
    raid1) echo $((half / 2)) >$md/component_size || fail "component_size" ;;
    *) echo 65536 >$md/chunk_size || fail "chunk_size" ;;
  esac
  for member in 0 1; do
    number=$(dmsetup info -c --noheadings --separator : -o major,minor member$member)
    echo $number >$md/new_dev || fail "new_dev $number"
    place=$md/dev-$(basename $(readlink -f /sys/dev/block/$number))
    [ $1 = raid1 ] || echo $((half / 2)) >$place/size || fail "size $member"
    echo $member >$place/slot || fail "slot $member"
  done
  echo active >$md/array_state || fail "array_state"
  [ "$(cat /sys/block/md_lab/size)" -ge $half ] || fail "/dev/md_lab has no size"
}
end_array() {
  echo clear >$md/array_state || fail "clear"
  for member in 0 1; do dmsetup remove member$member || fail "remove member$member"; done
}
# Writes to this member fail from now on.
break_member() {
  echo "dmsetup reload member$1 --table '0 $half flakey $ram $(($1 * half)) 0 3600 1 error_writes' && dmsetup suspend member$1 && dmsetup resume member$1"
}

array raid1
start_vm md-mirror /dev/md_lab
qmp-call -s $storage/$vm.qmp cont || fail "cont"
qmp-pausewatch -s $storage/$vm.watch --exit-code -d 15s -o $vm.vmt >$vm.txt 2>$vm.err &
watcher=$!
until_guest_works || fail "no guest"
sh -c "$(break_member 1)" || fail "break"
wait $watcher
expect_eq $? 0 "exit status of a watcher that saw nothing"
vm-iowatch -s $storage/$vm.qmp --map >$vm.map || fail "--map"
cat $vm.txt $vm.map
expect_text $vm.map "1 members are missing"
expect_text $vm.map "faulty"
stop_vm
end_array

array raid0
start_vm md-stripe /dev/md_lab
expect_cause storage-io-error proven "$(break_member 1)"
stop_vm
end_array
