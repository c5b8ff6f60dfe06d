# SPDX-License-Identifier: Apache-2.0
"""Who is compared: how each is mounted, and which of its processes do the work."""
import os
import re
import shutil
import subprocess
import time

import work
from system import E, MIB, Failed, comm_pids, run, stop


class Contender:
	"""kind: "cvol", "peer" (counts for the ratio), "variant" (cvol with other options) or "limit" (what
	no client could beat)."""
	daemons = ()  # the processes that do its work
	tool = False  # copies files, mounts nothing
	only = None  # takes part in measurements with this tag alone: elsewhere it is as another

	def __init__(self, name, kind, server):
		self.name, self.kind, self.server = name, kind, server
		self.dir = f"{E['T']}/mnt-{name}"

	def absent(self):
		"""Why it can't be measured here; None if it can."""
		return None

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

	def __init__(self, name, kind, server, family, only=None, extra=None):
		super().__init__(name, kind, server)
		self.family, self.only, self.extra = family, only, extra or {}

	def source(self, rtt=0):
		"""(source, options)"""
		if self.family == "sftp":
			port = E["SSH_PROXY" if rtt else "SSH_PORT"]
			return (f"sftp://root@127.0.0.1:{port}{E['SSH_ROOT']}",
				{"key_file": E["SSH_KEY"], "known_hosts": E["SSH_KNOWN_HOSTS"]})
		if self.family == "nfs":
			# NFSv4 knows the export by its name in the server's own tree.
			export = E["NFS_PSEUDO"] if self.extra.get("version") == "4.1" else E["NFS_ROOT"]
			return (f"nfs://127.0.0.1{export}",
				{"port": E["NFS_PROXY" if rtt else "NFS_PORT"],
				 "mountport": E["MNT_PROXY" if rtt else "MNT_PORT"]})
		return "mem://", {}

	def mount(self, rtt):
		source, options = self.source(rtt)
		options = dict(options, **self.extra)
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


class SshfsBest(Sshfs):
	"""The cipher cvol prefers (ssh's own default is a slower one on CPUs with AES), and several
	connections: no difference to a single process that works on small files."""
	only = "best"
	extra = ",Ciphers=aes128-gcm@openssh.com,max_conns=4"


def wait_mounted(path, process, seconds=20):
	"""For programs that do not say when they have mounted."""
	end = time.monotonic() + seconds
	while not os.path.ismount(path):
		if process.poll() not in (None, 0):
			raise Failed(f"{process.args[0]} ended with status {process.returncode}")
		if time.monotonic() > end:
			raise Failed(f"{process.args[0]} has not mounted after {seconds} s")
		time.sleep(0.002)


class Rclone(Contender):
	daemons = ("rclone",)

	def mount(self, rtt):
		port = E["SSH_PROXY" if rtt else "SSH_PORT"]
		# In the foreground: its --daemon looks for the mount only every few tenths of a second.
		with open(f"{E['T']}/log/rclone.log", "ab") as log:
			self.process = subprocess.Popen(
				["rclone", "mount", f":sftp:{self.server}", self.dir, "--config", "/dev/null",
				 "--sftp-host", "127.0.0.1", "--sftp-port", port, "--sftp-user", "root",
				 "--sftp-key-file", E["SSH_KEY"], "--sftp-known-hosts-file", E["SSH_KNOWN_HOSTS"],
				 # No cache of written data: it would answer close before the server has any.
				 "--vfs-cache-mode", "off", "--cache-dir", f"{E['T']}/rclone",
				 # Or it starts a shell on the server after every file.
				 "--sftp-disable-hashcheck"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
		wait_mounted(self.dir, self.process)

	def unmount(self):
		super().unmount()
		try:
			self.process.wait(20)
		except subprocess.TimeoutExpired:
			stop(self.process)
			raise Failed("rclone has not ended 20 s after the unmount") from None


class FuseNfs(Contender):
	daemons = ("fuse-nfs",)

	def absent(self):
		path = E.get("FUSE_NFS")
		if not path:
			return "is in no Debian package; FUSE_NFS=/path/of/fuse-nfs names it"
		return None if os.access(path, os.X_OK) else f"{path} is no program"

	def mount(self, rtt):
		words = [E["FUSE_NFS"], "-n", nfs_url(self.server, rtt), "-m", self.dir, "-o", "allow_other"]
		with open(f"{E['T']}/log/fuse-nfs.log", "ab") as log:
			process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
		wait_mounted(self.dir, process)


class KernelNfs(Contender):
	def absent(self, filesystems="/proc/filesystems"):
		if not shutil.which("mount.nfs"):
			return "there is no mount.nfs (package nfs-common)"
		if shutil.which("modprobe"):
			run(["modprobe", "-q", "nfsv3"], 20, check=False)
		with open(filesystems, encoding="ascii") as f:
			if re.search(r"\bnfs$", f.read(), re.M):
				return None
		return f"Linux {os.uname().release} here has no NFS client, neither built in nor as a module"

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


class Tool(Local):
	"""Moves one file, mounts nothing. write() and read() return MB/s; what a tool reads it
	compares."""
	tool = True

	def write(self, mib, path, rtt):
		raise NotImplementedError

	def read(self, mib, path, rtt):
		raise NotImplementedError


class NfsTools(Tool):
	"""libnfs' nfs-cp and nfs-cat."""

	def write(self, mib, path, rtt):
		local = f"{E['SRV']}/tool-in"
		work.write_plain(local, mib)
		start = time.monotonic()
		run(["nfs-cp", local, nfs_url(path, rtt)], 300)
		seconds = time.monotonic() - start
		os.unlink(local)
		return mib * MIB / 1e6 / seconds

	def read(self, mib, path, rtt):
		local = f"{E['SRV']}/tool-out"
		with open(local, "wb") as f:
			start = time.monotonic()
			if subprocess.run(["nfs-cat", nfs_url(path, rtt)], stdout=f, timeout=300).returncode:
				raise Failed("nfs-cat failed")
		seconds = time.monotonic() - start
		work.check_plain(local, mib)
		os.unlink(local)
		return mib * MIB / 1e6 / seconds


class Engine(Tool):
	"""cvol's engine without FUSE: the raw client, in large requests, many in flight. It works on a
	file of its own, and tests/tools/engine_check compares what it reads."""

	def __init__(self, name, kind, server, family):
		super().__init__(name, kind, server)
		self.cvol = Cvol(name, kind, server, family)

	def rate(self, what, mib, rtt):
		source, options = self.cvol.source(rtt)
		out = run([f"{E['BUILD']}/tests/engine_check", "--bench", what, "--mb", str(mib),
			   self.cvol.family, f"source={source}"] + [f"{k}={v}" for k, v in options.items()],
			  300).stdout
		found = re.search(rf"^{what}: (\d+) MB/s", out, re.M)
		if not found:
			raise Failed(f"engine_check said: {(out.strip().splitlines() or ['nothing'])[-1]}")
		return float(found.group(1))

	def write(self, mib, path, rtt):
		return self.rate("write", mib, rtt)

	def read(self, mib, path, rtt):
		return self.rate("read", mib, rtt)


FAMILIES = {}


def make_families():
	"""Fills FAMILIES; returns who is not there and why, as "family, name: reason"."""
	nfs, ssh = E["NFS_ROOT"], E["SSH_ROOT"]
	everyone = {
		"sftp": [Cvol("cvol", "cvol", ssh, "sftp"), Sshfs("sshfs", "peer", ssh),
			 SshfsBest("sshfs-best", "peer", ssh), Rclone("rclone", "peer", ssh),
			 Engine("engine", "limit", ssh, "sftp")],
		"nfs": [Cvol("cvol", "cvol", nfs, "nfs"), KernelNfs("kernel", "peer", nfs),
			FuseNfs("fuse-nfs", "peer", nfs), NfsTools("nfs-cp", "peer", nfs),
			Cvol("v4.1", "variant", nfs, "nfs", only="v4.1", extra={"version": "4.1"}),
			Cvol("through", "variant", nfs, "nfs", only="through", extra={"write_behind": "false"}),
			Engine("engine", "limit", nfs, "nfs"), Local("local", "limit", nfs),
			Cvol("mem", "limit", None, "mem")],
	}
	missing = []
	for family, all_of in everyone.items():
		FAMILIES[family] = []
		for c in all_of:
			reason = c.absent()
			if reason:
				missing.append(f"{family}, {c.name}: {reason}")
			else:
				FAMILIES[family].append(c)
	return missing
