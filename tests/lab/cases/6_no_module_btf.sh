# SPDX-License-Identifier: BSD-2-Clause
# kvm modules without BTF: the classic tracepoint serves, the tool says so, and the counts are the same.
. /lab/lib.sh
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
load_kvm nobtf/
[ -e /sys/kernel/btf/kvm ] && fail "this kvm has BTF after all"
kvm-exits --check >nobtf_check.txt
expect_text nobtf_check.txt "the classic tracepoint is used"
kvm-exits --csv -- $exits_guest >nobtf.csv 2>nobtf.err
expect_eq $? 0 "exit status"
cat nobtf.err
expect_text nobtf.err "classic tracepoint"
expect_guest_counts nobtf.csv
