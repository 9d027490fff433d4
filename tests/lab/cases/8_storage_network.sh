# SPDX-License-Identifier: BSD-2-Clause
# The kernel's own nbd client under a VM's disk, whose server goes, or stops.
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
