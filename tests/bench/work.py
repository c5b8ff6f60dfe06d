#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The workloads of the benchmark, each in a process of its own.

	work.py NAME JSON

so that a mount that hangs hangs this process and not the harness. Prints one JSON object: the
measured values by name, and "cpu", the seconds this process spent. Every byte read is compared
with what was written; every time that includes a write includes fsync or close too.

Imported by bench.py for the functions that make and check the data on the server's side.
"""
import hashlib
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tarfile
import time

MIB = 1 << 20
PAGE = 4096
SMALL = 1024  # bytes in each of the many small files


class Differs(Exception):
	"""What was read is not what was written, or not all of it is there."""


# ---------------------------------------------------------------- data

BASE = random.Random(20).randbytes(MIB)


def block(number):
	"""The MiB at that place in every file of ours; no two are equal."""
	return number.to_bytes(8, "little") + BASE[8:]


def write_plain(path, mib, first=0):
	with open(path, "wb", buffering=0) as f:
		for i in range(mib):
			f.write(block(first + i))


def age(path):
	"""Data at rest: what changed a moment ago no client may trust its cache about."""
	os.utime(path, (1600000000, 1600000000))


def check_plain(path, mib, first=0):
	with open(path, "rb", buffering=0) as f:
		for i in range(mib):
			if f.read(MIB) != block(first + i):
				raise Differs(f"{os.path.basename(path)}: MiB {i} differs on the server")
		if f.read(1):
			raise Differs(f"{os.path.basename(path)} is too long on the server")


def write_pages(path, mib, fill=None):
	"""A file whose pages carry their own offset (what fio's verify_pattern=%o writes)."""
	with open(path, "wb") as f:
		for off in range(0, mib * MIB, PAGE):
			f.write(fill if fill is not None else off.to_bytes(8, "little") * (PAGE // 8))


def check_pages(path, mib):
	with open(path, "rb") as f:
		for off in range(0, mib * MIB, PAGE):
			if f.read(PAGE) != off.to_bytes(8, "little") * (PAGE // 8):
				raise Differs(f"page at {off} was not written")


def small_content(i):
	at = (i * 977) % (MIB - SMALL)
	return i.to_bytes(8, "little") + BASE[at : at + SMALL - 8]


# ---------------------------------------------------------------- a source tree

WORDS = ("alloc buffer channel device entry flags group handle index job key list mount node option "
	 "page queue read state table user value write").split()


def make_tree(top, files):
	"""The same tree everywhere: C-like text, a hundred bytes to 40 KiB, about 25 files a folder."""
	rng = random.Random(5)
	made = 0
	folder = 0
	while made < files:
		path = os.path.join(top, WORDS[folder % 7], f"{WORDS[folder % 23]}{folder}")
		if folder % 3 == 2:
			path = os.path.join(path, WORDS[(folder * 5) % 23])
		os.makedirs(path, exist_ok=True)
		for _ in range(min(files - made, rng.randint(5, 45))):
			size = min(40960, int(rng.lognormvariate(8.0, 1.1)) + 100)
			lines = []
			have = 0
			while have < size:
				line = "\tif (" + "_".join(rng.choices(WORDS, k=3)) + "(x) < 0)\n"
				lines.append(line)
				have += len(line)
			if made % 50 == 0:
				lines.append("/* needle */\n")
			name = os.path.join(path, f"{rng.choice(WORDS)}_{made}.{'h' if made % 4 == 0 else 'c'}")
			with open(name, "w", encoding="ascii") as f:
				f.writelines(lines)
			os.utime(name, (1600000000, 1600000000))
			made += 1
		folder += 1


def make_tar(top, tar):
	with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as t:
		t.add(top, arcname="tree")


def digest_tree(top):
	"""Names, kinds, sizes and content; not owners and times, which not every contender carries."""
	h = hashlib.sha1()
	count = 0
	for path, dirs, files in os.walk(top):
		dirs.sort()
		h.update(os.path.relpath(path, top).encode() + b"/\0")
		for name in sorted(files):
			with open(os.path.join(path, name), "rb") as f:
				data = f.read()
			h.update(f"{name}\0{len(data)}\0".encode() + data)
			count += 1
	return h.hexdigest(), count


# ---------------------------------------------------------------- one file, one stream

def stream_write(path, mib, request, first=0, go=None):
	blocks = [block(first + i) for i in range(mib)]
	if go:
		go.wait()
	start = time.monotonic()
	fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
	for data in blocks:
		view = memoryview(data)
		for off in range(0, MIB, request):
			if os.write(fd, view[off : off + request]) != request:
				raise Differs("short write")
	os.fsync(fd)
	os.close(fd)
	return time.monotonic() - start


def stream_read(path, mib, request, first=0, go=None):
	buf = bytearray(MIB)
	expected = [block(first + i) for i in range(mib)]
	view = memoryview(buf)
	parts = [[view[off : off + request]] for off in range(0, MIB, request)]
	compared = 0.0
	if go:
		go.wait()
	start = time.monotonic()
	fd = os.open(path, os.O_RDONLY)
	for i in range(mib):
		for part in parts:
			if os.readv(fd, part) != request:
				raise Differs(f"short read in MiB {i}")
		# The comparison is no part of the contender's time.
		now = time.monotonic()
		if buf != expected[i]:
			raise Differs(f"read MiB {i} wrong")
		compared += time.monotonic() - now
	if os.read(fd, 1):
		raise Differs("longer than it should be")
	os.close(fd)
	return time.monotonic() - start - compared


def seq_write(a):
	return {"rate": a["mib"] * MIB / 1e6 / stream_write(a["path"], a["mib"], a["request"])}


def seq_read(a):
	return {"rate": a["mib"] * MIB / 1e6 / stream_read(a["path"], a["mib"], a["request"])}


def _one_of_many(fn, a, i, go):
	fn(os.path.join(a["dir"], f"many{i}"), a["mib"], MIB, i * 1000, go)


def _many(a, fn):
	go = multiprocessing.Event()
	workers = [multiprocessing.Process(target=_one_of_many, args=(fn, a, i, go))
		   for i in range(a["workers"])]
	for w in workers:
		w.start()
	time.sleep(0.5)  # until all are ready
	start = time.monotonic()
	go.set()
	for w in workers:
		w.join()
	seconds = time.monotonic() - start
	if any(w.exitcode for w in workers):
		raise Differs("one of the processes failed")
	return {"rate": a["workers"] * a["mib"] * MIB / 1e6 / seconds}


def many_write(a):
	return _many(a, stream_write)


def many_read(a):
	return _many(a, stream_read)


# ---------------------------------------------------------------- random 4 KiB

def rand(a):
	words = ["fio", "--name=x", f"--filename={a['path']}", "--bs=4k", f"--rw={a['rw']}",
		 f"--size={a['mib']}m", f"--iodepth={a['depth']}", "--ioengine=libaio", "--direct=1",
		 "--verify=pattern", "--verify_pattern=%o", "--do_verify=0", "--randseed=7",
		 "--output-format=json", "--fallocate=none", "--allow_file_create=0"]
	if a["rw"] == "randwrite":
		words += ["--end_fsync=1", f"--io_size={a['io_mib']}m"]
	else:
		words += ["--time_based", f"--runtime={a['seconds']}"]
	got = subprocess.run(words, capture_output=True, text=True, cwd="/")
	if got.returncode:
		raise Differs((got.stderr or got.stdout).strip().splitlines()[-1])
	job = json.loads(got.stdout[got.stdout.index("{"):])["jobs"][0]
	side = job["write" if a["rw"] == "randwrite" else "read"]
	# With the final fsync, which fio's own rate leaves out when it is short.
	return {"iops": side["total_ios"] / max(side["runtime"], 1) * 1e3,
		"p99_us": side["clat_ns"]["percentile"]["99.000000"] / 1e3}


# ---------------------------------------------------------------- many small files

def small_files(a):
	top, n = a["dir"], a["files"]
	out = {}

	def per_second(name, fn):
		start = time.monotonic()
		fn()
		out[name] = n / (time.monotonic() - start)

	def create():
		os.mkdir(top)
		for i in range(n):
			fd = os.open(f"{top}/f{i:05d}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
			os.write(fd, small_content(i))
			os.close(fd)

	def stat():
		for i in range(n):
			if os.stat(f"{top}/f{i:05d}").st_size != SMALL:
				raise Differs(f"size of f{i:05d}")

	def names():
		if len(os.listdir(top)) != n:
			raise Differs("the listing is not complete")

	def read():
		for i in range(n):
			fd = os.open(f"{top}/f{i:05d}", os.O_RDONLY)
			if os.read(fd, 2 * SMALL) != small_content(i):
				raise Differs(f"content of f{i:05d}")
			os.close(fd)

	def rename():
		for i in range(n):
			os.rename(f"{top}/f{i:05d}", f"{top}/g{i:05d}")

	def unlink():
		for i in range(n):
			os.unlink(f"{top}/g{i:05d}")
		os.rmdir(top)

	steps = {"create": create, "list": names, "stat": stat, "read": read, "rename": rename,
		 "unlink": unlink}
	for name in a["steps"]:
		per_second(name, steps[name])
	return out


# ---------------------------------------------------------------- trees

def untar(a):
	start = time.monotonic()
	subprocess.run(["tar", "xf", a["tar"], "--no-same-owner", "-C", a["dir"]], check=True,
		       capture_output=True)
	return {"seconds": time.monotonic() - start}


GIT = ["git", "-c", "core.checkStat=minimal", "-c", "core.trustctime=false", "-c", "core.fileMode=false",
       "-c", "safe.directory=*"]


def walk(a):
	"""find, ls -lR, du, grep -r and git status, each on a fresh mount or all on a warm one."""
	top, out = a["dir"], {}
	env = dict(os.environ, GIT_OPTIONAL_LOCKS="0")
	commands = {
		"find": (["find", top, "-name", "*.h"], a["headers"]),
		"ls-lR": (["ls", "-lR", top], None),
		"du": (["du", "-s", top], 1),
		"grep": (["grep", "-rl", "--exclude-dir=.git", "needle", top], a["needles"]),
		"git-status": (GIT + ["-C", top, "status", "--porcelain"], 0),
	}
	for name in a["steps"]:
		words, lines = commands[name]
		start = time.monotonic()
		got = subprocess.run(words, capture_output=True, text=True, env=env)
		out[name] = time.monotonic() - start
		if got.returncode:
			raise Differs(f"{name}: {got.stderr.strip().splitlines()[-1:]}")
		if lines is not None and len(got.stdout.splitlines()) != lines:
			raise Differs(f"{name}: {len(got.stdout.splitlines())} lines, expected {lines}")
	return out


WORKLOADS = {f.__name__: f for f in (seq_write, seq_read, many_write, many_read, rand, small_files,
				     untar, walk)}


def main():
	try:
		out = WORKLOADS[sys.argv[1]](json.loads(sys.argv[2]))
	except Differs as e:
		print(json.dumps({"differs": str(e)}))
		return 3
	except OSError as e:
		print(json.dumps({"error": str(e), "errno": e.errno}))
		return 4
	except subprocess.CalledProcessError as e:
		text = (e.stderr or b"").decode(errors="replace").strip().splitlines()
		print(json.dumps({"error": text[-1] if text else str(e), "errno": None}))
		return 4
	for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
		r = resource.getrusage(who)
		out["cpu"] = out.get("cpu", 0) + r.ru_utime + r.ru_stime
	print(json.dumps(out))
	return 0


if __name__ == "__main__":
	sys.exit(main())
