# SPDX-License-Identifier: Apache-2.0
"""The measurements on a mount: each is a function that gets a Cell and returns metrics."""
import os
import shutil
import time

import work
from contenders import Engine, Local
from system import E, MIB, Cannot, cpu_seconds, drop_caches, run


class Measurement:
	"""tools: one file is moved, so programs that mount nothing take part. also: tags of contenders
	that differ from another one in few measurements, this being one of them."""

	def __init__(self, name, fn, rtt=0, tools=False, also=(), **args):
		self.name, self.fn, self.rtt, self.tools, self.also, self.args = name, fn, rtt, tools, also, args

	def contenders(self, family):
		return [c for c in family if (self.tools or not c.tool) and (not c.only or c.only in self.also)
			# At a distance there is no local directory, and no memory.
			and not (self.rtt_row and c.name in ("local", "mem"))]

	@property
	def rtt_row(self):
		return ".rtt" in self.name


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
	if c.tool:
		out = {"": (c.write(mib, cell.server("file"), cell.m.rtt), "MB/s")}
		if not isinstance(c, Engine):
			work.check_plain(cell.server("file"), mib)
		return out
	cell.mount()
	got = cell.work("seq_write", path=cell.path("file"), mib=mib, request=request,
			limit_s=cell.sizes.stream_seconds)
	# Before the unmount: when fsync and close have returned it has to be there.
	work.check_plain(cell.server("file"), got["mib"])
	return with_cpu(cell, {"": (got["rate"], "MB/s")}, got["mib"])


def seq_read(cell, request, mib):
	c = cell.c
	if not c.server:
		cell.mount()
	if not isinstance(c, Engine):
		work.write_plain(cell.server("file"), mib)
	if c.tool:
		drop_caches()
		return {"cold": (c.read(mib, cell.server("file"), cell.m.rtt), "MB/s")}
	work.age(cell.server("file"))
	cell.remount()
	args = {"path": cell.path("file"), "mib": mib, "request": request,
		"limit_s": cell.sizes.stream_seconds}
	got = cell.work("seq_read", **args)
	out = with_cpu(cell, {"cold": (got["rate"], "MB/s")}, got["mib"])
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


def small_files(cell, files, workers=1, steps=(("list", "stat"), ("read",), ("rename", "unlink"))):
	"""Creates the files, and takes the other steps on a fresh mount each."""
	cell.mount()
	args = {"dir": cell.path("dir"), "files": files, "workers": workers}
	got = cell.work("small_files", steps=["create"], **args)
	for i in range(files):
		with open(work.small_file(cell.server("dir"), i, files, workers), "rb") as f:
			if f.read() != work.small_content(i):
				raise work.Differs(f"small file {i} on the server")
	for some in steps:
		cell.remount()
		args["dir"] = cell.path("dir")
		got.update(cell.work("small_files", steps=list(some), **args))
	if os.path.exists(cell.server("dir")):
		raise work.Differs("the removed directory is still on the server")
	return {k: (v, "op/s") for k, v in got.items()}


def create_trips(cell, files):
	"""How many round trips a new small file costs, from open to close."""
	cell.mount()
	args = {"dir": cell.path("dir"), "files": files}
	rate = cell.work("small_files", steps=["create"], **args)["create"]
	for i in range(files):
		with open(work.small_file(cell.server("dir"), i, files, 1), "rb") as f:
			if f.read() != work.small_content(i):
				raise work.Differs(f"small file {i} on the server")
	return {"": (1e3 / rate / cell.m.rtt, "RTT")}


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
		self.made_with_git = False
		self.ls_lines = 0

	def with_git(self):
		"""The same with a repository, as another archive."""
		top = f"{self.top}/tree"
		if not self.made_with_git:
			git = ["git", "-C", top, "-c", "user.name=b", "-c", "user.email=b@example.org",
			       "-c", "core.fileMode=false", "-c", "safe.directory=*"]
			run(git + ["init", "-q"])
			run(git + ["add", "."])
			run(git + ["commit", "-q", "-m", "tree"])
			work.make_tar(top, f"{self.top}/git.tar")
			self.ls_lines = len(run(["ls", "-lR", top]).stdout.splitlines())
			self.made_with_git = True
		return f"{self.top}/git.tar"

	@classmethod
	def of(cls, files):
		if files not in cls.made:
			cls.made[files] = cls(files)
		return cls.made[files]


def folders(cell, workers):
	"""Names of so many directories for a tree each; made on the server."""
	names = [f"dir{i}" for i in range(workers)]
	for name in names:
		os.mkdir(cell.server(name))
	return names


def untar(cell, files, workers=1):
	tree = Tree.of(files // workers)
	cell.mount()
	names = folders(cell, workers)
	got = cell.work("untar", tar=tree.tar, dirs=[cell.path(n) for n in names])
	for name in names:
		if work.digest_tree(cell.server(f"{name}/tree")) != tree.digest:
			raise work.Differs("the unpacked tree on the server")
	return {"": (got["seconds"], "s")}


WALK = ("find", "ls-lR", "du", "grep", "git-status")


def walk(cell, files, steps, workers=1, warm=True):
	tree = Tree.of(files // workers)
	tar = tree.with_git()
	if not cell.c.server:
		cell.mount()
	names = folders(cell, workers)
	for name in names:
		run(["tar", "xf", tar, "--no-same-owner", "-C", cell.server(name)])
	args = {"headers": tree.headers, "needles": tree.needles, "ls_lines": tree.ls_lines}
	out = {}
	for step in steps:
		cell.remount()
		args["dirs"] = [cell.path(f"{n}/tree") for n in names]
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



def on_mounts(s):
	"""Every measurement of both families, in the order they run."""
	out = []
	for f in ("sftp", "nfs"):
		def m(name, fn, family=f, **kw):
			out.append(Measurement(f"{family}.{name}", fn, **kw))
		best = {"also": ("best", "v4.1")}
		m("mount", mount_time)
		m("seq-write-1m", seq_write, tools=True, request=MIB, mib=s.seq_mib, **best)
		m("seq-write-4k", seq_write, request=4096, mib=s.seq_4k_mib, also=("best", "v4.1", "through"))
		m("seq-read-1m", seq_read, tools=True, request=MIB, mib=s.seq_mib, **best)
		m("seq-read-4k", seq_read, request=4096, mib=s.seq_4k_mib, **best)
		m("many-write", many, writing=True, **best)
		m("many-read", many, writing=False, **best)
		for rw in ("randread", "randwrite"):
			for depth in (1, 32):
				m(f"{rw}-d{depth}", rand, rw=rw, depth=depth)
		m("small-files", small_files, files=s.files, also=("v4.1",))
		m("small-files-p8", small_files, files=s.files_p8, workers=8, steps=(("read",), ("unlink",)), **best)
		m("untar", untar, files=s.tree, also=("v4.1",))
		m("untar-p8", untar, files=s.tree_p8, workers=8, **best)
		m("walk", walk, files=s.tree, steps=WALK)
		m("walk-p8", walk, files=s.tree_p8, workers=8, steps=("find", "ls-lR"), warm=False, **best)
		for rtt in (0, 5, 20):
			# At 0 through the direct port; the relay itself costs more than loopback does.
			tag, mib = f"rtt{rtt}", s.rtt_mib
			if rtt:
				m(f"{tag}.mount", mount_time, rtt=rtt)
			m(f"{tag}.read", seq_read, tools=True, rtt=rtt, request=MIB, mib=mib, **best)
			m(f"{tag}.write", seq_write, tools=True, rtt=rtt, request=MIB, mib=mib, **best)
			if rtt == 20:
				m(f"{tag}.write-4k", seq_write, rtt=rtt, request=4096, mib=s.rtt_4k_mib)
				m(f"{tag}.create", create_trips, rtt=rtt, files=s.rtt_files, also=("v4.1",))
			m(f"{tag}.untar", untar, rtt=rtt, files=s.rtt_tree, also=("v4.1",) if rtt else ())
			m(f"{tag}.walk", walk, rtt=rtt, files=s.rtt_tree, steps=("find", "ls-lR", "grep"), warm=False)
	return out
