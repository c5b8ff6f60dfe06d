# SPDX-License-Identifier: Apache-2.0
"""The speeds cvol wants to have, and whether a run shows them.

A target compares cvol's median of a metric with the best peer's, with one other contender's, with
another metric of cvol's own, or with a number. "Times as good" is above 1 where cvol is better,
whatever the unit.
"""
from stats import median, ratio, times_as_good


class Target:
	def __init__(self, what, metric, need, against="peers", at_most=False):
		self.what, self.metric, self.need, self.against, self.at_most = what, metric, need, against, at_most

	def measured(self, metrics):
		"""(value, None), or (None, why there is none)."""
		m = metrics.get(self.metric)
		if not m or "cvol" not in m["samples"]:
			return None, "not measured in this run"
		if self.against == "number":
			return median(m, "cvol"), None
		if self.against == "peers":
			r = ratio(m)
			return (r, None) if r else (None, "no peer here")
		if self.against in metrics:
			return times_as_good(m["unit"], median(m, "cvol"), median(metrics[self.against], "cvol")), None
		if self.against not in m["samples"]:
			return None, f"no {self.against} here"
		return times_as_good(m["unit"], median(m, "cvol"), median(m, self.against)), None

	def text(self):
		sign = "≤" if self.at_most else "≥"
		if self.against == "number":
			return f"{sign} {self.need:g}"
		other = {"peers": "the best peer"}.get(self.against, self.against)
		return f"{sign} {self.need:g}× {other}"


TARGETS = [
	Target("SFTP: sequential read", "sftp.seq-read-1m.cold", 1.6),
	Target("SFTP: sequential write with fsync", "sftp.seq-write-1m", 1.4),
	Target("SFTP: sequential read, mount ÷ raw client", "sftp.seq-read-1m.cold", 0.85, "engine"),
	Target("SFTP: sequential write, mount ÷ raw client", "sftp.seq-write-1m", 0.85, "engine"),
	Target("SFTP: sequential writes of 4 KiB", "sftp.seq-write-4k", 3),
	Target("SFTP: random reads of 4 KiB, 32 at once", "sftp.randread-d32", 3),
	Target("SFTP: reading files of 4 KiB, 8 processes", "sftp.small-files-p8.read", 3),
	Target("SFTP: reading files of 4 KiB, 1 process", "sftp.small-files.read", 1.3),
	Target("SFTP: tar x, 1 process", "sftp.untar", 1.5),
	Target("SFTP: create small files, 1 process", "sftp.small-files.create", 1.5),
	Target("SFTP: unlink small files, 1 process", "sftp.small-files.unlink", 1.5),
	Target("SFTP: find, cold, 1 process", "sftp.walk.find.cold", 1.5),
	Target("SFTP: ls -lR, cold, 1 process", "sftp.walk.ls-lR.cold", 1.5),
	Target("SFTP: tar x, 8 processes", "sftp.untar-p8", 3),
	Target("SFTP: create small files, 8 processes", "sftp.small-files-p8.create", 3),
	Target("SFTP: unlink small files, 8 processes", "sftp.small-files-p8.unlink", 3),
	Target("SFTP: find, cold, 8 processes", "sftp.walk-p8.find.cold", 3),
	Target("SFTP: ls -lR, cold, 8 processes", "sftp.walk-p8.ls-lR.cold", 3),
	Target("SFTP at 20 ms: sequential read", "sftp.rtt20.read.cold", 3),
	Target("SFTP at 20 ms: sequential write", "sftp.rtt20.write", 3),
	Target("SFTP at 20 ms: tar x", "sftp.rtt20.untar", 3),
	Target("SFTP at 20 ms: find, cold", "sftp.rtt20.walk.find.cold", 2),
	Target("SFTP at 20 ms: ls -lR, cold", "sftp.rtt20.walk.ls-lR.cold", 2),
	Target("SFTP: CPU per GB read, against sshfs and its ssh", "sftp.seq-read-1m.cpu", 1, "sshfs"),
	Target("SFTP: CPU per GB written, against sshfs and its ssh", "sftp.seq-write-1m.cpu", 1, "sshfs"),
	Target("NFS: sequential read, mount ÷ raw client", "nfs.seq-read-1m.cold", 0.6, "engine"),
	Target("NFS: sequential read", "nfs.seq-read-1m.cold", 1.5, "fuse-nfs"),
	Target("NFS: sequential write with fsync, mount ÷ raw client", "nfs.seq-write-1m", 0.85, "engine"),
	Target("NFS: sequential write with fsync", "nfs.seq-write-1m", 5, "fuse-nfs"),
	Target("NFS: sequential writes of 4 KiB, MB/s", "nfs.seq-write-4k", 400, "number"),
	Target("NFS: sequential writes of 4 KiB, against write-through", "nfs.seq-write-4k", 8, "through"),
	Target("NFS: random reads of 4 KiB, 32 at once against 1", "nfs.randread-d32", 2, "nfs.randread-d1"),
	Target("NFS at 20 ms: sequential read, MB/s", "nfs.rtt20.read.cold", 550, "number"),
	Target("NFS at 20 ms: sequential writes of 4 KiB, MB/s", "nfs.rtt20.write-4k", 250, "number"),
	Target("NFS at 20 ms: round trips to create a small file", "nfs.rtt20.create", 4, "number", True),
	Target("NFS: CPU of the worker while the server is away, %", "plugin.away.nfs", 2, "number", True),
]


def check(results):
	"""One row for each target, and one that counts the SFTP rows in which a peer is better."""
	metrics = results["metrics"]
	out = []
	for t in TARGETS:
		value, why = t.measured(metrics)
		met = None if value is None else value <= t.need if t.at_most else value >= t.need
		out.append({"what": t.what, "metric": t.metric, "need": t.text(), "measured": value, "met": met,
			    "why": why})
	rows = [r for n, m in metrics.items() if n.startswith("sftp.") and (r := ratio(m))]
	if rows:
		behind = sum(r < 1 for r in rows)
		out.append({"what": "SFTP: rows behind a peer", "metric": "sftp.*", "need": "0",
			    "measured": behind, "met": not behind, "why": None})
	return out
