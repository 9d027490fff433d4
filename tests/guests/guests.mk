# SPDX-License-Identifier: BSD-2-Clause
# The guests: one boot sector or PVH kernel for each variant. `make guests` puts them into $(BUILD)/guests.
.PHONY: guests
guests:
