# SPDX-License-Identifier: BSD-2-Clause
# The kernel's own clients under a VM's disk: nbd and NFS, whose server stops, or goes.
. /lab/storage.sh
modprobe nbd || fail "modprobe nbd"
ip link set lo up
serve() {
  nbdkit -f -p 10809 -i 127.0.0.1 memory 64M &
  server=$!
  tries=0
  until nbd-client 127.0.0.1 10809 /dev/nbd0 -b 512 >$storage/client 2>&1; do
    [ $((tries += 1)) -lt 100 ] || { cat $storage/client; fail "nbd-client"; }
    usleep 200000
  done
}
end_serve() {
  kill -9 $server
  nbd-client -d /dev/nbd0
  wait $server 2>/dev/null
}

serve
start_vm nbd-lost /dev/nbd0
expect_cause storage-network proven "kill -9 $server"
# QEMU ends when its requests do.
end_serve
stop_vm

serve
start_vm nbd-stopped /dev/nbd0
expect_cause storage-hang proven "kill -STOP $server"
# QEMU ends when its requests do.
end_serve
stop_vm

# An export of a file system in memory, without user-space help: what the kernel would ask of mountd it is told beforehand.
for module in nfsv4 nfsd; do modprobe $module || fail "modprobe $module"; done
mkdir -p $storage/export $storage/nfs
ram_disk 128
mkfs.ext4 -q $ram || fail "mkfs.ext4"
mount -t ext4 $ram $storage/export || fail "mount ext4"
truncate -s 64M $storage/export/disk.raw
mount -t nfsd nfsd /proc/fs/nfsd || fail "mount nfsd"
echo 10 >/proc/fs/nfsd/nfsv4gracetime
echo 10 >/proc/fs/nfsd/nfsv4leasetime
answer() { printf '%s\n' "$2" >/proc/net/rpc/$1/channel || fail "answer $1"; }
answer auth.unix.ip "nfsd 127.0.0.1 2147483647 lab"
# Any port, asynchronous, no subtree check, fsid 0: the root of NFSv4.
answer nfsd.export "lab $storage/export 2147483647 9234 65534 65534 0"
answer nfsd.fh "lab 1 \\x00000000 2147483647 $storage/export"
echo "+tcp 2049" >/proc/fs/nfsd/portlist
echo 2 >/proc/fs/nfsd/threads || fail "nfsd threads"
echo Y >/proc/fs/nfsd/v4_end_grace
mount -i -t nfs4 -o vers=4.2,addr=127.0.0.1,clientaddr=127.0.0.1,hard,timeo=50,retrans=1 127.0.0.1:/ $storage/nfs || fail "mount nfs4"
start_vm nfs-frozen $storage/nfs/disk.raw file
# The server's own file system is frozen: it keeps the connection and does not answer.
expect_cause storage-hang proven "fsfreeze -f $storage/export"
fsfreeze -u $storage/export
stop_vm
umount $storage/nfs
echo 0 >/proc/fs/nfsd/threads
umount $storage/export
