# SPDX-License-Identifier: Apache-2.0
# make bench, make bench-full, make bench-docs. Included by the Makefile.
#
#	make bench                      a few minutes
#	make bench BENCH='sftp.seq*'    the measurements whose names match (shell patterns, several)
#	make bench-list                 their names
#	make bench-full                 larger files, more of them, more rounds, a ten minute soak
#	make bench-docs                 the last results into docs/benchmarks.md and docs/bench/
#	make bench FUSE_NFS=/path       with fuse-nfs as a contender

BENCH ?= *
BENCH_RUN = BUILD=$(BUILD) FUSE_NFS="$(FUSE_NFS)" tests/bench/run.sh --out $(BUILD)

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
