# SPDX-License-Identifier: BSD-2-Clause
# The guests: one boot sector or PVH kernel for each variant. `make guests` puts them into $(BUILD)/guests.
# README.md of this folder says what each does.

GUEST_ACTS := idle busy dirty ports duty panic crash_loaded triple_fault shutdown suspend watchdog reset
GUESTS := writer.bin reader.bin $(addsuffix .bin,$(GUEST_ACTS)) emulation_failure.elf ring3_loop.elf exits.rom port_storm.rom port_breeze.rom

.PHONY: guests
guests: $(addprefix $(BUILD)/guests/,$(GUESTS))

# $(1): the source, $(2): -D of the variant
assemble = $(call say,AS,$@)mkdir -p $(@D) && gcc -c -Wa,--fatal-warnings -Itests/guests $(2) $(1) -o $@.o

# A boot sector is linked to where the BIOS loads it, as bare bytes.
boot_sector = $(assemble) && ld -N -Ttext 0x7c00 --oformat binary -e _start $@.o -o $@.new && rm $@.o && mv $@.new $@
# A PVH kernel is an ELF file; 1 MiB is where memory begins that is nobody's.
pvh_kernel = $(assemble) && ld -N --no-warn-rwx-segments -Ttext 0x100000 -e entry32 $@.o -o $@.new && rm $@.o && mv $@.new $@
link_rom = ld -N -Ttext 0 --oformat binary -e _start $@.o -o $@.new && rm $@.o && mv $@.new $@

$(BUILD)/guests/writer.bin: tests/guests/disk.S tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call boot_sector,$<,-DWRITE)
$(BUILD)/guests/reader.bin: tests/guests/disk.S tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call boot_sector,$<,)
$(addprefix $(BUILD)/guests/,$(addsuffix .bin,$(GUEST_ACTS))): $(BUILD)/guests/%.bin: tests/guests/act.S tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call boot_sector,$<,-DACT_$*)
$(BUILD)/guests/%.elf: tests/guests/%.S tests/guests/long_mode.inc tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call pvh_kernel,$<,)
# A firmware ends at 4 GiB and begins, in real mode, at F000:0000.
$(BUILD)/guests/port_breeze.rom: tests/guests/port_storm.S tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call assemble,$<,-DOUTS=1000) && $(link_rom)
$(addprefix $(BUILD)/guests/,exits.rom port_storm.rom): $(BUILD)/guests/%.rom: tests/guests/%.S tests/guests/guests.mk | $(BUILD)/setup.mk
	$(call assemble,$<,) && $(link_rom)
