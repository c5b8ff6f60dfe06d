#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What bench.py measured, as a table, as plots, and as docs/benchmarks.md.

	report.py results.json                     the table
	report.py --docs results.json DOCS_DIR     plots and tables into the documentation; with
	                                           --force also those of a part of a run
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from stats import median, ratio, spread  # noqa: E402

ORDER = ["cvol", "sshfs", "sshfs-best", "rclone", "kernel", "fuse-nfs", "nfs-cp", "v4.1", "through", "engine",
	 "local", "mem", "tcp"]
COLOURS = {"cvol": "#1f6feb", "sshfs": "#d29922", "sshfs-best": "#f2cc60", "rclone": "#8250df", "kernel": "#2da44e",
	   "fuse-nfs": "#bf3989", "nfs-cp": "#bf8700", "engine": "#6e7781", "local": "#afb8c1", "mem": "#57606a"}
TITLES = {"sftp": "SFTP", "nfs": "NFS", "plugin": "Plugin", "limits": "Limits"}


def order(names):
	return sorted(names, key=lambda n: ORDER.index(n) if n in ORDER else len(ORDER))


def number(x):
	if x >= 100:
		return f"{x:,.0f}"
	return f"{x:.3g}" if x >= 1 else f"{x:.2g}"


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
				samples = m["samples"][c]
				row.append(number(median(m, c)) + (f" ±{spread(samples):.0%}" if len(samples) > 1 else ""))
			else:
				row.append("–")
		r = ratio(m)
		row.append(f"{r:.2f}×" if r else "–")
		body.append(row)
	return head, body


def columns(head, body):
	widths = [max(len(r[i]) for r in [head] + body) for i in range(len(head))]
	return "\n".join("  ".join(x.ljust(w) if i < 2 else x.rjust(w) for i, (x, w) in enumerate(zip(r, widths)))
			 .rstrip() for r in [head] + body)


def table(results):
	return "\n".join(
		f"\n{TITLES.get(family, family)} (median of up to {results['rounds']} rounds, ± half the range; "
		f"the ratio is above 1 where cvol is better)\n{columns(*rows(results, names))}"
		for family, names in families(results).items()) + "\n"


def markdown(head, body):
	lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
	return "\n".join(lines + ["| " + " | ".join(r) + " |" for r in body])


def target_rows(targets):
	body = []
	for t in targets:
		met = {True: "yes", False: "no", None: "–"}[t["met"]]
		value = "–" if t["measured"] is None else f"{t['measured']:.2f}" if "×" in t["need"] else number(t["measured"])
		if t["measured"] is not None and "×" in t["need"]:
			value += "×"
		body.append([t["what"], t["need"], value, met + (f" ({t['why']})" if t["why"] else "")])
	return ["target", "wanted", "measured", "met"], body


def targets_table(results):
	met = [t["met"] for t in results["targets"]]
	shown = [t for t in results["targets"] if t["met"] is not None or results["patterns"] == ["*"]]
	return (f"Targets: {met.count(True)} met, {met.count(False)} not met, {met.count(None)} not measured\n"
		+ columns(*target_rows(shown)) + "\n\n" + behind(results) + "\n")


def behind(results):
	"""The rows in which a peer is better, worst first, as a sentence."""
	found = sorted((r, n) for n, m in results["metrics"].items() if (r := ratio(m)) and r < 1)
	if not found:
		return "In no row of this run a peer was better."
	return "In these rows of this run a peer was better: " + ", ".join(f"{n} ({r:.2f}×)" for r, n in found) + "."


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
		peers = ["cvol", "sshfs", "sshfs-best", "rclone", "kernel", "fuse-nfs", "nfs-cp"]
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


def conditions(results):
	"""What was measured when and where, in sentences."""
	m = results["machine"]
	versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items() if v)
	virtual = f", virtual ({m['virtual']})" if m["virtual"] and m["virtual"] != "none" else ""
	name = "make bench-full" if results["mode"] == "full" else "make bench"
	if results["patterns"] != ["*"]:
		name += f" BENCH='{' '.join(results['patterns'])}'"
	return [f"Measured on {results['date']} in one `{name}` ({results['seconds']} s, {results['rounds']} rounds), "
		f"on {m['cores']} cores ({m['cpu']}{virtual}), {m['memory_gib']} GiB memory, Linux {m['kernel']}; "
		f"servers' directory on {m['server_fs']}. Before the start others used "
		f"{results['busy_before']:.0%} of the CPU, and the load was {results['load_before']}.",
		"", f"Versions: {versions}.", ""]


def measured(results, svgs):
	"""The part of docs/benchmarks.md that comes from one run."""
	out = conditions(results)
	out += ["### Targets", "", markdown(*target_rows(results["targets"])), "", behind(results), ""]
	for family, names in families(results).items():
		out += [f"### {TITLES.get(family, family)}", ""]
		for svg in svgs:
			if svg.startswith(family + "-"):
				out += [f"![{svg[:-4]}](bench/{svg})", ""]
		out += [markdown(*rows(results, names)), ""]
	not_measured = results["absent"] + results["notes"]
	if not_measured:
		out += ["Not measured:", ""] + [f"- {n}" for n in not_measured] + [""]
	if results["failures"]:
		out += ["Failed in this run:", ""] + [f"- {n}" for n in results["failures"]] + [""]
	return "\n".join(out)


def write_docs(results, docs, force):
	path = os.path.join(docs, "benchmarks.md")
	with open(path, encoding="utf-8") as f:
		text = f.read()
	if results["patterns"] != ["*"] and not force:
		sys.stderr.write(f"these are results of a part (BENCH={' '.join(results['patterns'])}), which would "
				 "replace all others; --force does it\n")
		return 1
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
	args = [a for a in sys.argv[1:] if a != "--force"]
	force = len(args) < len(sys.argv) - 1
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
		return write_docs(results, args[1], force)
	print(table(results))
	print(targets_table(results))
	return 0


if __name__ == "__main__":
	sys.exit(main())
