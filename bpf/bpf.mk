# SPDX-License-Identifier: BSD-2-Clause
# Probe families: bpf/probes/<family>.bpf.c → BPF object → skeleton $(BUILD)/gen/bpf/<family>.skel.h. The structs of
# the kernel that a probe reads are written by hand in bpf/include/kernel.bpf.h, so that neither a running kernel nor
# its BTF is needed here.

BPF_CLANG ?= clang
BPFTOOL := $(or $(shell command -v bpftool 2>/dev/null),/usr/sbin/bpftool)
BPF_MULTIARCH := $(shell $(CXX) -print-multiarch 2>/dev/null)
BPF_ARCH := $(patsubst aarch64,arm64,$(patsubst x86_64,x86,$(shell uname -m)))
# -mcpu=v3: atomic fetch-and-add (Linux 5.12). -g is the BTF that CO-RE relocates by, not debug information.
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter \
	-D__TARGET_ARCH_$(BPF_ARCH) -I. -I/usr/include/$(BPF_MULTIARCH)
BPF_FAMILIES := $(patsubst bpf/probes/%.bpf.c,%,$(wildcard bpf/probes/*.bpf.c))
BPF_SKELETONS := $(patsubst %,$(BUILD)/gen/bpf/%.skel.h,$(BPF_FAMILIES))
BPF_LOAD_SRC := $(wildcard bpf/load/*.cpp)

$(BUILD)/bpf/%.bpf.o: bpf/probes/%.bpf.c | $(BUILD)/setup.mk
	$(call say,BPF,$<)mkdir -p $(@D) && $(BPF_CLANG) $(BPF_CFLAGS) -MMD -MP -MT $@ -c $< -o $@.tmp -MF $(@:.o=.d) && \
		$(BPFTOOL) gen object $@ $@.tmp && rm $@.tmp

$(BUILD)/gen/bpf/%.skel.h: $(BUILD)/bpf/%.bpf.o
	$(call say,SKEL,$@)mkdir -p $(@D) && $(BPFTOOL) gen skeleton $< name $*_bpf >$@.new && mv $@.new $@

$(BUILD)/lib/libbpfload.a: $(call obj,$(BPF_LOAD_SRC))
	$(archive)
# Whoever includes a skeleton finds it made.
$(call obj,$(BPF_LOAD_SRC)): | $(BPF_SKELETONS)

-include $(wildcard $(BUILD)/bpf/*.d)

# ---- tests/bpf: programs and BTF of its own -----------------------------------------------------------------

BPF_TEST_SRC := $(wildcard tests/bpf/*.cpp)
BPF_TEST_SKELETONS := $(patsubst tests/bpf/probes/%.bpf.c,$(BUILD)/gen/bpf/%.skel.h,$(wildcard tests/bpf/probes/*.bpf.c))
BPF_LAYOUTS := $(patsubst tests/bpf/layouts/%.c,$(BUILD)/bpf/layouts/%.o,$(wildcard tests/bpf/layouts/*.c))
$(BUILD)/bpf/%.bpf.o: tests/bpf/probes/%.bpf.c | $(BUILD)/setup.mk
	$(call say,BPF,$<)mkdir -p $(@D) && $(BPF_CLANG) $(BPF_CFLAGS) -MMD -MP -c $< -o $@
$(BUILD)/bpf/layouts/%.o: tests/bpf/layouts/%.c $(wildcard tests/bpf/layouts/*.h) | $(BUILD)/setup.mk
	$(call say,BPF,$<)mkdir -p $(@D) && $(BPF_CLANG) -target bpf -g -O2 -Wall -Werror -c $< -o $@
$(call obj,$(BPF_TEST_SRC) $(wildcard tests/bench/bench_kvm*.cpp tests/bench/bench_io*.cpp)): | $(BPF_SKELETONS) $(BPF_TEST_SKELETONS) $(BPF_LAYOUTS)
.SECONDARY: $(patsubst $(BUILD)/gen/bpf/%.skel.h,$(BUILD)/bpf/%.bpf.o,$(BPF_SKELETONS) $(BPF_TEST_SKELETONS))
