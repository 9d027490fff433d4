# SPDX-License-Identifier: BSD-2-Clause
# Classic tracepoint and raw_tp report the same exits as tp_btf.
. /lab/lib.sh
[ -e /dev/kvm ] || load_kvm
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
for form in raw classic; do
  kvm-exits --probe $form --csv -- $exits_guest >$form.csv 2>$form.err || { cat $form.err; fail "$form"; }
  expect_guest_counts $form.csv
done
expect_text classic.err "classic tracepoint"
