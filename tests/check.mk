# SPDX-License-Identifier: Apache-2.0
# make check, make lint, make demo, make fmt. Included by the Makefile.
#
# Three builds live side by side: $(BUILD) as shipped, $(BUILD)/san with the address and undefined
# behaviour sanitizers (unit tests, engine checks), $(BUILD)/fuzz with clang and libFuzzer. Each is
# this same Makefile called again with another BUILD, so there is one set of rules.

SANITIZERS  = -fsanitize=address,undefined -fno-sanitize-recover=undefined
SAN_CFLAGS  = -O1 -g -fno-omit-frame-pointer
FUZZERS     = -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
SANBUILD    = $(BUILD)/san
FUZZBUILD   = $(BUILD)/fuzz

SRC_UNIT        = $(wildcard tests/unit/test_*.c)
SRC_FUZZERS     = $(wildcard tests/fuzz/fuzz_*.c)
SRC_CONFORMANCE = $(wildcard tests/conformance/*.c)
SRC_ENGINECHECK = $(wildcard tests/tools/engine_check.c)

# ---- test programs, in whatever $(BUILD) this make was called with

TEST_TOOLS = $(BUILD)/tests/delay-proxy $(BUILD)/tests/storm $(BUILD)/tests/clock-jump.so \
	$(BUILD)/tests/slow-calls.so

# One archive per folder, without the mains: a test links what it needs and nothing else.
define archive
$$(BUILD)/lib/$(1).a: $$(filter-out %/main.o,$$(call obj,$$(wildcard $(1)/*.c)))
	@mkdir -p $$(@D)
	@rm -f $$@
	ar rcsD $$@ $$^
endef
$(foreach folder,config plugin fuse backends,$(eval $(call archive,$(folder))))

# Which archives a test needs follows from the headers it, or a header beside it, includes; fuse
# stands on backends.
groups_of  = $(shell sed -n 's,^\#include "\(plugin\|fuse\|backends\)/.*,\1,p' $(1) \
	$(wildcard $(dir $(1))*.h) | sort -u)
archives_of = $(patsubst %,$(BUILD)/lib/%.a,$(call groups_of,$(1)) \
	$(if $(filter fuse,$(call groups_of,$(1))),backends) config)

define test_program
$$(BUILD)/tests/$$(notdir $(1:.c=)): $$(BUILD)/obj/$(1:.c=.o) $$(sort $$(call archives_of,$(1)))
	@mkdir -p $$(@D)
	$$(CC) $$(ALL_LDFLAGS) $(2) -o $$@ $$< -Wl,--as-needed -Wl,--start-group $$(filter %.a,$$^) \
		-Wl,--end-group $$(LIBS_CVOL) $$(LIBS_FUSE) $(3)
endef
$(foreach src,$(SRC_UNIT),$(eval $(call test_program,$(src),,-lcmocka)))
$(foreach src,$(SRC_ENGINECHECK),$(eval $(call test_program,$(src),,)))
$(foreach src,$(SRC_FUZZERS),$(eval $(call test_program,$(src),-fsanitize=fuzzer,)))

# Tests may look at a library's types too.
$(BUILD)/obj/tests/%.o: ALL_CFLAGS += $(CFLAGS_CVOL) $(CFLAGS_FUSE)
-include $(patsubst %.c,$(BUILD)/obj/%.d,$(SRC_UNIT) $(SRC_FUZZERS) $(SRC_CONFORMANCE) $(SRC_ENGINECHECK))

# The conformance suite sees a directory only: no code of ours is in it.
$(BUILD)/tests/conformance: $(call obj,$(SRC_CONFORMANCE))
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^

$(BUILD)/tests/delay-proxy: $(BUILD)/obj/tests/tools/delay-proxy.o
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $<

$(BUILD)/tests/storm: tests/tools/storm.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(WARNINGS) -pthread -o $@ $<

$(BUILD)/tests/%.so: tests/tools/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(WARNINGS) -shared -fPIC -o $@ $<

test_names = $(patsubst %,$(BUILD)/tests/%,$(notdir $(basename $(1))))
.PHONY: test-unit test-engines test-fuzzers test-tools
test-unit: $(call test_names,$(SRC_UNIT))
test-engines: $(call test_names,$(SRC_ENGINECHECK))
test-fuzzers: $(call test_names,$(SRC_FUZZERS))
test-tools: $(TEST_TOOLS) $(if $(SRC_CONFORMANCE),$(BUILD)/tests/conformance)

MAKE_SAN  = +$(MAKE) --no-print-directory BUILD=$(SANBUILD) SANITIZE="$(SANITIZERS)" CFLAGS="$(SAN_CFLAGS)"
MAKE_FUZZ = +$(MAKE) --no-print-directory BUILD=$(FUZZBUILD) CC=clang SANITIZE="$(FUZZERS)" CFLAGS="$(SAN_CFLAGS)"

# ---- make check

# Its last line is "N passed, N failed, N skipped". What does not build is reported there as failed,
# so building goes on past an error (-k).
.PHONY: check check-deps check-build check-unit check-engines check-conformance check-integration \
	check-fault check-fuzz
CHECK = BUILD=$(BUILD) tests/run

check: check-deps
	-+$(MAKE) --no-print-directory -k check-build
	@$(CHECK) unit engines conformance integration fault fuzz

check-deps:
	@tests/deps.sh build run test

.PHONY: check-build-san check-build-fuzz
check-build: all test-tools check-build-san check-build-fuzz

check-build-san:
	$(MAKE_SAN) -k test-unit test-engines

check-build-fuzz:
	$(MAKE_FUZZ) -k test-fuzzers

check-unit:
	$(MAKE_SAN) test-unit
	@$(CHECK) unit

check-engines:
	$(MAKE_SAN) test-engines
	@$(CHECK) engines

check-conformance: all test-tools
	@$(CHECK) conformance

check-integration: all $(TEST_TOOLS)
	@$(CHECK) integration

check-fault: all $(TEST_TOOLS)
	@$(CHECK) fault

check-fuzz:
	$(MAKE_FUZZ) test-fuzzers
	@$(CHECK) fuzz

# ---- long ones, no part of make check

#	make check-faults [FAULT_SCALE=25] [SEED=n]    the fault tests for longer; SEED repeats their moments
.PHONY: check-faults
FAULT_SCALE ?= 25
check-faults: all test-tools
	@SEED=$${SEED:-$$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')} && export SEED && \
		echo "check-faults: SEED=$$SEED FAULT_SCALE=$(FAULT_SCALE)" && \
		FAULT_SCALE=$(FAULT_SCALE) $(CHECK) fault

#	make check-posix PJDFSTEST=/path [ENGINES="local nfs"]    pjdfstest, see CONTRIBUTING.md
#	make check-random [RANDOM_SECONDS=600] [ENGINES="nfs sftp"]      random operations against a model
.PHONY: check-posix check-random
RANDOM_SECONDS ?= 600
check-posix: all
	@BUILD=$(BUILD) PJDFSTEST="$(PJDFSTEST)" tests/tools/check-posix $(ENGINES)

check-random: all test-tools
	@for engine in $(or $(ENGINES),mem dir nfs sftp); do \
		seed=$$(od -An -N2 -tu2 /dev/urandom | tr -d ' '); \
		echo "$$engine, $(RANDOM_SECONDS) s, seed $$seed:"; \
		BUILD=$(BUILD) tests/tools/on-mount $$engine $(abspath $(BUILD))/tests/conformance \
			--only random_operations --seconds $(RANDOM_SECONDS) --seed $$seed || exit 1; \
	done

# ---- make demo

.PHONY: demo
demo:
	@tests/demo.sh

# ---- make lint, make fmt

C_FILES     = $(wildcard $(foreach d,config plugin fuse backends tests/unit tests/fuzz tests/conformance \
	tests/tools tests/bench,$(d)/*.[ch]))
SHELL_FILES = $(wildcard tests/*.sh tests/integration/*.sh tests/fault/*.sh tests/bench/*.sh) tests/run \
	tests/tools/check-layers tests/tools/check-posix tests/tools/with-server tests/tools/on-mount .ci/run packaging/completions/complete packaging/man/refresh-options
TIDY_CHECKS = -*,bugprone-assert-side-effect,bugprone-infinite-loop,bugprone-inc-dec-in-conditions,bugprone-macro-repeated-side-effects,bugprone-misplaced-*,bugprone-multiple-statement-macro,bugprone-posix-return,bugprone-signal-handler,bugprone-sizeof-container,bugprone-suspicious-*,bugprone-terminating-continue,bugprone-too-small-loop-variable,bugprone-unused-return-value,cert-fio38-c,cert-fio44-c,misc-redundant-expression

.PHONY: fmt lint lint-deps check-format check-layers check-shell check-cppcheck check-tidy check-warnings check-paths
fmt:
	clang-format -i $(C_FILES)

lint: lint-deps check-format check-layers check-units check-paths check-shell check-cppcheck check-tidy check-warnings
	@echo "lint: clean"

lint-deps:
	@tests/deps.sh build test lint

check-format:
	clang-format --dry-run -Werror $(C_FILES)

check-layers:
	@tests/tools/check-layers

# Nothing of a developer's machine may end up in the project.
check-paths:
	@! git ls-files -z 2>/dev/null | xargs -0r grep -nIE '/work/[a-z]' -- /dev/null

# SC2016: text for a container's shell; SC2317: functions that `check` calls by name.
check-shell:
	shellcheck -x -e SC2016,SC2317 $(SHELL_FILES)

# It does not know __attribute__((cleanup)), so its leak checks see leaks everywhere; the sanitizers
# look for those.
check-cppcheck:
	cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --platform=unix64 -j 2 \
		--enable=warning,portability,performance --suppress=missingIncludeSystem \
		--suppress=unknownMacro --suppress=memleak --suppress=resourceLeak -I. -D_GNU_SOURCE -DFUSE_USE_VERSION=314 \
		-DCV_VERSION='"x"' -DCV_LIBEXECDIR='"x"' \
		config plugin fuse backends tests/tools

check-tidy:
	clang-tidy --quiet --warnings-as-errors='*' --checks='$(TIDY_CHECKS)' \
		$(wildcard config/*.c plugin/*.c fuse/*.c backends/*.c) -- \
		$(filter-out -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2,$(ALL_CPPFLAGS)) $(CFLAGS_CVOL) $(CFLAGS_FUSE)

check-warnings:
	+$(MAKE) --no-print-directory BUILD=$(BUILD)/werror-gcc CC=gcc WERROR=1 all test-tools
	+$(MAKE) --no-print-directory BUILD=$(BUILD)/werror-clang CC=clang WERROR=1 all test-tools
