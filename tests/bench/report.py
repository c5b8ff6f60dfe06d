#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What bench.py measured, as a table, as plots, and as docs/benchmarks.md.

	report.py results.json                     the table
	report.py --docs results.json DOCS_DIR     plots and table into the documentation
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

LOWER_IS_BETTER = {"s", "ms", "s/GB", "MiB"}
ORDER = ["cvol", "sshfs", "sshfs-gcm", "rclone", "kernel", "fuse-nfs", "nfs-cp", "engine",
	 "local", "mem", "tcp"]
COLOURS = {"cvol": "#1f6feb", "sshfs": "#d29922", "sshfs-gcm": "#f2cc60", "rclone": "#8250df", "kernel": "#2da44e",
	   "fuse-nfs": "#bf3989", "nfs-cp": "#bf8700", "engine": "#6e7781", "local": "#afb8c1", "mem": "#57606a"}
TITLES = {"sftp": "SFTP", "nfs": "NFS", "plugin": "Plugin", "limits": "Limits"}


def order(names):
	return sorted(names, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER))


def summary(samples):
	mid = statistics.median(samples)
	return mid, (max(samples) - min(samples)) / mid if mid else 0.0


def number(x):
	if x >= 100:
		return f"{x:,.0f}"
	return f"{x:.3g}" if x >= 1 else f"{x:.2g}"


def ratio(m):
	"""How many times as fast (or small) as the best peer cvol is; None where there is no peer."""
	mids = {c: statistics.median(s) for c, s in m["samples"].items()}
	lower = m["unit"] in LOWER_IS_BETTER
	peers = [v for c, v in mids.items() if m["kinds"][c] == "peer"]
	own = [v for c, v in mids.items() if m["kinds"][c] == "cvol"]
	if not peers or not own:
		return None
	best = min(peers) if lower else max(peers)
	mine = min(own) if lower else max(own)
	if not best or not mine:
		return None
	return best / mine if lower else mine / best


def families(results):
	out = {}
	for name in results["metrics"]:
		out.setdefault(name.split(".")[0], []).append(name)
	return {f: out[f] for f in TITLES if f in out}


def rows(results, names):
	"""Header and rows of strings: metric, unit, one column per contender, ratio."""
	metrics = results["metrics"]
	contenders = order({c for n in names for c in metrics[n]["samples"]})
	head = ["", "unit"] + contenders + ["cvol : best peer"]
	body = []
	for n in names:
		m = metrics[n]
		row = [n.split(".", 1)[1], m["unit"]]
		for c in contenders:
			if c in m["samples"]:
				mid, spread = summary(m["samples"][c])
				row.append(number(mid) + (f" ±{spread * 50:.0f}%" if len(m["samples"][c]) > 1 else ""))
			else:
				row.append("–")
		r = ratio(m)
		row.append(f"{r:.2f}×" if r else "–")
		body.append(row)
	return head, body


def table(results):
	out = []
	for family, names in families(results).items():
		head, body = rows(results, names)
		widths = [max(len(r[i]) for r in [head] + body) for i in range(len(head))]
		out.append(f"\n{TITLES.get(family, family)} (median of {results['rounds']} rounds, ± half the range; "
			   "the ratio is above 1 where cvol is better)")
		for r in [head] + body:
			out.append("  ".join(x.ljust(w) if i < 2 else x.rjust(w)
					     for i, (x, w) in enumerate(zip(r, widths))).rstrip())
	return "\n".join(out) + "\n"


def markdown(results, names):
	head, body = rows(results, names)
	lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
	return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in body])


# ---------------------------------------------------------------- plots

def gnuplot(script, path):
	text = ("set terminal svg size 900,420 dynamic background '#ffffff' font 'sans-serif,13'\n"
		f"set output '{path}'\nset grid ytics lc rgb '#d0d7de'\nset border 3\nset tics nomirror\n"
		"set key outside top center horizontal\n" + script)
	subprocess.run(["gnuplot"], input=text, text=True, check=True, capture_output=True)
	return path


def data_block(lines):
	return "$d << END\n" + "\n".join(lines) + "\nEND\n"


def bars(results, metrics, contenders, title, unit, path, log=False):
	have = [n for n in metrics if n in results["metrics"]]
	contenders = [c for c in contenders if any(c in results["metrics"][n]["samples"] for n in have)]
	if not have or not contenders:
		return None
	lines = []
	for n in have:
		samples = results["metrics"][n]["samples"]
		label = n.split(".", 1)[1].replace("small-files.", "").replace("walk.", "")
		cells = []
		for c in contenders:
			s = samples.get(c)
			cells += [str(statistics.median(s)), str(min(s)), str(max(s))] if s else ["NaN"] * 3
		lines.append(f'"{label}" ' + " ".join(cells))
	plots = ", ".join(f"$d using {2 + 3 * i}:{3 + 3 * i}:{4 + 3 * i}:xtic(1) title '{c}' lc rgb "
			  f"'{COLOURS.get(c, '#000000')}'" for i, c in enumerate(contenders))
	return gnuplot(data_block(lines) + f"set title '{title}'\nset ylabel '{unit}'\n"
		       "set style data histogram\nset style histogram errorbars gap 1 lw 1\n"
		       "set style fill solid 0.9\nset boxwidth 0.9\n"
		       + ("set logscale y\n" if log else "set yrange [0:*]\n")
		       + f"set xtics rotate by -20\nplot {plots}\n", path)


def curve(results, family, what, title, unit, path):
	points = {}
	for rtt in (0, 5, 20):
		m = results["metrics"].get(f"{family}.rtt{rtt}.{what}")
		for c, s in (m["samples"] if m else {}).items():
			if m["kinds"][c] != "limit":
				points.setdefault(c, []).append((rtt, statistics.median(s)))
	points = {c: p for c, p in points.items() if len(p) > 1}
	if not points:
		return None
	script = ""
	names = order(points)
	for i, c in enumerate(names):
		script += f"$d{i} << END\n" + "\n".join(f"{x} {y}" for x, y in points[c]) + "\nEND\n"
	plots = ", ".join(f"$d{i} with linespoints lw 2 pt 7 ps 0.6 lc rgb '{COLOURS.get(c, '#000000')}' title '{c}'"
			  for i, c in enumerate(names))
	return gnuplot(script + f"set title '{title}'\nset ylabel '{unit}'\nset xlabel 'round trip, ms'\n"
		       f"set xrange [0:21]\nset logscale y\nplot {plots}\n", path)


def plots(results, out):
	if not shutil.which("gnuplot"):
		return []
	made = []
	for f, title in (("sftp", "SFTP"), ("nfs", "NFS")):
		peers = ["cvol", "sshfs", "sshfs-gcm", "rclone", "kernel", "fuse-nfs", "nfs-cp"]
		with_limits = peers + ["engine", "mem"]
		made += [
			bars(results, [f"{f}.{n}" for n in ("seq-write-1m", "seq-write-4k", "seq-read-1m.cold",
							    "seq-read-4k.cold", "many-write", "many-read")],
			     with_limits, f"{title}: throughput, higher is better", "MB/s", f"{out}/{f}-throughput.svg"),
			bars(results, [f"{f}.{n}" for n in ("randread-d1", "randread-d32", "randwrite-d1",
							    "randwrite-d32", "small-files.create", "small-files.list",
							    "small-files.stat", "small-files.read",
							    "small-files.rename", "small-files.unlink")],
			     peers + ["mem", "local"] if f == "nfs" else peers,
			     f"{title}: operations per second, higher is better", "op/s",
			     f"{out}/{f}-operations.svg", log=True),
			bars(results, [f"{f}.untar"] + [f"{f}.walk.{n}.{t}" for n in
				("find", "ls-lR", "du", "grep", "git-status") for t in ("cold", "warm")],
			     peers + ["mem", "local"] if f == "nfs" else peers,
			     f"{title}: a source tree, seconds, lower is better", "s", f"{out}/{f}-tree.svg", log=True),
			curve(results, f, "read.cold", f"{title}: one stream read, over the round trip", "MB/s",
			      f"{out}/{f}-rtt-read.svg"),
			curve(results, f, "write", f"{title}: one stream written, over the round trip", "MB/s",
			      f"{out}/{f}-rtt-write.svg"),
			curve(results, f, "untar", f"{title}: tar x of {results['sizes']['rtt_tree']} files, over the round trip",
			      "s", f"{out}/{f}-rtt-untar.svg"),
		]
	return [p for p in made if p]


# ---------------------------------------------------------------- docs/benchmarks.md

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measured(results, svgs):
	"""The part of docs/benchmarks.md that comes from one run."""
	m = results["machine"]
	versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items() if v)
	virtual = f", virtual ({m['virtual']})" if m["virtual"] and m["virtual"] != "none" else ""
	out = [f"Measured on {results['date']} in one `make bench{'-full' if results['mode'] == 'full' else ''}` "
	       f"({results['seconds']} s, {results['rounds']} rounds), on {m['cores']} cores ({m['cpu']}{virtual}), "
	       f"{m['memory_gib']} GiB memory, Linux {m['kernel']}; servers' directory on {m['server_fs']}. "
	       f"Load before the start: {results['load_before']}.", "", f"Versions: {versions}.", ""]
	for family, names in families(results).items():
		out += [f"### {TITLES.get(family, family)}", ""]
		for svg in svgs:
			if svg.startswith(family + "-"):
				out += [f"![{svg[:-4]}](bench/{svg})", ""]
		out += [markdown(results, names), ""]
	if results["notes"]:
		out += ["Not measured:", ""] + [f"- {n}" for n in results["notes"]] + [""]
	if results["failures"]:
		out += ["Failed in this run:", ""] + [f"- {n}" for n in results["failures"]] + [""]
	return "\n".join(out)


def write_docs(results, docs):
	path = os.path.join(docs, "benchmarks.md")
	with open(path, encoding="utf-8") as f:
		text = f.read()
	if BEGIN not in text or END not in text:
		sys.stderr.write(f"{path} has no lines {BEGIN} and {END}\n")
		return 1
	target = os.path.join(docs, "bench")
	os.makedirs(target, exist_ok=True)
	with tempfile.TemporaryDirectory() as tmp:
		svgs = [os.path.basename(p) for p in plots(results, tmp)]
		for svg in svgs:
			shutil.copyfile(os.path.join(tmp, svg), os.path.join(target, svg))
	text = (text[:text.index(BEGIN) + len(BEGIN)] + "\n\n" + measured(results, svgs) + "\n"
		+ text[text.index(END):])
	with open(path, "w", encoding="utf-8") as f:
		f.write(text)
	print(f"{path}, {len(svgs)} plots in {target}")
	return 0


def main():
	args = sys.argv[1:]
	docs = args[:1] == ["--docs"]
	args = args[docs:]
	if len(args) != 1 + docs:
		sys.stderr.write(__doc__)
		return 2
	try:
		with open(args[0], encoding="ascii") as f:
			results = json.load(f)
	except OSError as e:
		sys.stderr.write(f"{e}; first: make bench\n")
		return 1
	if docs:
		return write_docs(results, args[1])
	print(table(results))
	return 0


if __name__ == "__main__":
	sys.exit(main())
