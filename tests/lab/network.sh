# SPDX-License-Identifier: BSD-2-Clause
# A server's machine of its own: a network namespace behind a veth pair whose way can be made bad. Sourced after storage.sh.
for module in veth sch_netem tcp_diag unix_diag; do modprobe $module || fail "modprobe $module"; done
near_address=192.0.2.1 far_address=192.0.2.2
# The shell would take its own.
ip=/bin/ip

# far COMMAND…: there.
far() { nsenter -t $far_pid -n "$@"; }
# Makes it, both ends up.
make_far() {
  $ip link del near 2>/dev/null # What a case before has left.
  $ip link set lo up
  unshare -n sleep 3600 &
  far_pid=$!
  tries=0
  until [ "$(readlink /proc/$far_pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do
    [ $((tries += 1)) -lt 100 ] || fail "unshare -n"
    usleep 100000
  done
  $ip link add near type veth peer name far netns $far_pid &&
    $ip addr add $near_address/24 dev near && $ip link set near up &&
    far $ip addr add $far_address/24 dev far && far $ip link set far up && far $ip link set lo up || fail "ip link"
}
end_far() {
  $ip link del near
  kill $far_pid
  wait $far_pid 2>/dev/null
  return 0
}
# The way in both directions is like that: of netem's words. As commands, for expect_cause.
make_link() { echo "nsenter -t $far_pid -n /bin/tc qdisc replace dev far root netem $* && /bin/tc qdisc replace dev near root netem $*"; }
mend_link() { far /bin/tc qdisc del dev far root; /bin/tc qdisc del dev near root; }

# start_far PORT COMMAND…: a server there, listening on that port; its id is in $server.
start_far() {
  port=$(printf ':%04X ' "$1")
  shift
  # Not by far(): a function in the background is a shell, and not the server itself.
  nsenter -t $far_pid -n "$@" >$storage/server.log 2>&1 &
  server=$!
  tries=0
  until far cat /proc/net/tcp /proc/net/tcp6 | grep -qF "$port"; do
    kill -0 $server 2>/dev/null && [ $((tries += 1)) -lt 200 ] || { cat $storage/server.log; fail "the server does not listen"; }
    usleep 100000
  done
}
