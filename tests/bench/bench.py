#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cvol beside its peers, in one run on one machine. Started by run.sh, inside the tests' sandbox.

A measurement ("sftp.seq-read-1m") is a function below; for every round and every contender, one
after the other (A B A B), it gets a fresh mount, runs the workload in a process of its own,
compares the data, and unmounts. What it returns are samples of one or several metrics.
"""
import argparse
import fnmatch
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report  # noqa: E402
import work  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
E = os.environ
MIB = 1 << 20


class Failed(Exception):
	"""A contender did not do what it should."""


class Cannot(Exception):
	"""A contender does not offer this; the reason is printed and it is no failure."""


# How much is done. quick: make bench; full: make bench-full.
class Sizes:
	def __init__(self, full):
		self.rounds = 5 if full else 3
		self.seq_mib = 1024 if full else 96
		self.many = 8
		self.many_mib = 64 if full else 12
		self.rand_mib = 256 if full else 64
		self.rand_write_mib = 64 if full else 8
		self.rand_seconds = 10 if full else 1
		self.files = 10000 if full else 500
		self.tree = 5000 if full else 600
		self.rtt_mib = 256 if full else 16
		self.rtt_tree = 300 if full else 25
		self.mounts = (1, 10, 100)
		self.volumes = 1000
		self.slow_peers = full  # rclone: 100 mounts take a minute, 1,000 volumes two
		self.api_seconds = 5 if full else 1
		self.soak_seconds = 600 if full else 0
		self.limit_s = 900 if full else 120


# ---------------------------------------------------------------- processes

def comm_pids(*names):
	out = []
	for pid in os.listdir("/proc"):
		if pid.isdigit():
			try:
				with open(f"/proc/{pid}/comm", encoding="ascii", errors="replace") as f:
					if f.read().strip() in names:
						out.append(int(pid))
			except OSError:
				pass
	return out


def cpu_seconds(pids):
	"""All threads that are alive; in nanoseconds, where utime counts in hundredths."""
	total = 0
	for pid in pids:
		try:
			for tid in os.listdir(f"/proc/{pid}/task"):
				with open(f"/proc/{pid}/task/{tid}/schedstat", encoding="ascii") as f:
					total += int(f.read().split()[0])
		except OSError:
			pass
	return total / 1e9


def pss_mib(pids):
	total = 0
	for pid in pids:
		try:
			with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
				total += int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M).group(1))
		except OSError:
			pass
	return total / 1024


def run(words, limit_s=60, check=True, **kw):
	"""A command that ends in time; its error text is the last line it wrote."""
	try:
		got = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
				     timeout=limit_s, **kw)
	except subprocess.TimeoutExpired as e:
		raise Failed(f"{words[0]}: not finished after {limit_s} s") from e
	if check and got.returncode:
		text = (got.stderr + got.stdout).strip().splitlines()
		raise Failed(f"{os.path.basename(words[0])}: {text[-1] if text else got.returncode}")
	return got


def drop_caches():
	"""Of the client and of the server: both are this kernel."""
	with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
		f.write("3\n")


def set_rtt(ms):
	for name in ("ssh", "nfs", "mount"):
		run([E["PROXY"], "-x", f"{E['T']}/proxy-{name}.sock", f"delay {ms / 2}"], 5)


# ---------------------------------------------------------------- contenders

class Contender:
	"""kind: "cvol", "peer" (counts for the ratio) or "limit" (what no client could beat)."""
	daemons = ()  # the processes that do its work
	tool = False  # copies files, mounts nothing
	streams_only = False  # differs from another contender in large files only

	def __init__(self, name, kind, server):
		self.name, self.kind, self.server = name, kind, server
		self.dir = f"{E['T']}/mnt-{name}"

	def available(self):
		return True

	def mount(self, rtt):
		raise NotImplementedError

	def unmount(self):
		run(["fusermount3", "-u", self.dir], 20)

	def start(self, rtt=0):
		os.makedirs(self.dir, exist_ok=True)
		self.before = set(comm_pids(*self.daemons))
		self.mount(rtt)

	def stop(self):
		try:
			self.unmount()
		except Failed:
			run(["umount", "-l", self.dir], 20, check=False)
			raise
		finally:
			end = time.monotonic() + 10
			while self.pids() and time.monotonic() < end:
				time.sleep(0.02)

	def pids(self):
		return [p for p in comm_pids(*self.daemons) if p not in self.before]


class Cvol(Contender):
	daemons = ("cvol", "cvol-fuse")

	def __init__(self, name, kind, server, family):
		super().__init__(name, kind, server)
		self.family = family

	def source(self, rtt=0):
		"""(source, options)"""
		if self.family == "sftp":
			port = E["SSH_PROXY" if rtt else "SSH_PORT"]
			return (f"sftp://root@127.0.0.1:{port}{E['SSH_ROOT']}",
				{"key_file": E["SSH_KEY"], "known_hosts": E["SSH_KNOWN_HOSTS"]})
		if self.family == "nfs":
			return (f"nfs://127.0.0.1{E['NFS_ROOT']}",
				{"port": E["NFS_PROXY" if rtt else "NFS_PORT"],
				 "mountport": E["MNT_PROXY" if rtt else "MNT_PORT"]})
		return "mem://", {}

	def mount(self, rtt):
		source, options = self.source(rtt)
		words = [E["CVOL"], "mount", source, self.dir]
		if options:
			words += ["-o", ",".join(f"{k}={v}" for k, v in options.items())]
		run(words, 40)

	def unmount(self):
		run([E["CVOL"], "unmount", self.dir], 40)


class Sshfs(Contender):
	daemons = ("sshfs", "ssh")
	extra = ""

	def mount(self, rtt):
		port = E["SSH_PROXY" if rtt else "SSH_PORT"]
		run(["sshfs", "-o", f"IdentityFile={E['SSH_KEY']},UserKnownHostsFile={E['SSH_KNOWN_HOSTS']},"
		     f"port={port},StrictHostKeyChecking=yes{self.extra}", f"root@127.0.0.1:{self.server}", self.dir], 40)


class SshfsGcm(Sshfs):
	"""With the cipher cvol prefers; ssh's own default is a slower one on CPUs with AES."""
	streams_only = True
	extra = ",Ciphers=aes128-gcm@openssh.com"


class Rclone(Contender):
	daemons = ("rclone",)

	def mount(self, rtt):
		port = E["SSH_PROXY" if rtt else "SSH_PORT"]
		# No cache of written data: it would answer close before the server has anything.
		run(["rclone", "mount", f":sftp:{self.server}", self.dir, "--daemon", "--config", "/dev/null",
		     "--sftp-host", "127.0.0.1", "--sftp-port", port, "--sftp-user", "root",
		     "--sftp-key-file", E["SSH_KEY"], "--sftp-known-hosts-file", E["SSH_KNOWN_HOSTS"],
		     "--vfs-cache-mode", "off", "--cache-dir", f"{E['T']}/rclone",
		     # Or it starts a shell on the server after every file.
		     "--sftp-disable-hashcheck"], 60)


class FuseNfs(Contender):
	daemons = ("fuse-nfs",)

	def available(self):
		return bool(E.get("FUSE_NFS"))

	def mount(self, rtt):
		url = nfs_url(self.server, rtt)
		run([E["FUSE_NFS"], "-n", url, "-m", self.dir, "-o", "allow_other"], 40)


class KernelNfs(Contender):
	def available(self):
		with open("/proc/filesystems", encoding="ascii") as f:
			return re.search(r"\bnfs\b", f.read()) and shutil.which("mount.nfs")

	def mount(self, rtt):
		ports = (E["NFS_PROXY"], E["MNT_PROXY"]) if rtt else (E["NFS_PORT"], E["MNT_PORT"])
		run(["mount", "-t", "nfs", "-o", f"vers=3,nolock,port={ports[0]},mountport={ports[1]},"
		     "mountproto=tcp,proto=tcp", f"127.0.0.1:{self.server}", self.dir], 40)

	def unmount(self):
		run(["umount", self.dir], 40)


class Local(Contender):
	"""The server's directory itself."""
	def start(self, rtt=0):
		self.dir = self.server

	def stop(self):
		pass

	def pids(self):
		return []


def nfs_url(path, rtt=0):
	nfs, mnt = (E["NFS_PROXY"], E["MNT_PROXY"]) if rtt else (E["NFS_PORT"], E["MNT_PORT"])
	return f"nfs://127.0.0.1{path}?nfsport={nfs}&mountport={mnt}&version=3"


class NfsTools(Local):
	"""libnfs' nfs-cp and nfs-cat: one file, no mount."""
	tool = True

	def write(self, mib, path, rtt=0):
		local = f"{E['SRV']}/tool-in"
		work.write_plain(local, mib)
		start = time.monotonic()
		run(["nfs-cp", local, nfs_url(path, rtt)], 120)
		seconds = time.monotonic() - start
		os.unlink(local)
		return mib * MIB / 1e6 / seconds

	def read(self, mib, path, rtt=0):
		local = f"{E['SRV']}/tool-out"
		with open(local, "wb") as f:
			start = time.monotonic()
			if subprocess.run(["nfs-cat", nfs_url(path, rtt)], stdout=f, timeout=120).returncode:
				raise Failed("nfs-cat failed")
		seconds = time.monotonic() - start
		work.check_plain(local, mib)
		os.unlink(local)
		return mib * MIB / 1e6 / seconds


class Engine(Local):
	"""cvol's engine without FUSE, and what a plain TCP connection carries."""
	tool = True

	def __init__(self, name, kind, server, family):
		super().__init__(name, kind, server)
		self.cvol = Cvol(name, kind, server, family)
		self.samples = {}  # rates by what was asked for

	def rate(self, what, mib):
		"""One call measures all rates; each of its numbers is used once."""
		if not self.samples.get(what):
			for k, v in self.measured(mib).items():
				self.samples.setdefault(k, []).append(v)
		return self.samples[what].pop(0)

	def measured(self, mib):
		source, options = self.cvol.source()
		out = run([f"{E['BUILD']}/tests/engine_check", "--bench", "--mb", str(mib), self.cvol.family,
			   f"source={source}"] + [f"{k}={v}" for k, v in options.items()], 120).stdout
		found = dict(re.findall(r"^(write|read): (\d+) MB/s", out, re.M))
		for rate, depth in re.findall(r"^getattr: (\d+)/s \((\d+) in", out, re.M):
			found[f"getattr{depth}"] = rate
		return {k: float(v) for k, v in found.items()}


FAMILIES = {}


def make_families():
	nfs, ssh = E["NFS_ROOT"], E["SSH_ROOT"]
	FAMILIES["sftp"] = [Cvol("cvol", "cvol", ssh, "sftp"), Sshfs("sshfs", "peer", ssh), SshfsGcm("sshfs-gcm", "peer", ssh),
			    Rclone("rclone", "peer", ssh), Engine("engine", "limit", ssh, "sftp")]
	FAMILIES["nfs"] = [Cvol("cvol", "cvol", nfs, "nfs"), KernelNfs("kernel", "peer", nfs),
			   FuseNfs("fuse-nfs", "peer", nfs), NfsTools("nfs-cp", "peer", nfs),
			   Engine("engine", "limit", nfs, "nfs"), Local("local", "limit", nfs),
			   Cvol("mem", "limit", None, "mem")]
	for name, all_of in FAMILIES.items():
		FAMILIES[name] = [c for c in all_of if c.available()]


# ---------------------------------------------------------------- the run

class Run:
	def __init__(self, sizes, patterns):
		self.sizes, self.patterns = sizes, patterns
		self.metrics = {}  # name -> {"unit", "better", "kinds", "samples"}
		self.failures, self.notes = [], []
		self.begun = time.monotonic()
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
		"""Runs a workload; its values. Killed with everything below it when it takes too long."""
		p = subprocess.Popen([sys.executable, f"{HERE}/work.py", name, json.dumps(args)],
				     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
				     stderr=subprocess.PIPE, text=True, start_new_session=True)
		try:
			out, err = p.communicate(timeout=self.sizes.limit_s)
		except subprocess.TimeoutExpired as e:
			os.killpg(p.pid, signal.SIGKILL)
			p.communicate(timeout=20)
			raise Failed(f"{name} not finished after {self.sizes.limit_s} s") from e
		got = json.loads(out) if out.strip().startswith("{") else {}
		if "differs" in got:
			raise Failed("data differ: " + " ".join([got["differs"]] + err.strip().splitlines()[-1:]))
		if p.returncode:
			raise Failed(got.get("error") or (err.strip().splitlines() or ["died"])[-1])
		return got

	def measure(self, m, rounds=None):
		"""All rounds of one measurement over the family's contenders, interleaved."""
		family = m.name.split(".")[0]
		out_of_it = set()
		for i in range(rounds or self.sizes.rounds):
			for c in FAMILIES[family]:
				if c.name in out_of_it or (c.tool and not m.tools) or \
				   (c.streams_only and m.fn not in (seq_write, seq_read, many)) or \
				   (c.kind == "limit" and ".rtt" in m.name):
					continue
				self.progress(f"{m.name}: {c.name}, round {i + 1}")
				try:
					self.cell(m, c)
				except Cannot as e:
					self.cannot(m.name, c.name, e)
					out_of_it.add(c.name)
				except (Failed, work.Differs, OSError, subprocess.SubprocessError,
					ValueError) as e:
					self.fail(m.name, c.name, e)
					out_of_it.add(c.name)

	def cell(self, m, c):
		set_rtt(m.rtt)
		cell = Cell(self, m, c)
		try:
			for metric, (value, unit) in m.fn(cell, **m.args).items():
				self.add(f"{m.name}{'.' if metric else ''}{metric}", c.name, c.kind, value, unit)
		finally:
			cell.end()


class Measurement:
	def __init__(self, name, fn, rtt=0, tools=False, **args):
		self.name, self.fn, self.rtt, self.tools, self.args = name, fn, rtt, tools, args


class Cell:
	"""One contender, one round: where its mount and the server's side of it are."""

	serial = 0

	def __init__(self, the_run, m, c):
		self.run, self.m, self.c, self.sizes = the_run, m, c, the_run.sizes
		self.mounted = False
		# A name never used before: what happens behind an NFS server's back it learns late.
		Cell.serial += 1
		self.top = f"bench-{Cell.serial}"
		if c.server:
			os.mkdir(f"{c.server}/{self.top}")

	def clean(self):
		top = f"{self.c.server}/{self.top}"
		for path, _, names in os.walk(top):
			for name in names:
				# A server that keeps removed files open would keep their memory too.
				if not os.path.islink(f"{path}/{name}"):
					os.truncate(f"{path}/{name}", 0)
		shutil.rmtree(top)

	def mount(self):
		self.c.start(self.m.rtt)
		self.mounted = True
		if not self.c.server:
			os.makedirs(self.path(""), exist_ok=True)

	def remount(self):
		if self.c.server:  # what lies in memory would be gone
			if self.mounted:
				self.c.stop()
				self.mounted = False
			self.mount()
		elif not self.mounted:
			self.mount()
		drop_caches()

	def server(self, name):
		"""The server's own path; for a mount of memory the mount is the only way to it."""
		return os.path.join(self.c.server or self.c.dir, self.top, name)

	def path(self, name):
		return os.path.join(self.c.dir, self.top, name)

	def work(self, name, **args):
		pids = self.c.pids()
		before = cpu_seconds(pids)
		got = self.run.work(name, **args)
		self.client_cpu = cpu_seconds(pids) - before if pids else None
		return got

	def end(self):
		if self.mounted:
			self.mounted = False
			try:
				self.c.stop()
			finally:
				if self.c.server:
					self.clean()
		elif self.c.server:
			self.clean()


# ---------------------------------------------------------------- measurements on a mount

def seq_write(cell, request, mib):
	c = cell.c
	if isinstance(c, Engine):
		return {"": (c.rate("write", mib), "MB/s")}
	if c.tool:
		out = {"": (c.write(mib, cell.server("file"), cell.m.rtt), "MB/s")}
		work.check_plain(cell.server("file"), mib)
		return out
	cell.mount()
	got = cell.work("seq_write", path=cell.path("file"), mib=mib, request=request)
	# Before the unmount: when fsync and close have returned it has to be there.
	work.check_plain(cell.server("file"), mib)
	return with_cpu(cell, {"": (got["rate"], "MB/s")}, mib)


def seq_read(cell, request, mib):
	c = cell.c
	if isinstance(c, Engine):
		return {"cold": (c.rate("read", mib), "MB/s")}
	if not c.server:
		cell.mount()
	work.write_plain(cell.server("file"), mib)
	if c.tool:
		drop_caches()
		return {"cold": (c.read(mib, cell.server("file"), cell.m.rtt), "MB/s")}
	work.age(cell.server("file"))
	cell.remount()
	args = {"path": cell.path("file"), "mib": mib, "request": request}
	out = with_cpu(cell, {"cold": (cell.work("seq_read", **args)["rate"], "MB/s")}, mib)
	if not cell.m.rtt:
		out["warm"] = (cell.work("seq_read", **args)["rate"], "MB/s")
	return out


def with_cpu(cell, out, mib):
	if cell.client_cpu is not None and not cell.m.rtt:
		out["cpu"] = (cell.client_cpu / (mib * MIB / 1e9), "s/GB")
	return out


def many(cell, writing):
	n, mib = cell.sizes.many, cell.sizes.many_mib
	names = [f"dir/many{i}" for i in range(n)]
	if writing:
		cell.mount()
	elif not cell.c.server:
		cell.mount()
	os.mkdir(cell.server("dir"))
	if not writing:
		for i, name in enumerate(names):
			work.write_plain(cell.server(name), mib, i * 1000)
			work.age(cell.server(name))
		cell.remount()
	got = cell.work("many_write" if writing else "many_read", dir=cell.path("dir"), workers=n, mib=mib)
	if writing:
		for i, name in enumerate(names):
			work.check_plain(cell.server(name), mib, i * 1000)
	return {"": (got["rate"], "MB/s")}


def rand(cell, rw, depth):
	s = cell.sizes
	if rw == "randwrite" and cell.c.name == "rclone":
		raise Cannot("writes in place only with a write-back cache that answers close early")
	mib = s.rand_write_mib if rw == "randwrite" else s.rand_mib
	if not cell.c.server:
		cell.mount()
	work.write_pages(cell.server("file"), mib, b"\xa5" * work.PAGE if rw == "randwrite" else None)
	cell.remount()
	got = cell.work("rand", path=cell.path("file"), rw=rw, depth=depth, mib=mib, io_mib=mib,
			seconds=s.rand_seconds)
	if rw == "randwrite":
		work.check_pages(cell.server("file"), mib)  # each page was written exactly once
	return {"": (got["iops"], "op/s")}


def small_files(cell):
	n = cell.sizes.files
	cell.mount()
	top = cell.path("dir")
	got = cell.work("small_files", dir=top, files=n, steps=["create"])
	for i in range(n):
		with open(cell.server(f"dir/f{i:05d}"), "rb") as f:
			if f.read() != work.small_content(i):
				raise work.Differs(f"small file {i} on the server")
	cell.remount()
	for steps in (["list", "stat"], ["read"], ["rename", "unlink"]):
		got.update(cell.work("small_files", dir=top, files=n, steps=steps))
		if steps == ["rename", "unlink"]:
			continue
		cell.remount()
	if os.path.exists(cell.server("dir")):
		raise work.Differs("the removed directory is still on the server")
	return {k: (v, "op/s") for k, v in got.items() if k != "cpu"}


class Tree:
	"""The source tree and what is true of it; made once for each number of files."""
	made = {}

	def __init__(self, files):
		self.top = f"{E['T']}/tree-{files}"
		work.make_tree(f"{self.top}/tree", files)
		self.tar = f"{self.top}/tree.tar"
		work.make_tar(f"{self.top}/tree", self.tar)
		self.digest = work.digest_tree(f"{self.top}/tree")
		self.headers = (files + 3) // 4
		self.needles = (files + 49) // 50
		git = ["git", "-C", f"{self.top}/tree", "-c", "user.name=b", "-c", "user.email=b@example.org",
		       "-c", "core.fileMode=false", "-c", "safe.directory=*"]
		run(git + ["init", "-q"])
		run(git + ["add", "."])
		run(git + ["commit", "-q", "-m", "tree"])
		work.make_tar(f"{self.top}/tree", f"{self.top}/git.tar")

	@classmethod
	def of(cls, files):
		if files not in cls.made:
			cls.made[files] = cls(files)
		return cls.made[files]


def untar(cell, files):
	tree = Tree.of(files)
	cell.mount()
	os.mkdir(cell.server("dir"))
	got = cell.work("untar", tar=tree.tar, dir=cell.path("dir"))
	if work.digest_tree(cell.server("dir/tree")) != tree.digest:
		raise work.Differs("the unpacked tree on the server")
	return {"": (got["seconds"], "s")}


WALK = ["find", "ls-lR", "du", "grep", "git-status"]


def walk(cell, files, steps, warm=True):
	tree = Tree.of(files)
	if not cell.c.server:
		cell.mount()
	os.mkdir(cell.server("dir"))
	run(["tar", "xf", f"{tree.top}/git.tar", "--no-same-owner", "-C", cell.server("dir")])
	args = {"dir": cell.path("dir/tree"), "headers": tree.headers, "needles": tree.needles}
	out = {}
	for step in steps:
		cell.remount()
		args["dir"] = cell.path("dir/tree")
		out[f"{step}.cold"] = (cell.work("walk", steps=[step], **args)[step], "s")
	if warm:
		cell.work("walk", steps=steps, **args)
		got = cell.work("walk", steps=steps, **args)
		out.update({f"{step}.warm": (got[step], "s") for step in steps})
	return out


def mount_time(cell):
	if isinstance(cell.c, Local):
		raise Cannot("there is nothing to mount")
	start = time.monotonic()
	cell.mount()
	os.listdir(cell.c.dir)
	return {"": ((time.monotonic() - start) * 1e3, "ms")}


# ---------------------------------------------------------------- measurements without contenders' loop

def _sink(server):
	conn, _ = server.accept()
	buf = bytearray(MIB)
	while conn.recv_into(buf):
		pass
	conn.sendall(b".")


def tcp(the_run):
	mib = the_run.sizes.seq_mib * 4
	for _ in range(the_run.sizes.rounds):
		server = socket.create_server(("127.0.0.1", 0))
		p = multiprocessing.Process(target=_sink, args=(server,))
		p.start()
		s = socket.create_connection(server.getsockname())
		data = work.block(0)
		start = time.monotonic()
		for _ in range(mib):
			s.sendall(data)
		s.shutdown(socket.SHUT_WR)
		s.recv(1)
		the_run.add("limits.tcp", "tcp", "limit", mib * MIB / 1e6 / (time.monotonic() - start), "MB/s")
		s.close()
		server.close()
		p.join()


class Plugin:
	"""A client of the volume plugin protocol, as dockerd is one: one kept connection."""

	def __init__(self, path):
		self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
		self.s.settimeout(60)
		self.s.connect(path)
		self.f = self.s.makefile("rb")

	def call(self, what, body=None):
		data = json.dumps(body or {}).encode()
		self.s.sendall(f"POST /{what} HTTP/1.1\r\nHost: plugin\r\nContent-Length: {len(data)}\r\n\r\n"
			       .encode() + data)
		status = int(self.f.readline().split()[1])
		length, chunked = 0, False
		while (line := self.f.readline().strip().lower()):
			if line.startswith(b"content-length:"):
				length = int(line.split(b":")[1])
			chunked = chunked or line == b"transfer-encoding: chunked"
		out = b""
		if chunked:
			while (size := int(self.f.readline(), 16)):
				out += self.f.read(size)
				self.f.readline()
			self.f.readline()
		else:
			out = self.f.read(length)
		answer = json.loads(out or b"{}")
		if status != 200 or answer.get("Err"):
			raise Failed(f"{what}: {answer.get('Err') or status}")
		return answer


def _api_client(path, call, names, seconds, out):
	try:
		p = Plugin(path)
		times = []
		end = time.monotonic() + seconds
		while time.monotonic() < end:
			name = names[len(times) * 7 % len(names)]
			start = time.monotonic()
			got = p.call(call, {"Name": name} if call.endswith("Get") else None)
			times.append(time.monotonic() - start)
			if call.endswith("Get") and got["Volume"]["Name"] != name:
				raise Failed("another volume was answered")
			if call.endswith("List") and len(got["Volumes"]) < len(names):
				raise Failed("the list is not complete")
		out.put(times)
	except (Failed, OSError, ValueError, IndexError) as e:
		out.put(str(e))


class RclonePlugin:
	"""rclone serve docker, the peer that speaks the same protocol."""

	def __enter__(self):
		self.sock = "/run/docker/plugins/rclone.sock"
		self.log = open(f"{E['T']}/log/rclone-plugin.log", "w", encoding="utf-8")
		for name in ("rclone-cache", "rclone-base"):
			os.makedirs(f"{E['T']}/{name}", exist_ok=True)
		self.p = subprocess.Popen(["rclone", "serve", "docker", "--config", "/dev/null", "--cache-dir",
					   f"{E['T']}/rclone-cache", "--base-dir", f"{E['T']}/rclone-base",
					   "--socket-addr", self.sock, "--socket-gid", "0"], stdout=self.log,
					  stderr=self.log)
		for _ in range(100):
			if os.path.exists(self.sock):
				return self
			time.sleep(0.1)
		raise Failed("rclone serve docker did not start")

	def __exit__(self, *_):
		self.p.terminate()
		try:
			self.p.wait(20)
		except subprocess.TimeoutExpired:
			self.p.kill()
			self.p.wait()
		self.log.close()
		if os.path.exists(self.sock):
			os.unlink(self.sock)


def volume_options(family, contender):
	if contender == "rclone":
		return {"type": "sftp", "path": E["SSH_ROOT"], "sftp-host": "127.0.0.1",
			"sftp-port": E["SSH_PORT"], "sftp-user": "root", "sftp-key-file": E["SSH_KEY"],
			"sftp-known-hosts-file": E["SSH_KNOWN_HOSTS"]}
	source, options = FAMILIES[family][0].source()
	return dict(options, source=source)


def api(the_run):
	s = the_run.sizes
	names = [f"api{i:04d}" for i in range(s.volumes)]
	with RclonePlugin() as rclone:
		plugins = {"cvol": ("cvol", E["PLUGIN_SOCK"])}
		if s.slow_peers:
			plugins["rclone"] = ("peer", rclone.sock)
		else:
			the_run.cannot("plugin.api", "rclone", "takes minutes to create that many; make bench-full")
		for who, (kind, path) in plugins.items():
			p = Plugin(path)
			start = time.monotonic()
			for i, name in enumerate(names):
				if i % 100 == 0:
					the_run.progress(f"plugin.api: {who}, volume {i}")
				p.call("VolumeDriver.Create", {"Name": name, "Opts": volume_options("sftp", who)})
			the_run.add("plugin.api.create", who, kind, s.volumes / (time.monotonic() - start), "op/s")
		for i in range(s.rounds):
			for call, clients in (("Get", 1), ("Get", 8), ("List", 1)):
				for who, (kind, path) in plugins.items():
					the_run.progress(f"plugin.api: {who}, {call}, round {i + 1}")
					out = multiprocessing.Queue()
					procs = [multiprocessing.Process(target=_api_client, args=(
						path, "VolumeDriver." + call, names, s.api_seconds, out))
						for _ in range(clients)]
					for p in procs:
						p.start()
					times = []
					for _ in procs:
						got = out.get(timeout=120)
						if isinstance(got, str):
							raise Failed(f"{who}: {got}")
						times += got
					for p in procs:
						p.join()
					times.sort()
					metric = f"plugin.api.{call.lower()}{clients}"
					the_run.add(metric, who, kind, len(times) / s.api_seconds, "op/s")
					the_run.add(f"{metric}.p99", who, kind,
						    times[int(len(times) * 0.99)] * 1e3, "ms")
		for who, (kind, path) in plugins.items():
			p = Plugin(path)
			for name in names:
				p.call("VolumeDriver.Remove", {"Name": name})


def memory(the_run):
	"""PSS of everything a contender runs for N idle mounts, divided by N."""
	for family in ("sftp", "nfs"):
		for n in the_run.sizes.mounts:
			the_run.progress(f"plugin.memory: cvol {family}, {n} mounts")
			p = Plugin(E["PLUGIN_SOCK"])
			names = [f"mem{i}" for i in range(n)]
			for name in names:
				p.call("VolumeDriver.Create", {"Name": name, "Opts": volume_options(family, "cvol")})
			try:
				for name in names:
					path = p.call("VolumeDriver.Mount", {"Name": name, "ID": "b"})["Mountpoint"]
					os.listdir(path)
				time.sleep(6)  # buffers that are no longer used are given back after five seconds
				mib = pss_mib(comm_pids("cvol", "cvol-fuse"))
				the_run.add(f"plugin.memory.{family}.{n}", "cvol", "cvol", mib / n, "MiB")
			finally:
				for name in names:
					p.call("VolumeDriver.Unmount", {"Name": name, "ID": "b"})
					p.call("VolumeDriver.Remove", {"Name": name})
	for c in FAMILIES["sftp"]:
		if c.kind != "peer" or c.streams_only:
			continue
		for n in the_run.sizes.mounts:
			if n > 10 and c.name == "rclone" and not the_run.sizes.slow_peers:
				the_run.cannot(f"plugin.memory.sftp.{n}", c.name, "takes minutes; make bench-full")
				continue
			the_run.progress(f"plugin.memory: {c.name}, {n} mounts")
			copies = [type(c)(f"{c.name}{i}", c.kind, c.server) for i in range(n)]
			started = []
			try:
				for copy in copies:
					copy.start()
					started.append(copy)
					os.listdir(copy.dir)
				mib = pss_mib(comm_pids(*c.daemons))
				the_run.add(f"plugin.memory.sftp.{n}", c.name, c.kind, mib / n, "MiB")
			finally:
				for copy in started:
					copy.unmount()
				end = time.monotonic() + 20
				while comm_pids(*c.daemons) and time.monotonic() < end:
					time.sleep(0.1)


def docker(the_run):
	"""From `docker run` to the first byte of a file on the volume (and the container's end)."""
	if not E.get("DOCKER_HOST"):
		the_run.cannot("plugin.docker-run", "all", "no dockerd in this run")
		return
	volumes = {}  # name -> (kind, contender, families, driver, options)
	for family in ("sftp", "nfs"):
		with open(f"{FAMILIES[family][0].server}/hello", "w", encoding="ascii") as f:
			f.write("hello\n")
		volumes[f"bench-cvol-{family}"] = ("cvol", "cvol", [family], "cvol", volume_options(family, "cvol"))
	volumes["bench-rclone"] = ("peer", "rclone", ["sftp"], "rclone", volume_options("sftp", "rclone"))
	volumes["bench-local"] = ("limit", "local", ["sftp", "nfs"], "local", {})
	run_words = ["docker", "run", "--rm", "--network=none", "-v"]
	with RclonePlugin():
		for name, (_, _, _, driver, options) in volumes.items():
			words = [w for k, v in options.items() for w in ("-o", f"{k}={v}")]
			run(["docker", "volume", "create", "-d", driver] + words + [name])
		run(run_words + ["bench-local:/d", "cvol-test", "sh", "-c", "echo hello >/d/hello"])
		for i in range(the_run.sizes.rounds):
			for name, (kind, contender, families, _, _) in volumes.items():
				the_run.progress(f"plugin.docker-run: {name}, round {i + 1}")
				start = time.monotonic()
				p = subprocess.Popen(run_words + [f"{name}:/d", "cvol-test", "cat", "/d/hello"],
						     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
				line = p.stdout.readline()
				first = time.monotonic() - start
				_, err = p.communicate(timeout=60)
				if line != "hello\n" or p.returncode:
					raise Failed(f"docker run with {name}: {err.strip()}")
				for family in families:
					metric = f"plugin.docker-run.{family}"
					the_run.add(f"{metric}.first-byte", contender, kind, first * 1e3, "ms")
					the_run.add(f"{metric}.whole", contender, kind,
						    (time.monotonic() - start) * 1e3, "ms")
		for name in volumes:
			run(["docker", "volume", "rm", name])


def soak(the_run):
	"""Ten minutes of everything on one mount; the worker's memory at the start and the end."""
	for family in ("sftp", "nfs"):
		c = FAMILIES[family][0]
		c.start()
		try:
			end = time.monotonic() + the_run.sizes.soak_seconds / 2
			samples = []
			while time.monotonic() < end:
				the_run.progress(f"plugin.soak: {family}, {samples[-1] if samples else 0:.1f} MiB")
				the_run.work("small_files", dir=f"{c.dir}/soak-dir", files=2000,
					     steps=["create", "list", "stat", "read", "rename", "unlink"])
				the_run.work("seq_write", path=f"{c.dir}/soak-file", mib=64, request=MIB)
				the_run.work("seq_read", path=f"{c.dir}/soak-file", mib=64, request=4096)
				samples.append(pss_mib(c.pids()))
			tenth = max(1, len(samples) // 10)
			for value in samples[:tenth]:
				the_run.add(f"plugin.soak.{family}.first", "cvol", "cvol", value, "MiB")
			for value in samples[-tenth:]:
				the_run.add(f"plugin.soak.{family}.last", "cvol", "cvol", value, "MiB")
		finally:
			c.stop()


def on_mounts(s):
	"""Every measurement of both families, in the order they run."""
	out = []
	for f in ("sftp", "nfs"):
		def m(name, fn, family=f, **kw):
			out.append(Measurement(f"{family}.{name}", fn, **kw))
		m("mount", mount_time)
		m("seq-write-1m", seq_write, tools=True, request=MIB, mib=s.seq_mib)
		m("seq-write-4k", seq_write, request=4096, mib=s.seq_mib // 2)
		m("seq-read-1m", seq_read, tools=True, request=MIB, mib=s.seq_mib)
		m("seq-read-4k", seq_read, request=4096, mib=s.seq_mib // 2)
		m("many-write", many, writing=True)
		m("many-read", many, writing=False)
		for rw in ("randread", "randwrite"):
			for depth in (1, 32):
				m(f"{rw}-d{depth}", rand, rw=rw, depth=depth)
		m("small-files", small_files)
		m("untar", untar, files=s.tree)
		m("walk", walk, files=s.tree, steps=WALK)
		for rtt in (0, 5, 20):
			# At 0 through the direct port; the relay itself costs more than loopback does.
			tag = f"rtt{rtt}"
			if rtt:
				m(f"{tag}.mount", mount_time, rtt=rtt)
			m(f"{tag}.read", seq_read, tools=True, rtt=rtt, request=MIB, mib=s.rtt_mib)
			m(f"{tag}.write", seq_write, tools=True, rtt=rtt, request=MIB, mib=s.rtt_mib)
			m(f"{tag}.untar", untar, rtt=rtt, files=s.rtt_tree)
			m(f"{tag}.walk", walk, rtt=rtt, files=s.rtt_tree, steps=["ls-lR", "grep"], warm=False)
	return out


WHOLE = {"limits.tcp": tcp, "plugin.api": api, "plugin.memory": memory, "plugin.docker-run": docker,
	 "plugin.soak": soak}


# ---------------------------------------------------------------- main

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


def main():
	parser = argparse.ArgumentParser()
	parser.add_argument("--full", action="store_true")
	parser.add_argument("--list", action="store_true")
	parser.add_argument("--rounds", type=int)
	parser.add_argument("--out", default="build")
	parser.add_argument("patterns", nargs="*", default=["*"])
	args = parser.parse_args()
	sizes = Sizes(args.full)
	if args.rounds:
		sizes.rounds = args.rounds
	patterns = [p for words in args.patterns or ["*"] for p in words.split()] or ["*"]

	def wanted(name):
		return any(fnmatch.fnmatch(name, p) for p in patterns)

	cells = on_mounts(sizes)
	if args.list:
		sys.stdout.write("\n".join([m.name for m in cells] + list(WHOLE)) + "\n")
		return 0
	make_families()
	the_run = Run(sizes, patterns)
	chosen = [m for m in cells if wanted(m.name)]
	whole = [n for n in WHOLE if wanted(n) and (n != "plugin.soak" or sizes.soak_seconds)]
	if not chosen and not whole:
		sys.stderr.write(f"nothing is called {' '.join(patterns)}; --list tells the names\n")
		return 2
	load = os.getloadavg()[0]
	begun = time.time()
	signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
	try:
		for m in chosen:
			the_run.measure(m)
		for name in whole:
			the_run.progress(name)
			try:
				WHOLE[name](the_run)
			except (Failed, OSError, ValueError, subprocess.SubprocessError) as e:
				the_run.fail(name, "-", e)
	except (KeyboardInterrupt, SystemExit):
		the_run.failures.append("the run was ended early")
	if the_run.tty:
		sys.stderr.write("\r\033[K")
	results = {
		"date": time.strftime("%Y-%m-%d", time.gmtime(begun)), "seconds": round(time.time() - begun),
		"mode": "full" if args.full else "quick", "rounds": sizes.rounds,
		"sizes": {k: v for k, v in vars(sizes).items()}, "load_before": round(load, 2),
		"machine": machine(), "metrics": the_run.metrics, "failures": the_run.failures,
		"notes": the_run.notes, "patterns": patterns,
	}
	out = os.path.join(args.out, "bench")
	os.makedirs(out, exist_ok=True)
	with open(os.path.join(out, "results.json"), "w", encoding="ascii") as f:
		json.dump(results, f, indent=1)
		f.write("\n")
	print(report.table(results))
	plots = report.plots(results, out)
	print(f"{out}/results.json, {len(plots)} plots, {results['seconds']} s")
	for text in the_run.notes:
		print(f"not measured: {text}")
	for text in the_run.failures:
		print(f"FAILED: {text}")
	return 1 if the_run.failures else 0


if __name__ == "__main__":
	sys.exit(main())
