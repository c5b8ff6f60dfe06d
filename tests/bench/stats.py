# SPDX-License-Identifier: Apache-2.0
"""Medians, spreads and ratios of what a run measured."""
import statistics

LOWER_IS_BETTER = {"s", "ms", "s/GB", "MiB", "RTT", "%"}


def median(metric, contender):
	return statistics.median(metric["samples"][contender])


def spread(samples):
	"""Half the range, as a share of the median."""
	mid = statistics.median(samples)
	return (max(samples) - min(samples)) / 2 / mid if mid else 0.0


def times_as_good(unit, mine, other):
	if not mine or not other:
		return None
	return other / mine if unit in LOWER_IS_BETTER else mine / other


def best_peer(metric):
	"""Its name; None where there is no peer."""
	peers = [c for c in metric["samples"] if metric["kinds"][c] == "peer"]
	pick = min if metric["unit"] in LOWER_IS_BETTER else max
	return pick(peers, key=lambda c: median(metric, c)) if peers else None


def ratio(metric):
	"""How many times as fast (or small) as the best peer cvol is; None where there is no peer."""
	peer = best_peer(metric)
	if not peer or "cvol" not in metric["samples"]:
		return None
	return times_as_good(metric["unit"], median(metric, "cvol"), median(metric, peer))
