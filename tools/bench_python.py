#!/usr/bin/env python3
"""How fast the Python package fits beside scikit-learn, in one process, in turns: 9,000 × 768 states of 13 layers in f32.

    tools/bench_python.py        needs both: `pip install . scikit-learn`

Prints the medians of five rounds, how far weights are from least squares in f64, and (on Linux) the most memory that a fit takes in addition
to the arrays that it is given.
"""
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression

import jumplens as jl

N, D, LAYERS, ROUNDS = 9000, 768, 13, 5


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def megabytes_added(work):
    """The most that the process grows by while `work` is done."""

    def kilobytes(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    kept = work()
    after = kilobytes("VmHWM") - before
    del kept
    return after / 1e3


rng = np.random.default_rng(0)
h = [rng.normal(size=(N, D)).astype("float32")]
for _ in range(LAYERS - 1):
    turn = np.eye(D, dtype="float32") * 0.9 + rng.normal(size=(D, D)).astype("float32") * 0.4 / D**0.5
    h.append(h[-1] @ turn + 0.3 * rng.normal(size=(N, D)).astype("float32"))
ours, theirs, all_maps = [], [], []
for _ in range(ROUNDS):
    ours.append(seconds(lambda: jl.fit(h[3], h[12])))
    theirs.append(seconds(lambda: LinearRegression(fit_intercept=False).fit(h[3], h[12])))
    all_maps.append(seconds(lambda: jl.fit_layers(h, pairs="all")))
one, other, every = map(statistics.median, (ours, theirs, all_maps))
exact = np.linalg.lstsq(h[3].astype("float64"), h[12].astype("float64"), rcond=None)[0].T
off = float(np.abs(jl.fit(h[3], h[12]).weight - exact).max())
print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} threads, NumPy {np.__version__}, jumplens {jl.__version__}")
print(f"one map: {one:.3f} s, scikit-learn {other:.3f} s: {other / one:.1f} times as fast; weights off by {off:.1e}")
print(f"78 maps: {every:.2f} s, 78 fits of scikit-learn {78 * other:.1f} s: {78 * other / every:.1f} times as fast")
if Path("/proc/self/clear_refs").exists():
    size = h[3].nbytes / 1e6
    layouts = {"as they are": (h[3], h[12]), "as float64": (h[3].astype("float64"), h[12].astype("float64"))}
    for name, (x, y) in layouts.items():
        ours, theirs = megabytes_added(lambda: jl.fit(x, y)), megabytes_added(lambda: LinearRegression(fit_intercept=False).fit(x, y))
        print(f"memory added, {name}: {ours:.0f} MB, scikit-learn {theirs:.0f} MB, where x is {size:.0f} MB in f32")
    maps = 78 * D * D * 4 / 1e6
    print(f"memory added by 78 maps: {megabytes_added(lambda: jl.fit_layers(h, pairs='all')):.0f} MB, {maps:.0f} of them the maps")
