# SPDX-License-Identifier: Apache-2.0
"""What the benchmark asks of the system: processes, their time and memory, caches, the relays."""
import os
import re
import signal
import subprocess
import time

E = os.environ
MIB = 1 << 20


class Failed(Exception):
	"""A contender did not do what it should."""


class Cannot(Exception):
	"""A contender does not offer this; the reason is printed and it is no failure."""


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


def stop(process, seconds=20):
	process.terminate()
	try:
		process.wait(seconds)
	except subprocess.TimeoutExpired:
		process.send_signal(signal.SIGKILL)
		process.wait()


def kill_tree(pid):
	"""SIGKILL to a process and everything below it, whatever session that is in."""
	children = {}
	for other in os.listdir("/proc"):
		if other.isdigit():
			try:
				with open(f"/proc/{other}/stat", encoding="ascii", errors="replace") as f:
					parent = int(f.read().rpartition(")")[2].split()[1])
			except OSError:
				continue
			children.setdefault(parent, []).append(int(other))
	todo = [pid]
	while todo:
		one = todo.pop()
		todo += children.get(one, [])
		try:
			os.kill(one, signal.SIGKILL)
		except ProcessLookupError:
			pass


def drop_caches():
	"""Of the client and of the server: both are this kernel."""
	with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
		f.write("3\n")


def set_rtt(ms):
	for name in ("ssh", "nfs", "mount"):
		relay(name, f"delay {ms / 2}")


def relay(name, command):
	run([E["PROXY"], "-x", f"{E['T']}/proxy-{name}.sock", command], 5)


def busy_share(seconds):
	"""How much of the machine's CPU is used now, by whomever: 0 to 1."""
	def read():
		with open("/proc/stat", encoding="ascii") as f:
			numbers = [int(x) for x in f.readline().split()[1:9]]
		return sum(numbers), numbers[3] + numbers[4]  # all, idle and waiting for disks

	total, idle = read()
	time.sleep(seconds)
	total2, idle2 = read()
	return 1 - (idle2 - idle) / max(total2 - total, 1)
