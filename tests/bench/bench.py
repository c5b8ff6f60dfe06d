#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cvol beside its peers, in one run on one machine. Started by run.sh, inside the tests' sandbox.

A measurement ("sftp.seq-read-1m") is a function in onmount.py; for every round and every contender,
one after the other (A B A B), it gets a fresh mount, runs the workload in a process of its own,
compares the data, and unmounts. What it returns are samples of one or several metrics. Those in
whole.py ("plugin.api") order their contenders themselves.
"""
import argparse
import fnmatch
import json
import os
import re
import select
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402
import targets  # noqa: E402
import work  # noqa: E402
from contenders import FAMILIES, make_families  # noqa: E402
from onmount import Cell, on_mounts  # noqa: E402
from system import E, MIB, Cannot, Failed, busy_share, kill_tree, set_rtt  # noqa: E402
from whole import WHOLE  # noqa: E402


class Sizes:
	"""How much is done. quick: make bench; full: make bench-full."""

	def __init__(self, full):
		self.rounds = 5 if full else 3
		self.schedule_s = None if full else 280  # of all on mounts; two rounds do for those behind it
		self.seq_mib = 768 if full else 96
		self.seq_4k_mib = 256 if full else 48
		self.stream_seconds = 15 if full else 1  # no stream goes on after that, however slow
		self.many = 8
		self.many_mib = 64 if full else 12
		self.rand_mib = 256 if full else 32
		self.rand_write_mib = 64 if full else 8
		self.rand_seconds = 10 if full else 0.5
		self.files = 10000 if full else 500
		self.files_p8 = 10000 if full else 800
		self.tree = 5000 if full else 400
		self.tree_p8 = 8000 if full else 640
		self.rtt_mib = 512 if full else 384
		self.rtt_4k_mib = 128 if full else 32
		self.rtt_files = 50 if full else 10
		self.rtt_tree = 300 if full else 25
		self.mounts = (1, 10, 100)
		self.volumes = 1000
		self.slow_peers = full  # rclone: 100 mounts take a minute, 1,000 volumes two
		self.api_seconds = 5 if full else 1
		self.away_seconds = 20 if full else 3
		self.soak_seconds = 600 if full else 0
		self.limit_s = 900 if full else 120


class Run:
	def __init__(self, sizes, families):
		self.sizes, self.families = sizes, families
		self.metrics = {}  # name -> {"unit", "kinds", "samples"}
		self.seconds = {}  # measurement -> how long it took with everything around it
		self.failures, self.notes = [], []
		self.begun = time.monotonic()
		self.schedule = {}  # measurement -> when it should be over, in seconds from the start
		self.tty = sys.stderr.isatty()

	def progress(self, text):
		line = f"[{time.monotonic() - self.begun:5.0f} s] {text}"
		if self.tty:
			sys.stderr.write(f"\r\033[K{line}")
		else:
			sys.stderr.write(line + "\n")
		sys.stderr.flush()

	def add(self, metric, contender, kind, value, unit):
		m = self.metrics.setdefault(metric, {"unit": unit, "kinds": {}, "samples": {}})
		m["kinds"][contender] = kind
		m["samples"].setdefault(contender, []).append(value)

	def fail(self, name, contender, e):
		text = f"{name}, {contender}: {e}"
		self.failures.append(text)
		sys.stderr.write(("\r\033[K" if self.tty else "") + f"FAILED {text}\n")

	def cannot(self, name, contender, e):
		text = f"{name}, {contender}: {e}"
		if text not in self.notes:
			self.notes.append(text)

	def work(self, name, **args):
		"""Runs a workload; its values. In a process of its own, so that a mount that hangs does not
		hang the harness: it is killed with everything below it when it takes too long."""
		ours, theirs = os.pipe()
		pid = os.fork()
		if pid == 0:
			os.close(ours)
			work.child(name, args, theirs)
		os.close(theirs)
		text = None
		try:
			text = self.answer(ours)
		finally:
			os.close(ours)
			if text is None:
				kill_tree(pid)
			# One that cannot be killed has had its time; the sandbox takes it along at the end.
			os.waitpid(pid, 0 if text else os.WNOHANG)
		if text is None:
			raise Failed(f"{name} not finished after {self.sizes.limit_s} s")
		got = json.loads(text or "{}")
		if "differs" in got:
			raise work.Differs(got["differs"])
		if "error" in got or not got:
			raise Failed(got.get("error", f"{name} died"))
		return got

	def answer(self, fd):
		"""All that is written to fd until its end; None when the time is over first."""
		end = time.monotonic() + self.sizes.limit_s
		text = b""
		while select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
			some = os.read(fd, 65536)
			if not some:
				return text.decode()
			text += some
		return None

	def plan(self, chosen):
		"""Each measurement gets its share of the time, by the number of its contenders."""
		if not self.sizes.schedule_s:
			return
		weights = [len(m.contenders(self.families[m.name.split(".")[0]])) for m in chosen]
		for i, m in enumerate(chosen):
			self.schedule[m.name] = self.sizes.schedule_s * sum(weights[:i + 1]) / max(sum(weights), 1)

	def measure(self, m):
		"""All rounds of one measurement over the family's contenders, interleaved."""
		out_of_it = set()
		start = time.monotonic()
		for i in range(self.sizes.rounds):
			now = time.monotonic()
			# Another round takes as long as one of those before.
			if i >= 2 and now + (now - start) / i - self.begun > self.schedule.get(m.name, float("inf")):
				break
			for c in m.contenders(self.families[m.name.split(".")[0]]):
				if c.name in out_of_it:
					continue
				self.progress(f"{m.name}: {c.name}, round {i + 1}")
				try:
					self.cell(m, c)
				except Cannot as e:
					self.cannot(m.name, c.name, e)
					out_of_it.add(c.name)
				except work.Differs as e:
					self.fail(m.name, c.name, f"data differ: {e}")
					out_of_it.add(c.name)
				except (Failed, OSError, subprocess.SubprocessError, ValueError) as e:
					self.fail(m.name, c.name, e)
					out_of_it.add(c.name)
		self.seconds[m.name] = round(time.monotonic() - start, 1)

	def cell(self, m, c):
		set_rtt(m.rtt)
		cell = Cell(self, m, c)
		try:
			for metric, (value, unit) in m.fn(cell, **m.args).items():
				self.add(f"{m.name}{'.' if metric else ''}{metric}", c.name, c.kind, value, unit)
		finally:
			cell.end()

	def measure_whole(self, name):
		self.progress(name)
		start = time.monotonic()
		try:
			WHOLE[name](self)
		except (Failed, OSError, ValueError, subprocess.SubprocessError) as e:
			self.fail(name, "-", e)
		self.seconds[name] = round(time.monotonic() - start, 1)


def machine():
	def first(words, pattern=r"(\d[\w.+~-]*)"):
		try:
			got = subprocess.run(words, capture_output=True, text=True, timeout=10)
			return re.search(pattern, got.stdout + got.stderr).group(1)
		except (OSError, AttributeError, subprocess.SubprocessError):
			return None

	def package(name):
		return first(["dpkg-query", "-W", "-f", "${Version}", name], r"(\S+)")

	with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
		cpu = re.search(r"model name\s*: (.*)", f.read())
	with open("/proc/meminfo", encoding="ascii") as f:
		memory_kib = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1))
	virtual = first(["systemd-detect-virt"], r"(\S+)")
	return {
		"cores": os.cpu_count(), "cpu": cpu.group(1) if cpu else os.uname().machine,
		"memory_gib": round(memory_kib / MIB), "virtual": virtual,
		"kernel": ".".join(os.uname().release.split("-")[0].split(".")[:3]),
		"server_fs": subprocess.run(["stat", "-f", "-c", "%T", E["SRV"]], capture_output=True,
					    text=True).stdout.strip(),
		"versions": {"cvol": first([E["CVOL"], "version"]), "sshfs": package("sshfs"),
			     "rclone": package("rclone"), "libnfs": package("libnfs-utils"),
			     "openssh": package("openssh-server"), "nfs-ganesha": package("nfs-ganesha"),
			     "libssh": package("libssh-4"), "docker": package("docker.io"),
			     "fio": package("fio")},
	}


def arguments():
	parser = argparse.ArgumentParser()
	parser.add_argument("--full", action="store_true")
	parser.add_argument("--list", action="store_true")
	parser.add_argument("--rounds", type=int)
	parser.add_argument("--soak", type=int, metavar="SECONDS")
	parser.add_argument("--out", default="build")
	parser.add_argument("patterns", nargs="*", default=["*"])
	args = parser.parse_args()
	args.patterns = [p for words in args.patterns or ["*"] for p in words.split()] or ["*"]
	return args


def sizes_for(args):
	sizes = Sizes(args.full)
	if args.rounds:
		sizes.rounds = args.rounds
	if args.soak is not None:
		sizes.soak_seconds = args.soak
	return sizes


def save(results, out):
	os.makedirs(out, exist_ok=True)
	with open(os.path.join(out, "results.json"), "w", encoding="ascii") as f:
		json.dump(results, f, indent=1)
		f.write("\n")
	print(report.table(results))
	print(report.targets_table(results))
	return report.plots(results, out)


def main():
	args = arguments()
	sizes = sizes_for(args)

	def wanted(name):
		return any(fnmatch.fnmatch(name, p) for p in args.patterns)

	cells = on_mounts(sizes)
	if args.list:
		sys.stdout.write("\n".join([m.name for m in cells] + list(WHOLE)) + "\n")
		return 0
	absent = make_families()
	the_run = Run(sizes, FAMILIES)
	chosen = [m for m in cells if wanted(m.name)]
	whole = [n for n in WHOLE if wanted(n) and (n != "plugin.soak" or sizes.soak_seconds)]
	if not chosen and not whole:
		sys.stderr.write(f"nothing is called {' '.join(args.patterns)}; --list tells the names\n")
		return 2
	begun, load, busy = time.time(), os.getloadavg()[0], busy_share(2)
	signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
	try:
		the_run.plan(chosen)
		for m in chosen:
			the_run.measure(m)
		for name in whole:
			the_run.measure_whole(name)
	except (KeyboardInterrupt, SystemExit):
		the_run.failures.append("the run was ended early")
	if the_run.tty:
		sys.stderr.write("\r\033[K")
	results = {
		"date": time.strftime("%Y-%m-%d", time.gmtime(begun)), "seconds": round(time.time() - begun),
		"mode": "full" if args.full else "quick", "rounds": sizes.rounds, "patterns": args.patterns,
		"sizes": vars(sizes), "load_before": round(load, 2), "busy_before": round(busy, 2),
		"machine": machine(), "metrics": the_run.metrics, "absent": absent, "notes": the_run.notes,
		"failures": the_run.failures, "took": the_run.seconds,
	}
	results["targets"] = targets.check(results)
	out = os.path.join(args.out, "bench")
	plots = save(results, out)
	print(f"{out}/results.json, {len(plots)} plots, {results['seconds']} s")
	for text in absent + the_run.notes:
		print(f"not measured: {text}")
	for text in the_run.failures:
		print(f"FAILED: {text}")
	return 1 if the_run.failures else 0


if __name__ == "__main__":
	sys.exit(main())
