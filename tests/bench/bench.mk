# SPDX-License-Identifier: Apache-2.0
# make bench, make bench-full, make bench-docs. Included by the Makefile.
#
#	make bench                      a few minutes
#	make bench BENCH='sftp.seq*'    the measurements whose names match (shell patterns, several)
#	make bench-list                 their names
#	make bench-full                 larger files, more of them, more rounds, a ten minute soak
#	make bench-docs                 the last results into docs/benchmarks.md and docs/bench/
#	make bench FUSE_NFS=/path       with fuse-nfs as a contender
#	make bench BENCH_DISK=/dir      the servers' data on that disk instead of in memory
#	make bench ROUNDS=1 SOAK=60     fewer rounds; a soak of so many seconds

BENCH ?= *
BENCH_RUN = BUILD=$(BUILD) FUSE_NFS="$(FUSE_NFS)" BENCH_DISK="$(BENCH_DISK)" tests/bench/run.sh --out $(BUILD) \
	$(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SOAK),--soak $(SOAK))

.PHONY: bench bench-full bench-list bench-docs bench-deps bench-build
bench-deps:
	@tests/deps.sh build run bench

bench-build: all test-tools test-engines

bench: bench-deps
	+@$(MAKE) --no-print-directory bench-build
	@BENCH_DOCKER=1 $(BENCH_RUN) $(foreach b,$(BENCH),'$(b)')

bench-full: bench-deps
	+@$(MAKE) --no-print-directory bench-build
	@BENCH_DOCKER=1 $(BENCH_RUN) --full $(foreach b,$(BENCH),'$(b)')

bench-list:
	@python3 tests/bench/bench.py --list

bench-docs:
	@python3 tests/bench/report.py --docs $(BUILD)/bench/results.json docs
