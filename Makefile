# SPDX-License-Identifier: BSD-2-Clause
#
# vmwhy: why is this VM paused or stalled?
#
# Targets
#   all          every binary, in $(BUILD)/bin (the default)
#   demo         a real VM pauses on a full file system and is explained; report and trace in $(BUILD)/demo
#   check        every test suite; the last line says "N passed, N failed, N skipped"
#   lab          the lab alone: Debian kernels in QEMU, where KVM's tracepoints fire
#   bench        every figure of docs/, one JSON line each
#   fuzz         every fuzzer for FUZZ_SECONDS each, after its regressions (clang, ASan, UBSan)
#   lint         layering, header docstrings, docs, man pages, shell scripts, run-tests itself, format, clang-tidy;
#                lint-layering, lint-headers, … are each alone
#   format       rewrite the sources with clang-format
#   tests        the test suites, without running them
#   fuzzers      the fuzzers, without running them
#   guests       the guests of tests/guests
#   man          the man pages, in $(BUILD)/man
#   install      binaries and man pages below $(DESTDIR)$(PREFIX)
#   setup        install the Debian packages that are missing (root; otherwise print the command)
#   clean        remove $(BUILD)
#   help         this text
#
# Knobs
#   DEBUG=1           -O0 -g3
#   SAN=1             ASan and UBSan, in a build folder of its own
#   BUILD=build       where everything goes
#   SUITES="unit …"   the suites that check runs: unit golden cli bpf qemu lab
#   FILTER=PATTERN    only the tests that match (GoogleTest's pattern)
#   RETRY=1           run a test that failed once more, alone; passed then, it is listed as flaky
#   BENCH="NAME …"    only these benchmarks
#   FUZZ_SECONDS=60   time of each fuzzer
#   TIDY_SECONDS=300  time that clang-tidy may take in lint; it begins with the files changed last
#   PREFIX=/usr/local DESTDIR=
#   CXX=g++  CXXFLAGS=  the compiler, and more flags for it
#   V=1               print whole commands

SAN ?=
DEBUG ?=
BUILD ?= build$(if $(SAN),-san)
PREFIX ?= /usr/local
DESTDIR ?=
FUZZ_SECONDS ?= 60
TIDY_SECONDS ?= 300
SUITES ?= unit golden cli bpf qemu lab
FILTER ?= *
BENCH ?=

export BUILD

.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif

# What the build needs is installed before anything else is made. The stamp is remade when the list changes.
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out help clean setup,$(GOALS)),)
-include $(BUILD)/setup.mk
endif

$(BUILD)/setup.mk: scripts/setup scripts/packages
	@mkdir -p $(@D)
	@scripts/setup
	@echo "# made by scripts/setup" >$@

VERSION := $(shell cat VERSION)
GIT_SHA := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

CCACHE := $(shell command -v ccache 2>/dev/null)
CXX := $(if $(filter default undefined,$(origin CXX)),g++,$(CXX))
WARNINGS := -Wall -Wextra -Werror -Wno-missing-field-initializers
OPTIMIZE := $(if $(DEBUG),-O0 -g3,-O2 -g1)
comma := ,
SANITIZE := $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
CXXFLAGS ?=
ALL_CXXFLAGS = -std=c++20 $(WARNINGS) $(OPTIMIZE) $(SANITIZE) -pthread -I. -Itools/lib -I$(BUILD)/gen \
	-DBOOST_ASIO_SEPARATE_COMPILATION $(CXXFLAGS)
# What a binary does not use it is not linked to: only the tools with probes need libbpf.
LDLIBS := -Wl,--as-needed -lfmt -lboost_json -lboost_container -lzstd -lxxhash -lbpf -ldw -lelf -lz -pthread

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(2);)

QMP_SRC := $(wildcard qmp/*.cpp qmp/proto/*.cpp)
LIB_SRC := $(wildcard tools/lib/*/*.cpp tools/lib/*/*/*.cpp)
TOOLS := $(patsubst tools/%/main.cpp,%,$(wildcard tools/*/main.cpp))
TOOL_SRC := $(filter-out %/main.cpp,$(foreach t,$(TOOLS),$(wildcard tools/$(t)/*.cpp)))
SUPPORT_SRC := $(wildcard tests/support/*.cpp)
TEST_SUITES := unit golden cli bpf qemu
BENCH_SRC := $(wildcard tests/bench/*.cpp)
FUZZERS := $(patsubst tests/fuzz/%.cpp,%,$(wildcard tests/fuzz/fuzz_*.cpp))

obj = $(patsubst %.cpp,$(BUILD)/obj/%.o,$(1))
LIBS := $(BUILD)/lib/libtools.a $(BUILD)/lib/libvmwhy.a $(BUILD)/lib/libqmp.a $(BUILD)/lib/libbpfload.a
BINS := $(addprefix $(BUILD)/bin/,$(TOOLS))

.PHONY: all
all: $(BINS)

include bpf/bpf.mk

# ---- compile -----------------------------------------------------------------------------------------------

$(BUILD)/obj/tests/%.o: private OPTIMIZE := $(if $(DEBUG),-O0 -g3,-O0 -g1)
$(BUILD)/obj/tests/bench/%.o: private OPTIMIZE := -O2 -g1
# $(BUILD)/setup.mk as an order-only prerequisite: packages first.
$(BUILD)/obj/%.o: %.cpp $(BUILD)/flags | $(BUILD)/setup.mk
	$(call say,CXX,$<)mkdir -p $(@D) && $(CCACHE) $(CXX) $(ALL_CXXFLAGS) -MMD -MP -c $< -o $@

# The flags of the last build: objects are remade when they change.
$(BUILD)/flags: force
	@mkdir -p $(@D); echo '$(CXX) $(ALL_CXXFLAGS)' | cmp -s - $@ || echo '$(CXX) $(ALL_CXXFLAGS)' >$@
.PHONY: force
force:

$(BUILD)/gen/version.hpp: VERSION force
	@mkdir -p $(@D); printf '#pragma once\n#define VMWHY_VERSION "%s"\n#define VMWHY_GIT_SHA "%s"\n' \
		'$(VERSION)' '$(GIT_SHA)' >$@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(BUILD)/obj/tools/lib/cli/version.o: $(BUILD)/gen/version.hpp

archive = $(call say,AR,$@)mkdir -p $(@D) && rm -f $@ && ar rcs $@ $^
$(BUILD)/lib/libqmp.a: $(call obj,$(QMP_SRC))
	$(archive)
$(BUILD)/lib/libvmwhy.a: $(call obj,$(LIB_SRC))
	$(archive)
$(BUILD)/lib/libtools.a: $(call obj,$(TOOL_SRC))
	$(archive)
$(BUILD)/lib/libsupport.a: $(call obj,$(SUPPORT_SRC))
	$(archive)

link = $(call say,LD,$@)mkdir -p $(@D) && $(CXX) $(SANITIZE) $(OPTIMIZE) -pthread $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) $(1) -o $@

$(BINS): $(BUILD)/bin/%: $(BUILD)/obj/tools/%/main.o $(LIBS)
	$(call link)

# ---- tests -------------------------------------------------------------------------------------------------

test_obj = $(call obj,$(wildcard tests/$(1)/*.cpp))
define suite_rule
$(BUILD)/tests/$(1): $(call test_obj,$(1)) $(BUILD)/lib/libsupport.a $(LIBS)
	$$(call link,-lgtest -lgmock)
endef
$(foreach s,$(TEST_SUITES),$(eval $(call suite_rule,$(s))))

$(BUILD)/tests/bench: $(call obj,$(BENCH_SRC) tests/bpf/kernel_memory.cpp) $(BUILD)/lib/libsupport.a $(LIBS)
	$(call link,-lgtest)

# Not a binary: boots kernels and prints what a suite prints.
$(BUILD)/tests/lab: scripts/lab $(BINS) | guests
	@mkdir -p $(@D) && ln -sf $(abspath $<) $@
.PHONY: lab
lab: $(BUILD)/tests/lab
	@scripts/run-tests --filter '$(FILTER)' lab

GUESTS_SRC := $(wildcard tests/guests/*.S)
include tests/guests/guests.mk

.PHONY: tests
tests: $(addprefix $(BUILD)/tests/,$(SUITES)) guests

.PHONY: check
check: all tests
	@scripts/run-tests --filter '$(FILTER)' $(SUITES)

.PHONY: bench
bench: all guests $(BUILD)/tests/bench
	@VMWHY_BIN_DIR=$(abspath $(BUILD)/bin) VMWHY_GUEST_DIR=$(abspath $(BUILD)/guests) $(BUILD)/tests/bench $(BENCH)

.PHONY: demo
demo: all guests
	@scripts/demo

# ---- fuzzers: compiled apart, by clang ------------------------------------------------------------------------

FUZZ_FLAGS := -std=c++20 -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer -Wno-everything -pthread -I. -Itools/lib -I$(BUILD)/gen -DBOOST_ASIO_SEPARATE_COMPILATION
FUZZ_LIB_SRC := $(wildcard qmp/failure.cpp qmp/proto/*.cpp tools/lib/core/*.cpp tools/lib/trace/*.cpp tools/lib/clock/*.cpp tools/lib/kvm/*.cpp tools/lib/stalls/*.cpp \
	tools/lib/timeline/*.cpp tools/lib/causes/*.cpp tools/lib/causes/*/*.cpp tools/lib/render/*.cpp)
fuzz_obj = $(patsubst %.cpp,$(BUILD)/fuzz/obj/%.o,$(1))
$(BUILD)/fuzz/obj/%.o: %.cpp | $(BUILD)/setup.mk
	$(call say,FUZZCXX,$<)mkdir -p $(@D) && $(CCACHE) clang++ $(FUZZ_FLAGS) -MMD -MP -c $< -o $@
$(BUILD)/fuzz/libfuzzed.a: $(call fuzz_obj,$(FUZZ_LIB_SRC))
	$(archive)
$(addprefix $(BUILD)/fuzz/,$(FUZZERS)): $(BUILD)/fuzz/%: $(BUILD)/fuzz/obj/tests/fuzz/%.o $(BUILD)/fuzz/libfuzzed.a
	$(call say,LD,$@)clang++ -fsanitize=fuzzer,address,undefined -pthread $^ $(LDLIBS) -o $@
.PHONY: fuzzers fuzz
fuzzers: $(addprefix $(BUILD)/fuzz/,$(FUZZERS))
fuzz: fuzzers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz $(FUZZERS)

# ---- lint, docs, install ---------------------------------------------------------------------------------------

LINTS := layering headers docs man shell run-tests format tidy
.PHONY: lint $(addprefix lint-,$(LINTS)) format
lint: $(addprefix lint-,$(filter-out tidy,$(LINTS)))
	@$(MAKE) --no-print-directory lint-tidy
$(addprefix lint-,$(LINTS)): lint-%: $(BUILD)/gen/version.hpp $(BPF_SKELETONS) | $(BUILD)/setup.mk
	@TIDY_SECONDS=$(TIDY_SECONDS) CXX='$(CXX)' FLAGS='$(filter-out -Werror,$(ALL_CXXFLAGS))' scripts/lint-$*
format:
	@git ls-files '*.cpp' '*.hpp' '*.c' '*.h' | xargs clang-format -i

MAN_SRC := $(wildcard docs/man/*.scd)
MANS := $(patsubst docs/man/%.scd,$(BUILD)/man/%,$(MAN_SRC))
$(BUILD)/man/%: docs/man/%.scd | $(BUILD)/setup.mk
	$(call say,SCDOC,$<)mkdir -p $(@D) && scdoc <$< >$@
.PHONY: man install setup clean help
man: $(MANS)
install: all man
	install -d $(DESTDIR)$(PREFIX)/bin $(addprefix $(DESTDIR)$(PREFIX)/share/man/man,$(sort $(subst .,,$(suffix $(MANS)))))
	install -m 755 $(BINS) $(DESTDIR)$(PREFIX)/bin
	$(foreach m,$(MANS),install -m 644 $(m) $(DESTDIR)$(PREFIX)/share/man/man$(lastword $(subst ., ,$(m)));)
setup:
	@scripts/setup
clean:
	rm -rf $(BUILD)
help:
	@sed -n '/^# Targets/,/^$$/{s/^# \{0,1\}//;p}' Makefile

-include $(shell [ -d $(BUILD)/obj ] && find $(BUILD)/obj -name '*.d' 2>/dev/null)
-include $(shell [ -d $(BUILD)/fuzz/obj ] && find $(BUILD)/fuzz/obj -name '*.d' 2>/dev/null)
