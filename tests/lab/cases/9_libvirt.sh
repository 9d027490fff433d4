# SPDX-License-Identifier: BSD-2-Clause
# A KVM domain of a real libvirt, which holds the only monitor: who stopped it, and libvirt's own reason beside.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
mkdir -p /run/libvirt /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt
grep -q libvirt-qemu /etc/passwd || echo 'libvirt-qemu:x:64055:64055::/:/bin/sh' >>/etc/passwd
printf 'root:x:0:\nlibvirt-qemu:x:64055:\nkvm:x:64056:\n' >/etc/group
printf 'auth_unix_rw = "none"\nunix_sock_rw_perms = "0700"\n' >/etc/libvirt/libvirtd.conf
printf 'user = "root"\ngroup = "root"\ndynamic_ownership = 0\nremember_owner = 0\ncgroup_controllers = []\nnamespaces = []\nsecurity_driver = "none"\n' \
  >/etc/libvirt/qemu.conf
ip link set lo up
virtlogd >virtlogd.log 2>&1 &
libvirtd >libvirtd.log 2>&1 &
daemon=$!
# Until $1 says so, or all is printed.
wait_for() {
  i=0
  until eval "$1" >wait.log 2>&1; do
    [ $((i += 1)) -le 240 ] || { tail -n 20 wait.log libvirtd.log watch.log watch.err 2>/dev/null; fail "not: $1"; }
    usleep 500000
  done
}
virsh() { command virsh -c qemu:///system "$@"; }
wait_for 'virsh version'
cat >domain.xml <<EOF
<domain type='kvm'><name>web1</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>
EOF
virsh define domain.xml || fail "define"
virsh start web1 || { tail -n 20 libvirtd.log /var/log/libvirt/qemu/web1.log; fail "start"; }
grep -qF -- '-accel kvm' /var/log/libvirt/qemu/web1.log || { cat /var/log/libvirt/qemu/web1.log; fail "no KVM domain"; }
qmp-pausewatch -n web1 -o libvirt.vmt >watch.log 2>watch.err &
watch=$!
# This kernel has no unix_diag, which would name the holder before it says something.
wait_for 'grep -q "by listening: its monitor is held by" watch.err'
virsh suspend web1 || fail "suspend"
wait_for 'grep -q "operator-stop (proven)" watch.log'
expect_eq "$(virsh domstate --reason web1 | head -n 1)" "paused (user)" "libvirt's reason"
virsh resume web1 || fail "resume"
wait_for 'grep -qF "goes on after" watch.log'
virsh destroy web1 || fail "destroy"
wait_for 'grep -q "qemu-killed" watch.log'
kill -INT $watch
wait $watch
cat watch.log watch.err
expect_text watch.log "RESUME, as libvirtd ($daemon) asked"
expect_text watch.log "libvirtd ($daemon) sent stop"
vm-why libvirt.vmt >why.log || { cat why.log; fail "vm-why"; }
expect_text why.log "operator-stop (proven)"
killall libvirtd virtlogd
wait
