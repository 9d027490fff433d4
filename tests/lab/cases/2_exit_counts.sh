# SPDX-License-Identifier: BSD-2-Clause
# A guest with a known number of exits: exactly these are reported, by BTF, with nothing lost.
. /lab/lib.sh
load_kvm
kvm-exits --check >check.txt || { cat check.txt; fail "--check"; }
expect_text check.txt "guests run by svm"
expect_text check.txt "the reason is read from what KVM cached"
kvm-exits --csv -- $exits_guest >btf.csv 2>btf.err
expect_eq $? 0 "exit status"
cat btf.err
expect_text btf.err "the command ended with status 3"
expect_guest_counts btf.csv
! grep -q "lost" btf.err || fail "something was lost"
# The same as a person sees it.
kvm-exits -- $exits_guest >table.txt 2>/dev/null
expect_text table.txt "hlt (asleep)"
expect_text table.txt "0x80 write (POST code)"
expect_text table.txt "lost: 0"
