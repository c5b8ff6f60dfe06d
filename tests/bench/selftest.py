#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does the benchmark notice? Run by tests/integration/test-bench.sh, inside the sandbox.

Every measurement on a mount, tiny, on a local directory that plays both client and server: once as
it is, and once with somebody who spoils the data, before they are read or after they were written.
Spoiled data must fail; so must a contender that does not mount or hangs. Prints TAP.
"""
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import bench  # noqa: E402
import contenders  # noqa: E402
import onmount  # noqa: E402
import report  # noqa: E402
import targets  # noqa: E402
from system import Failed, comm_pids  # noqa: E402

HERE = os.environ["T"]
bench.set_rtt = lambda ms: None  # no relay: there is no network


class Directory(contenders.Contender):
	"""A mount without a file system: the directory by another path."""

	def mount(self, rtt):
		if not os.path.islink(self.dir):
			os.rmdir(self.dir)
			os.symlink(self.server, self.dir)

	def unmount(self):
		os.unlink(self.dir)
		os.mkdir(self.dir)


class Broken(Directory):
	def mount(self, rtt):
		raise Failed("no such server")


def spoil(top):
	"""One byte of every file, a quarter into it; and one name less in every directory of many."""
	for path, _, names in os.walk(top):
		if "/.git" in path:
			continue
		if len(names) > 3:
			os.unlink(f"{path}/{sorted(names)[1]}")
		for name in names:
			try:
				with open(f"{path}/{name}", "r+b") as f:
					f.seek(os.path.getsize(f.name) // 4)
					byte = f.read(1)
					f.seek(-1, os.SEEK_CUR)
					f.write(bytes([byte[0] ^ 1]))
			except (OSError, IndexError):
				pass


class Sabotage(bench.Run):
	"""when: "before" or "after" each workload, or never."""

	def __init__(self, sizes, families, when=None):
		super().__init__(sizes, families)
		self.when = when

	def progress(self, text):
		pass

	def work(self, name, **args):
		if self.when == "before":
			spoil(self.server)
		got = super().work(name, **args)
		if self.when == "after":
			spoil(self.server)
		return got


class Tiny(bench.Sizes):
	def __init__(self):
		super().__init__(False)
		self.rounds, self.seq_mib, self.seq_4k_mib, self.many_mib = 1, 2, 1, 1
		self.rand_mib = self.rand_write_mib = 1
		self.rand_seconds = 0.2
		self.files, self.files_p8, self.tree, self.tree_p8 = 40, 64, 60, 160
		self.rtt_mib, self.rtt_4k_mib, self.rtt_files, self.rtt_tree = 1, 1, 4, 60
		self.limit_s = 20


COUNT = 0
BAD = 0


def check(name, good, why=""):
	global COUNT, BAD
	COUNT += 1
	BAD += not good
	print(f"{'' if good else 'not '}ok {COUNT} - {name}")
	if not good and why:
		print(f"#   {why}")


def outcome(m, when=None, kind=Directory):
	server = f"{HERE}/bench-server"
	os.makedirs(server, exist_ok=True)
	the_run = Sabotage(Tiny(), {f: [kind("dir", "peer", server)] for f in ("sftp", "nfs")}, when)
	the_run.server = server
	sys.stderr.flush()
	the_run.measure(m)
	return the_run


def metric(unit="MB/s", **medians):
	kinds = {"cvol": "cvol", "engine": "limit"}
	return {"unit": unit, "kinds": {c: kinds.get(c, "peer") for c in medians},
		"samples": {c: [v] for c, v in medians.items()}}


def check_targets():
	def met(name, metrics):
		return [t for t in targets.check({"metrics": metrics}) if t["metric"] == name][0]["met"]

	read = "sftp.seq-read-1m.cold"
	check("targets: reached", met(read, {read: metric(cvol=160, sshfs=100, rclone=90)}) is True)
	check("targets: the best peer counts", met(read, {read: metric(cvol=160, sshfs=80, rclone=101)}) is False)
	check("targets: less is better for times", met("sftp.untar", {"sftp.untar": metric("s", cvol=2, sshfs=3)}) is True)
	check("targets: not measured is not met", met(read, {}) is None)
	check("targets: a number as the upper limit",
	      met("nfs.rtt20.create", {"nfs.rtt20.create": metric("RTT", cvol=4.1)}) is False)
	check("targets: rows behind a peer are found", met("sftp.*", {read: metric(cvol=1, sshfs=2)}) is False)


def check_docs():
	docs = f"{HERE}/docs"
	os.makedirs(docs, exist_ok=True)
	page = f"{docs}/benchmarks.md"
	results = {"metrics": {"sftp.seq-read-1m.cold": metric(cvol=160, sshfs=100),
			       "sftp.untar": metric("s", cvol=2, sshfs=1)},
		   "date": "2001-02-03", "seconds": 5, "mode": "quick", "rounds": 1, "patterns": ["*"],
		   "sizes": vars(Tiny()), "load_before": 0.5, "busy_before": 0.25, "absent": ["nfs, kernel: none"],
		   "notes": [], "failures": [], "machine": {
			"cores": 2, "cpu": "Abacus", "memory_gib": 1, "virtual": None, "kernel": "1.2.3",
			"server_fs": "tmpfs", "versions": {"cvol": "1"}}}
	results["targets"] = targets.check(results)

	def write(**changes):
		with open(page, "w", encoding="utf-8") as f:
			f.write(f"by hand\n{report.BEGIN}\nold\n{report.END}\nalso by hand\n")
		status = report.write_docs(dict(results, **changes), docs, False)
		with open(page, encoding="utf-8") as f:
			return status, f.read()

	status, text = write()
	check("docs: written", status == 0 and "\nold\n" not in text)
	check("docs: what is written by hand stays", text.startswith("by hand\n") and text.endswith("also by hand\n"))
	check("docs: machine, date and load are named", all(
		w in text for w in ("Abacus", "2001-02-03", "load was 0.5", "25% of the CPU", "tmpfs")))
	check("docs: targets, the rows behind and who is absent", all(
		w in text for w in ("| ≥ 1.6× the best peer | 1.60× | yes |", "sftp.untar (0.50×)", "nfs, kernel: none")))
	check("docs: a part of a run does not replace the whole", write(patterns=["sftp.seq*"]) ==
	      (1, f"by hand\n{report.BEGIN}\nold\n{report.END}\nalso by hand\n"))


def main():
	os.makedirs(f"{HERE}/log", exist_ok=True)
	sys.stderr = open(f"{HERE}/log/bench-self.log", "w", encoding="utf-8")
	cells = [m for m in onmount.on_mounts(Tiny()) if m.name.startswith("sftp.") and not m.name.endswith("mount")]
	for m in cells:
		good = outcome(m)
		check(f"{m.name}: works", not good.failures and good.metrics, "; ".join(good.failures))
		found = [w for w in ("before", "after") if any(
			"data differ" in f for f in outcome(m, w).failures)]
		check(f"{m.name}: spoiled data are found ({', '.join(found) or 'never'})", found)
	check("a contender that does not mount is a failure",
	      outcome(cells[0], kind=Broken).failures == [f"{cells[0].name}, dir: no such server"])

	sizes = Tiny()
	sizes.limit_s = 1
	the_run = bench.Run(sizes, {})
	bench.work.WORKLOADS["sleeper"] = lambda a: bench.work.at_once([["setsid", "sleep", "600"]])
	try:
		the_run.work("sleeper")
		check("a workload that hangs is ended", False)
	except Failed as e:
		check("a workload that hangs is ended", "not finished" in str(e), str(e))
	end = time.monotonic() + 5
	while comm_pids("sleep") and time.monotonic() < end:
		time.sleep(0.05)
	check("and nothing of it is left", not comm_pids("sleep"))

	with open(f"{HERE}/filesystems", "w", encoding="ascii") as f:
		f.write("nodev\tnfsd\nnodev\tsysfs\n\text4\n")
	kernel = contenders.KernelNfs("kernel", "peer", "/")
	reason = kernel.absent(f.name)
	check("the kernel's NFS client: its absence is explained", reason and ("no NFS client" in reason or "mount.nfs" in reason))
	with open(f.name, "a", encoding="ascii") as f:
		f.write("nodev\tnfs\n")
	check("the kernel's NFS client: found where it is", not contenders.shutil.which("mount.nfs") or
	      kernel.absent(f.name) is None)
	check_targets()
	check_docs()
	print(f"1..{COUNT}")
	return 1 if BAD else 0


if __name__ == "__main__":
	sys.exit(main())
