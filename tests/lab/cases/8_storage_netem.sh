# SPDX-License-Identifier: BSD-2-Clause
# QEMU's own NBD client and a server in another network, the way to which is slow, loses some, and is lost.
. /lab/storage.sh
. /lab/network.sh
make_far
start_far 10809 nbdkit -f -p 10809 memory 64M
blockdev=driver=nbd,node-name=disk0,server.type=inet,server.host=$far_address,server.port=10809
# In the end TCP gives the connection up, after 13 s.
echo 5 >/proc/sys/net/ipv4/tcp_retries2
start_vm far
qmp-call -s $storage/$vm.qmp cont && until_guest_works || fail "$vm"

# expect_slow PATTERN NETEM…: the guest's requests over such a way are called the network's, with its figures.
expect_slow() {
  pattern=$1
  shift
  sh -c "$(make_link "$@")" || fail "netem $*"
  rm -f $vm.vmt
  vm-iowatch -s $storage/$vm.watch -i 1s -d 10s -o $vm.vmt >$vm.txt 2>&1 || { cat $vm.txt; fail "vm-iowatch"; }
  vm-why $vm.vmt | tr -s '\n ' ' ' >$vm.txt
  cat $vm.txt
  grep -qE "storage-network.*$pattern" $vm.txt || fail "no '$pattern'"
}
expect_slow 'a round trip takes (2[5-9].|[3-5]..) ms' delay 150ms
# Slow, or silent for so long that it is a stall.
expect_slow '[1-9][0-9]* segments (were |had to be )?(retransmitted|sent again)' loss 20%

rm $vm.vmt
# First nothing is acknowledged, then the connection goes.
expect_cause storage-network/nospace=false proven "$(make_link loss 100%)"
grep -qE "nothing of what QEMU sends|loses what is sent" $vm.txt || fail "no stall"
stop_vm
end_far
