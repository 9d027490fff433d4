# SPDX-License-Identifier: BSD-2-Clause
# Without root: which capabilities are missing, and exit status 3.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
chmod 777 /tmp/out
su nobody -c "kvm-exits -d 1s" >user.txt 2>user.err
expect_eq $? 3 "exit status"
expect_text user.err "CAP_BPF and CAP_PERFMON missing"
expect_text user.err "run as root"
