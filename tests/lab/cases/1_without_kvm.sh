# SPDX-License-Identifier: BSD-2-Clause
# No kvm module: one clear line, exit status 3, and --check says the same.
. /lab/lib.sh
unload_kvm
kvm-exits -d 1s >out.txt 2>err.txt
expect_eq $? 3 "exit status without kvm"
expect_text err.txt "the kvm module is not loaded"
expect_text err.txt "modprobe kvm"
kvm-exits --check >check.txt
expect_eq $? 3 "exit status of --check"
expect_text check.txt "kvm           missing"
