# SPDX-License-Identifier: BSD-2-Clause
# What the storage cases share, on top of lib.sh. Sourced by each: . /lab/storage.sh
. /lab/lib.sh
storage=/tmp/storage
# What a case before has left.
umount $storage/mount 2>/dev/null
dmsetup remove_all --force 2>/dev/null
rm -rf $storage
mkdir -p $storage

# ram_disk MIB: a block device of that size in memory, sparse; its name is in $ram.
ram_disk() {
  [ -d /sys/module/brd ] && { rmmod brd || fail "rmmod brd"; }
  modprobe brd rd_nr=1 rd_size=$(($1 * 1024)) || fail "modprobe brd"
  ram=/dev/ram0
}

# start_vm NAME FILE [DRIVER]: a VM whose guest ($guest: writer or reader) works on a disk in FILE as soon as it is told to go on.
# $as: the user it runs as; $blockdev: another node disk0.
start_vm() {
  vm=$1
  rm -f $storage/$vm.*
  qemu-system-x86_64 -nodefaults -machine pc,usb=off -accel "${accel:-tcg}" -m 16 -display none -vga none -S \
    -name $vm,debug-threads=on ${as:+-runas $as} -drive if=floppy,format=raw,readonly=on,file=/lab/guests/${guest:-writer}.bin -boot a \
    -serial file:$storage/$vm.serial -blockdev "${blockdev:-driver=${3:-host_device},node-name=disk0,filename=${2:-},cache.direct=${direct:-on},aio=${aio:-threads}}" \
    -device ${device:-virtio-blk-pci,romfile=},drive=disk0,werror=stop,rerror=stop \
    -qmp unix:$storage/$vm.watch,server=on,wait=off -qmp unix:$storage/$vm.qmp,server=on,wait=off 2>$storage/$vm.err &
  qemu=$!
  tries=0
  until qmp-call -s $storage/$vm.qmp query-status >/dev/null 2>&1; do
    kill -0 $qemu 2>/dev/null || { cat $storage/$vm.err; fail "QEMU of $vm ended"; }
    [ $((tries += 1)) -lt 300 ] || fail "QEMU of $vm did not come up"
    usleep 100000
  done
}
stop_vm() {
  kill -9 $qemu
  wait $qemu 2>/dev/null
  return 0
}
# Waits until the guest has done some requests.
until_guest_works() {
  tries=0
  until [ "$(stat -c %s $storage/$vm.serial)" -ge "${1:-3}" ]; do
    [ $((tries += 1)) -lt 600 ] || { echo "the guest does nothing"; return 1; }
    usleep 100000
  done
}
# expect_cause CAUSE[/DETAIL=VALUE] CONFIDENCE [COMMAND…]: the guest goes on, COMMAND runs when it works, and the watcher calls
# what befalls the VM CAUSE with CONFIDENCE.
expect_cause() {
  cause=$1 confidence=$2
  shift 2
  {
    echo ". /lab/lib.sh; storage=$storage vm=$vm"
    sed -n '/^until_guest_works()/,/^}/p' /lab/storage.sh
    echo "qmp-call -s $storage/$vm.qmp cont || exit 1"
    [ $# = 0 ] || echo "until_guest_works || exit 1"
    for word in "$@"; do echo "$word || exit 1"; done
  } >$storage/repro.sh
  qmp-pausewatch -s $storage/$vm.watch --expect "$cause" --within ${within:-60s} --qmp-deadline 30s -o $vm.vmt \
    -- sh $storage/repro.sh >$vm.txt 2>$vm.err
  status=$?
  cat $vm.txt $vm.err $storage/$vm.err
  echo "$vm: expected $cause ($confidence): $(grep -oE '^ +[a-z-]+ \((proven|likely|possible)\)' $vm.txt | tr -s ' ' | tr '\n' ';')"
  [ $status = 0 ] || { echo "guest: $(tail -c 200 $storage/$vm.serial)"; dmesg | tail -n 12; }
  expect_eq $status 0 "$vm: exit status of qmp-pausewatch"
  expect_text $vm.txt "${cause%%/*} ($confidence)"
}
