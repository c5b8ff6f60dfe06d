# SPDX-License-Identifier: Apache-2.0
"""The workloads of the benchmark, and the data they move.

Every byte read is compared with what was written; every time that includes a write includes fsync
or close too. The functions that make and check the data are used on the server's side, too.
"""
import functools
import hashlib
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tarfile
import threading
import time

MIB = 1 << 20
PAGE = 4096
SMALL = 4096  # bytes in each of the many small files


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


# ---------------------------------------------------------------- several processes

def parallel(workers, fn):
	"""fn(i, ready) in so many processes; ready() returns when all have called it, and there the
	time begins. Returns the seconds until the last has ended."""
	gate = multiprocessing.Barrier(workers + 1)
	processes = [multiprocessing.Process(target=_guarded, args=(fn, i, gate)) for i in range(workers)]
	for p in processes:
		p.start()
	try:
		gate.wait(60)
		start = time.monotonic()
	except threading.BrokenBarrierError:
		start = 0
	for p in processes:
		p.join()
	ends = {p.exitcode for p in processes}
	if DIFFERS in ends:
		raise Differs("in one of the processes")
	if ends != {0}:
		raise OSError("one of the processes failed")
	return time.monotonic() - start


DIFFERS = 3  # exit status


def _guarded(fn, i, gate):
	try:
		fn(i, gate.wait)
	except Differs:
		gate.abort()
		sys.exit(DIFFERS)
	except BaseException:
		gate.abort()
		raise


# ---------------------------------------------------------------- one file, one stream

# With limit_s a stream ends after the MiB during which that time was over, for those who are slow:
# they return how much it was.

def stream_write(path, mib, request, first=0, limit_s=None, ready=None):
	"""(seconds with fsync and close, MiB)"""
	blocks = [block(first + i) for i in range(mib)]
	if ready:
		ready()
	start = time.monotonic()
	fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
	for i, data in enumerate(blocks):
		view = memoryview(data)
		for off in range(0, MIB, request):
			if os.write(fd, view[off : off + request]) != request:
				raise Differs("short write")
		if limit_s and time.monotonic() - start > limit_s:
			break
	os.fsync(fd)
	os.close(fd)
	return time.monotonic() - start, i + 1


def stream_read(path, mib, request, first=0, limit_s=None, ready=None):
	"""(seconds, MiB)"""
	buf = bytearray(MIB)
	view = memoryview(buf)
	parts = [[view[off : off + request]] for off in range(0, MIB, request)]
	compared = 0.0
	if ready:
		ready()
	start = time.monotonic()
	fd = os.open(path, os.O_RDONLY)
	for i in range(mib):
		for part in parts:
			if os.readv(fd, part) != request:
				raise Differs(f"short read in MiB {i}")
		# The comparison is no part of the contender's time.
		now = time.monotonic()
		if buf != block(first + i):
			raise Differs(f"read MiB {i} wrong")
		compared += time.monotonic() - now
		if limit_s and now - start > limit_s:
			break
	if i + 1 == mib and os.read(fd, 1):
		raise Differs("longer than it should be")
	os.close(fd)
	return time.monotonic() - start - compared, i + 1


def _one(a, stream):
	seconds, mib = stream(a["path"], a["mib"], a["request"], limit_s=a["limit_s"])
	return {"rate": mib * MIB / 1e6 / seconds, "mib": mib}


def seq_write(a):
	return _one(a, stream_write)


def seq_read(a):
	return _one(a, stream_read)


def _many(a, stream):
	seconds = parallel(a["workers"], lambda i, ready: stream(
		os.path.join(a["dir"], f"many{i}"), a["mib"], MIB, i * 1000, ready=ready))
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
		words += ["--time_based", f"--runtime={round(a['seconds'] * 1000)}ms"]
	got = subprocess.run(words, capture_output=True, text=True, cwd="/")
	if got.returncode:
		text = (got.stderr or got.stdout).strip()
		raise (Differs if "verify" in text else OSError)(text.splitlines()[-1])
	job = json.loads(got.stdout[got.stdout.index("{"):])["jobs"][0]
	side = job["write" if a["rw"] == "randwrite" else "read"]
	# With the final fsync, which fio's own rate leaves out when it is short.
	return {"iops": side["total_ios"] / max(side["runtime"], 1) * 1e3,
		"p99_us": side["clat_ns"]["percentile"]["99.000000"] / 1e3}


# ---------------------------------------------------------------- many small files

def small_file(top, i, files, workers, letter="f"):
	"""The path of one of them: with several processes each has a directory of its own."""
	own = f"/p{i * workers // files}" if workers > 1 else ""
	return f"{top}{own}/{letter}{i:05d}"


def small_files(a):
	"""Steps on files of 4 KiB, each call after the one before; operations per second."""
	top, files, workers = a["dir"], a["files"], a.get("workers", 1)

	def path(i, letter="f"):
		return small_file(top, i, files, workers, letter)

	def folder(numbers):
		return os.path.dirname(path(numbers[0]))

	def create(numbers):
		if workers > 1:
			os.mkdir(folder(numbers))
		for i in numbers:
			fd = os.open(path(i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
			os.write(fd, small_content(i))
			os.close(fd)

	def stat(numbers):
		for i in numbers:
			if os.stat(path(i)).st_size != SMALL:
				raise Differs(f"size of {path(i)}")

	def names(numbers):
		if len(os.listdir(folder(numbers))) != len(numbers):
			raise Differs("the listing is not complete")

	def read(numbers):
		for i in numbers:
			fd = os.open(path(i), os.O_RDONLY)
			if os.read(fd, 2 * SMALL) != small_content(i):
				raise Differs(f"content of {path(i)}")
			os.close(fd)

	def rename(numbers):
		for i in numbers:
			os.rename(path(i), path(i, "g"))

	def unlink(numbers):
		last = "g" if "rename" in a["steps"] else "f"
		for i in numbers:
			os.unlink(path(i, last))
		if workers > 1:
			os.rmdir(folder(numbers))

	steps = {"create": create, "list": names, "stat": stat, "read": read, "rename": rename,
		 "unlink": unlink}
	shares = [[i for i in range(files) if i * workers // files == w] for w in range(workers)]

	def one_of_them(name, w, ready):
		ready()
		steps[name](shares[w])

	out = {}
	for name in a["steps"]:
		if name == "create":
			os.mkdir(top)
		if workers > 1:
			seconds = parallel(workers, functools.partial(one_of_them, name))
		else:
			start = time.monotonic()
			steps[name](shares[0])
			seconds = time.monotonic() - start
		out[name] = files / seconds
		if name == "unlink":
			os.rmdir(top)
	return out


# ---------------------------------------------------------------- trees

def at_once(commands, **kw):
	"""Programs beside each other; their results and the seconds until the last has ended."""
	start = time.monotonic()
	running = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
		   for words in commands]
	# What they print fits no pipe: all are read, in threads.
	got = [None] * len(running)

	def collect(i):
		got[i] = running[i].communicate()

	threads = [threading.Thread(target=collect, args=(i,)) for i in range(1, len(running))]
	for t in threads:
		t.start()
	collect(0)
	for t in threads:
		t.join()
	seconds = time.monotonic() - start
	for p, words, (_, err) in zip(running, commands, got):
		if p.returncode:
			raise OSError(f"{words[0]}: {(err.strip().splitlines() or [p.returncode])[-1]}")
	return [out for out, _ in got], seconds


def untar(a):
	return {"seconds": at_once([["tar", "xf", a["tar"], "--no-same-owner", "-C", d] for d in a["dirs"]])[1]}


GIT = ["git", "-c", "core.checkStat=minimal", "-c", "core.trustctime=false", "-c", "core.fileMode=false",
       "-c", "safe.directory=*"]


def walk(a):
	"""find, ls -lR, du, grep -r and git status, one after the other; in several trees at once where
	there are several."""
	out = {}
	env = dict(os.environ, GIT_OPTIONAL_LOCKS="0")
	commands = {  # and how many lines they print
		"find": (lambda top: ["find", top, "-name", "*.h"], a["headers"]),
		"ls-lR": (lambda top: ["ls", "-lR", top], a["ls_lines"]),
		"du": (lambda top: ["du", "-s", top], 1),
		"grep": (lambda top: ["grep", "-rl", "--exclude-dir=.git", "needle", top], a["needles"]),
		"git-status": (lambda top: GIT + ["-C", top, "status", "--porcelain"], 0),
	}
	for name in a["steps"]:
		words, lines = commands[name]
		printed, out[name] = at_once([words(top) for top in a["dirs"]], env=env)
		for text in printed:
			if len(text.splitlines()) != lines:
				raise Differs(f"{name}: {len(text.splitlines())} lines, expected {lines}")
	return out


WORKLOADS = {f.__name__: f for f in (seq_write, seq_read, many_write, many_read, rand, small_files,
				     untar, walk)}


def child(name, args, fd):
	"""In the process made for it: runs a workload, writes its values as JSON to fd, and ends."""
	os.setsid()
	try:
		out = WORKLOADS[name](args)
	except Differs as e:
		out = {"differs": str(e)}
	except Exception as e:  # whatever it was, the run has to hear of it
		out = {"error": f"{type(e).__name__}: {e}"}
	try:
		with os.fdopen(fd, "w") as f:
			json.dump(out, f)
	finally:
		os._exit(0)
