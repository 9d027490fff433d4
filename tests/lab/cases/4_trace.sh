# SPDX-License-Identifier: BSD-2-Clause
# -o writes every exit once; the file is whole, and its records count the same.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
kvm-exits -o exits.vmt --csv -- $exits_guest >with_trace.csv 2>with_trace.err
expect_eq $? 0 "exit status"
cat with_trace.err
expect_text with_trace.err "lost: 0"
expect_guest_counts with_trace.csv
[ -x /bin/vm-trace ] || exit 0
vm-trace verify exits.vmt || fail "vm-trace verify"
vm-trace cat exits.vmt >exits.txt || fail "vm-trace cat"
# Each exit that was seen to end is one record.
expect_eq "$(grep -c ' kvm_exit ' exits.txt)" "$(awk -F, '$6 == "kvm" { s += $10 } END { print s + 0 }' with_trace.csv)" "kvm_exit records"
rm -f exits.txt
