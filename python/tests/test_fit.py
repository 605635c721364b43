"""Maps from arrays, with NumPy alone."""

from __future__ import annotations

import io
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jumplens as jl
import numpy as np
import pytest


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def r2_in_f64(y: np.ndarray, predicted: np.ndarray) -> float:
    y, predicted = y.astype("float64"), predicted.astype("float64")
    return float((1 - ((y - predicted) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)).mean())


X, Y = random(600, 24), random(600, 24) @ random(24, 10, seed=2) + random(600, 10, seed=3) + 5


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_those_of_least_squares_in_f64(intercept: bool, dtype: str) -> None:
    A = jl.fit(X.astype(dtype), Y.astype(dtype), intercept=intercept)
    columns = [X.astype("float64")] + ([np.ones((600, 1))] if intercept else [])
    expected = np.linalg.lstsq(np.hstack(columns), Y.astype("float64"), rcond=None)[0]
    assert A.weight.shape == (10, 24)
    np.testing.assert_allclose(A.weight, expected[:24].T, atol=1e-5)
    if intercept:
        assert A.bias is not None
        np.testing.assert_allclose(A.bias, expected[24], atol=1e-5)
        np.testing.assert_allclose(A(X), X @ A.weight.T + A.bias, atol=1e-4)
    else:
        assert A.bias is None
    assert A.r2(X, Y) == pytest.approx(r2_in_f64(Y, A(X)), abs=1e-6)


def test_ridge_is_its_closed_form_and_low_rank_has_its_rank() -> None:
    x, y, penalty = X.astype("float64"), Y.astype("float64"), 30.0
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(24), x.T @ y).T
    np.testing.assert_allclose(jl.fit(X, Y, ridge=penalty).weight, expected, atol=1e-5)
    sigma = jl.fit(X, Y, rank=3).spectrum()
    assert sigma.shape == (10,) and (sigma[3:] < 1e-5 * sigma[0]).all() and sigma[2] > 1e-2 * sigma[0]
    assert jl.fit(X, Y, ridge="auto").r2(X, Y) <= jl.fit(X, Y).r2(X, Y)


def test_any_layout_gives_the_same_map() -> None:
    expected = jl.fit(X, Y).weight
    wide = np.zeros((600, 48), "float32")
    wide[:, ::2] = X
    for x in (np.asfortranarray(X), wide[:, ::2], X.astype("float64")):
        np.testing.assert_array_equal(jl.fit(x, Y).weight, expected)


def test_spectrum_is_that_of_numpy() -> None:
    A = jl.fit(X, Y)
    np.testing.assert_allclose(A.spectrum(), np.linalg.svd(A.weight.astype("float64"))[1], rtol=1e-6)
    found = A.inspect()
    assert found["frobenius_norm"] == pytest.approx(float(np.linalg.norm(A.weight)), rel=1e-6)


def test_maps_are_applied_composed_and_pickled() -> None:
    A = jl.Map(random(3, 4), random(3))
    B = jl.Map(random(2, 3, seed=5))
    x = random(2, 5, 4)
    np.testing.assert_allclose(A.then(B)(x), B(A(x)), atol=1e-5)
    assert A(x[0, 0]).shape == (3,) and A(x[:, :0]).shape == (2, 0, 3)
    again = pickle.loads(pickle.dumps(A))
    np.testing.assert_array_equal(again.weight, A.weight)
    np.testing.assert_array_equal(again.bias, A.bias)
    np.testing.assert_array_equal(jl.Map.identity(4)(x), x)
    with pytest.raises(ValueError, match="read-only"):
        A.weight[0, 0] = 1.0
    weight = jl.Map(random(3, 4)).weight
    np.testing.assert_array_equal(weight, random(3, 4))  # outlives its map


def test_layers_are_fitted_as_pairs_are() -> None:
    h = [random(300, 6, seed=layer) + (random(300, 6) if layer else 0) for layer in range(4)]
    maps = jl.fit_layers(h, pairs="all", intercept=True, rank=2)
    assert maps.casts == ["mat", "mat+b", "mat+b_r2", "mat_r2"] and len(maps) == 6
    for name, options in {"mat": {}, "mat+b": {"intercept": True}, "mat_r2": {"rank": 2}}.items():
        for i, j in maps:
            np.testing.assert_allclose(maps.cast(name)[i, j].weight, jl.fit(h[i], h[j], **options).weight, atol=1e-6)
    assert jl.fit_layers({0: h[0], 2: h[1], 3: h[2]}).pairs == [(0, 3), (2, 3)]


def test_sums_of_parts_make_the_maps_of_all(tmp_path: Path) -> None:
    h = [random(300, 6, seed=layer) for layer in range(4)]
    one, other = jl.Sums(6, layers=4, pairs="all"), jl.Sums(6, layers=4, pairs="all")
    for part in (slice(0, 100), slice(100, 110)):
        one.add([states[part] for states in h])
    other.add({layer: states[110:] for layer, states in enumerate(h)})
    total = one + other
    assert (one.n, other.n, total.n) == (110, 190, 300)
    total.save(tmp_path / "sums")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        total.save(tmp_path / "sums")
    total.save(tmp_path / "sums", overwrite=True)
    total = jl.Sums.load(tmp_path / "sums")
    maps, expected = total.fit(), jl.fit_layers(h, pairs="all")
    assert maps.pairs == expected.pairs
    for pair in maps:
        np.testing.assert_allclose(maps[pair].weight, expected[pair].weight, atol=1e-6)
    table = total.r2(maps, train=one)
    for mapping, i, j, got in zip(table["mapping"], table["from"], table["to"], table["r2"]):
        predicted = h[i] if mapping == "id" else maps[i, j](h[i])
        assert got == pytest.approx(r2_in_f64(h[j], predicted), abs=1e-9 if mapping == "id" else 1e-6)
    damaged = (tmp_path / "sums").read_bytes()
    (tmp_path / "damaged").write_bytes(damaged[:-100])
    with pytest.raises(ValueError, match="damaged"):
        jl.Sums.load(tmp_path / "damaged")


@pytest.mark.parametrize("place", ["maps", "maps.npz", "maps.safetensors"])
def test_what_is_saved_is_loaded(tmp_path: Path, place: str) -> None:
    maps = jl.fit_layers([random(50, 5, seed=layer) for layer in range(3)], pairs="all", intercept=True)
    maps.save(tmp_path / place)
    again = jl.Maps.load(tmp_path / place)
    assert again.pairs == maps.pairs and again.d == 5
    for cast in maps.casts if place == "maps" else ["mat"]:
        for pair in maps:
            np.testing.assert_array_equal(again.cast(cast)[pair].weight, maps.cast(cast)[pair].weight)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        maps.save(tmp_path / place)
    maps.cast("mat+b").save(tmp_path / place, overwrite=True)
    if place.endswith(".npz"):
        with np.load(tmp_path / place) as arrays:
            np.testing.assert_array_equal(arrays["00_02"], maps.cast("mat+b")[0, 2].weight)


def test_a_tuned_lens_and_numpys_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "maps.npz", **{"0_2": random(3, 3), "1_2": random(3, 3, seed=1)})
    maps = jl.Maps.load(tmp_path / "maps.npz")
    assert maps.pairs == [(0, 2), (1, 2)]
    np.testing.assert_array_equal(maps[1, 2].weight, random(3, 3, seed=1))
    assert maps.info()["origin"]["imported_from"] == "npz"


PEAK = """
import sys
from pathlib import Path
import numpy as np
import jumplens as jl

def kilobytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

x = np.random.default_rng(0).normal(size=(200_000, 64)).astype("float32")
y = x[:, ::-1].copy()
x = np.asarray(x, order=sys.argv[1])
jl.fit(x[:64], y[:64])
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
jl.fit(x, y)
print((kilobytes("VmHWM") - before) / 1e3)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("order", "copied"), [("C", 0), ("F", 51.2)])
def test_at_most_one_copy_is_made(order: str, copied: float) -> None:
    """Of 51.2 MB."""
    done = subprocess.run([sys.executable, "-c", PEAK, order], capture_output=True, text=True, check=True)
    assert copied - 1 <= float(done.stdout) < copied + 25


def closed_file() -> io.IOBase:
    with io.BytesIO() as file:
        return file


WRONG = {
    "another width": (lambda: jl.fit(X, Y)(random(3, 7)), ValueError, "24 is expected"),
    "other lengths": (lambda: jl.fit(X, Y[:5]), ValueError, "600 are expected"),
    "NaN": (lambda: jl.fit(np.where(X > 2, np.nan, X), Y), ValueError, "not finite"),
    "integers": (lambda: jl.fit(X.astype("int64"), Y), TypeError, r"astype\(\"float32\"\)"),
    "text": (lambda: jl.fit("x", Y), TypeError, "float32 or float64"),
    "empty": (lambda: jl.fit(X[:0], Y[:0]), ValueError, "empty"),
    "one dimension": (lambda: jl.fit(X[0], Y[0]), ValueError, "two dimensions"),
    "penalty and rank": (lambda: jl.fit(X, Y, ridge=1.0, rank=2), ValueError, "`ridge` or `rank`"),
    "a negative penalty": (lambda: jl.fit(X, Y, ridge=-1.0), ValueError, "0 or more"),
    "no penalty": (lambda: jl.fit(X, Y, ridge="some"), TypeError, "auto"),
    "rank 0": (lambda: jl.fit(X, Y, rank=0), ValueError, "1 or more"),
    "pairs": (lambda: jl.fit_layers([X, X], pairs="some"), ValueError, "to-final"),
    "one layer": (lambda: jl.fit_layers([X]), ValueError, "two layers"),
    "no such map": (lambda: jl.fit_layers([X, X, X])[0, 1], KeyError, "lead to 2"),
    "no such cast": (lambda: jl.fit_layers([X, X]).cast("mat+b"), KeyError, "mat"),
    "no states of a layer": (lambda: jl.Sums(24, layers=3).add([X, X]), KeyError, "layer 2"),
    "sums of another width": (lambda: jl.Sums(10, layers=2).add([X, X]), ValueError, "10 is expected"),
    "sums of other layers": (lambda: jl.Sums(3, 2) + jl.Sums(3, 3), ValueError, "do not add up"),
    "no samples": (lambda: jl.Sums(3, 2).fit(), ValueError, "`add` some"),
    "no file": (lambda: jl.Maps.load("nowhere"), FileNotFoundError, "check the path"),
    "an open file": (lambda: jl.Sums.load(io.BytesIO()), TypeError, "an open file, .*: pass the path"),
    "a closed file": (lambda: jl.Maps.load(closed_file()), TypeError, "a closed file, .*: pass the path"),
    "a closed file to save to": (lambda: jl.Sums(3, 2).save(closed_file()), TypeError, "a closed file, .*: pass the path"),
    "maps in a closed file": (lambda: jl.fit_layers([X, X]).save(closed_file()), TypeError, "a closed file, .*: pass the path"),
    "a path that is none": (lambda: jl.Sums.load(3), TypeError, "PathLike"),
    "no run": (lambda: jl.Run("nowhere"), FileNotFoundError, "jumplens run"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses_are_refused_in_words(case: str) -> None:
    use, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        use()


def test_ctrl_c_stops_a_long_call_within_a_second(heard: None) -> None:
    h = [random(8000, 512, seed=layer) for layer in range(24)]
    begun = time.monotonic()
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        jl.fit_layers(h, pairs="all")
    assert time.monotonic() - begun < 1.5


def test_what_ctrl_c_stopped_is_not_computed_to_its_end(heard: None) -> None:
    x = random(60_000, 512)
    begun, used = time.monotonic(), time.process_time()
    jl.fit(x, x, intercept=True)
    took, whole = time.monotonic() - begun, time.process_time() - used
    threading.Timer(0.25 * took, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        jl.fit(x, x, intercept=True)
    used = time.process_time()
    time.sleep(2 * took)
    assert time.process_time() - used < 0.4 * whole


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    h = [random(300, 24, seed=layer) for layer in range(4)]
    maps = jl.fit_layers(h, pairs="all", ridge="auto")
    expected = [maps.cast(cast)[pair].weight for cast in maps.casts for pair in maps]

    def work() -> list[np.ndarray]:
        again, A = jl.fit_layers(h, pairs="all", ridge="auto"), jl.fit(X, Y)
        A.r2(X, Y), A.then(jl.Map(random(3, 10))).spectrum(), A(X)
        return [again.cast(cast)[pair].weight for cast in again.casts for pair in again]

    for _ in range(3):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            same = all(map(np.array_equal, work(), expected))
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if all(map(np.array_equal, work(), expected)) else 1)
            os.write(writer, bytes([same and os.waitpid(grandchild, 0)[1] == 0]))
            os._exit(0)
        os.close(writer)
        answered = select.select([reader], [], [], 30)[0]
        if not answered:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert answered and os.read(reader, 1) == b"\x01"
        os.close(reader)
    assert all(map(np.array_equal, work(), expected))


def test_other_threads_run_while_a_map_is_fitted() -> None:
    x = random(30_000, 512)
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.005):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    begun = time.monotonic()
    jl.fit(x, x)
    took = time.monotonic() - begun
    stop.set()
    thread.join()
    assert ticks > 0.2 * took / 0.005
