# SPDX-License-Identifier: Apache-2.0
"""The measurements that are not one contender's mount after the other: TCP, the plugin's protocol,
memory, docker run, the soak, a server that is away. Each adds its samples to the run itself."""
import concurrent.futures
import json
import multiprocessing
import os
import socket
import subprocess
import time

import work
from contenders import FAMILIES
from system import E, MIB, Failed, comm_pids, cpu_seconds, pss_mib, relay, run, set_rtt, stop


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
		stop(self.p)
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
		memory_of_cvol(the_run, family)
	for c in FAMILIES["sftp"]:
		if c.kind == "peer" and not c.only:
			memory_of_peer(the_run, c)


def several(fn, items):
	"""Some at a time, for what need not be timed."""
	with concurrent.futures.ThreadPoolExecutor(4) as pool:
		for future in [pool.submit(fn, x) for x in items]:
			future.result()


def memory_of_cvol(the_run, family):
	names = []

	def mount(name):
		p = Plugin(E["PLUGIN_SOCK"])
		p.call("VolumeDriver.Create", {"Name": name, "Opts": volume_options(family, "cvol")})
		names.append(name)
		os.listdir(p.call("VolumeDriver.Mount", {"Name": name, "ID": "b"})["Mountpoint"])

	def unmount(name):
		p = Plugin(E["PLUGIN_SOCK"])
		p.call("VolumeDriver.Unmount", {"Name": name, "ID": "b"})
		p.call("VolumeDriver.Remove", {"Name": name})

	try:
		for n in the_run.sizes.mounts:
			the_run.progress(f"plugin.memory: cvol {family}, {n} mounts")
			several(mount, [f"mem{i}" for i in range(len(names), n)])
			time.sleep(6)  # buffers that are no longer used are given back after five seconds
			mib = pss_mib(comm_pids("cvol", "cvol-fuse"))
			the_run.add(f"plugin.memory.{family}.{n}", "cvol", "cvol", mib / n, "MiB")
	finally:
		several(unmount, names)


def memory_of_peer(the_run, c):
	started = []

	def mount(copy):
		copy.start()
		started.append(copy)
		os.listdir(copy.dir)

	try:
		for n in the_run.sizes.mounts:
			if n > 10 and c.name == "rclone" and not the_run.sizes.slow_peers:
				the_run.cannot(f"plugin.memory.sftp.{n}", c.name, "takes minutes; make bench-full")
				continue
			the_run.progress(f"plugin.memory: {c.name}, {n} mounts")
			several(mount, [type(c)(f"{c.name}{i}", c.kind, c.server) for i in range(len(started), n)])
			mib = pss_mib(comm_pids(*c.daemons))
			the_run.add(f"plugin.memory.sftp.{n}", c.name, c.kind, mib / n, "MiB")
	finally:
		several(lambda copy: copy.unmount(), started)
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
				the_run.work("seq_write", path=f"{c.dir}/soak-file", mib=64, request=MIB, limit_s=None)
				the_run.work("seq_read", path=f"{c.dir}/soak-file", mib=64, request=4096, limit_s=None)
				samples.append(pss_mib(c.pids()))
			tenth = max(1, len(samples) // 10)
			for value in samples[:tenth]:
				the_run.add(f"plugin.soak.{family}.first", "cvol", "cvol", value, "MiB")
			for value in samples[-tenth:]:
				the_run.add(f"plugin.soak.{family}.last", "cvol", "cvol", value, "MiB")
		finally:
			c.stop()




def _reader(path):
	with open(path, "rb", buffering=0) as f:
		while f.read(MIB):
			pass


def away(the_run):
	"""CPU that a worker needs while its server is away and a reader waits for it."""
	s = the_run.sizes
	for family, port in (("sftp", "ssh"), ("nfs", "nfs")):
		the_run.progress(f"plugin.away: {family}")
		c = FAMILIES[family][0]
		work.write_plain(f"{c.server}/away", s.seq_mib)
		set_rtt(1)
		c.start(rtt=1)
		reader = None
		try:
			relay(port, "hole")
			reader = multiprocessing.Process(target=_reader, args=(f"{c.dir}/away",))
			reader.start()
			time.sleep(1)
			before, start = cpu_seconds(c.pids()), time.monotonic()
			time.sleep(s.away_seconds)
			used = (cpu_seconds(c.pids()) - before) / (time.monotonic() - start)
			if not reader.is_alive():
				raise Failed(f"{family}: the reader did not wait for the server")
			the_run.add(f"plugin.away.{family}", "cvol", "cvol", used * 100, "%")
			relay(port, "resume")
			reader.join(60)
			if reader.exitcode != 0:
				raise Failed(f"{family}: the reader did not go on when the server was back")
		finally:
			relay(port, "resume")
			if reader and reader.is_alive():
				reader.kill()
				reader.join(20)
			c.stop()
			os.unlink(f"{c.server}/away")


WHOLE = {"limits.tcp": tcp, "plugin.api": api, "plugin.memory": memory, "plugin.docker-run": docker,
	 "plugin.away": away, "plugin.soak": soak}
