"""Experiments on clusters of real processes: a head, and nodes of one core each with folders of their own.

``JUMPLENS_RAY=9000,3000`` runs the large ones as well, on as many samples.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import jumplens as jl

# Before Ray looks: a process cannot go from one to the other.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
ray = pytest.importorskip("ray", reason="needs Ray")
if sys.platform != "linux":
    pytest.skip("Ray has clusters on Linux", allow_module_level=True)

from ray.cluster_utils import Cluster  # noqa: E402

HOOKS = Path(__file__).with_name("ray_hooks")
SMALL = {"train": 900, "val": 150}
LARGE = dict(zip(("train", "val"), map(int, os.environ.get("JUMPLENS_RAY", "").split(",")))) if "JUMPLENS_RAY" in os.environ else None
TABLES = ["layers.csv", "early_exit.csv", "exits.csv", "ranks.csv", "predictions.parquet"]


class Machines:
    """A head, and nodes that do not share their temporary folders."""

    def __init__(self, folder: Path, nodes: int, **options):
        self.folder = folder
        self.hooks = folder / "hooks"
        self.hooks.mkdir()
        self._before = dict(os.environ)
        paths = [str(HOOKS), str(Path(jl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), JUMPLENS_TEST_HOOKS=str(self.hooks))
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.options = options
        self.number = 0
        for _ in range(nodes):
            self.add()

    def add(self):
        self.number += 1
        scratch = self.folder / f"node-{self.number}"
        scratch.mkdir()
        self.cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(scratch)}, **self.options)

    def hold(self, *prefixes: str):
        for prefix in prefixes:
            (self.hooks / f"hold-{prefix}").touch()

    def held(self, prefix: str, driver: subprocess.Popen) -> str:
        """The node of the task that is held."""
        place = self.hooks / f"held-{prefix}"
        until = time.monotonic() + 120
        while not place.exists():
            assert driver.poll() is None, f"the driver ended before {prefix}: {driver.stderr.read()}"
            assert time.monotonic() < until, f"nothing was held at {prefix}"
            time.sleep(0.02)
        return place.read_text().split()[0]

    def kill(self, node_id: str):
        (node,) = [node for node in self.cluster.worker_nodes if node.node_id == node_id]
        self.cluster.remove_node(node, allow_graceful=False)

    def made(self) -> list[tuple[str, str]]:
        """What was made, and on which node."""
        made = self.hooks / "made"
        return [tuple(line.split()) for line in made.read_text().splitlines()] if made.exists() else []  # type: ignore[misc]

    def driver(self, out: Path, **options) -> subprocess.Popen:
        """A process that does the experiment."""
        code = (
            "import sys, ray, jumplens as jl\n"
            f"ray.init({self.cluster.address!r}, log_to_driver=False, logging_level='ERROR')\n"
            f"jl.ray.run(out={str(out)!r}, **{options!r})\n"
        )
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)

    def close(self):
        self.cluster.shutdown()
        os.environ.clear()
        os.environ.update(self._before)


@pytest.fixture
def machines(tmp_path):
    made = []

    def make(nodes: int = 3, **options) -> Machines:
        made.append(Machines(tmp_path, nodes, **options))
        return made[0]

    yield make
    ray.shutdown()
    for each in made:
        each.close()


def jumplens(*arguments: object):
    done = subprocess.run([sys.executable, "-m", "jumplens", "-q", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def given(options: dict) -> list[object]:
    """`options` as the program takes them."""
    words: list[object] = []
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", value]
    return words


def one_machine(at: Path, model: str, casts: str, options: dict) -> Path:
    """The experiment on one machine in one share: a folder with all that a cluster makes."""
    one, fitted = at / "one", at / "fitted"
    words = [word for word in given(options)]
    jumplens("moments", "--model", model, *words, "--out", one)
    maps = [word for word in given({name: value for name, value in options.items() if name in ("intercept", "ridge")})]
    jumplens("fit", "--moments", one / "moments.safetensors", "--out", fitted, *maps)
    jumplens("evaluate", "--out", one, "--shortcuts", fitted, "--casts", casts)
    for table in TABLES:
        (fitted / "results" / table).write_bytes((one / "results" / table).read_bytes())
    return fitted


def bytes_of(folder: Path) -> dict[str, bytes]:
    maps = {str(file.relative_to(folder)): file.read_bytes() for file in (folder / "shortcuts").rglob("*.safetensors")}
    tables = {name: (folder / "results" / name).read_bytes() for name in [*TABLES, "r2.csv", "learning_curve.csv"]}
    return maps | tables


def assert_same(one: Path, other: Path):
    left, right = bytes_of(one), bytes_of(other)
    assert left.keys() == right.keys()
    assert [name for name in left if left[name] != right[name]] == []


def r2_of(folder: Path) -> dict[tuple[str, ...], float]:
    with open(folder / "results" / "r2.csv") as file:
        return {(row["mapping"], row["from"], row["to"]): float(row["r2"]) for row in csv.DictReader(file)}


def assert_done_once(made: list[tuple[str, str]], dead: set[str], names: set[str]):
    """Nothing was made twice but what dead nodes had."""
    assert {name for name, _ in made} == names
    for name in names:
        nodes = [node for other, node in made if other == name]
        assert all(node in dead for node in nodes[:-1]), f"{name} was made on {nodes}, of which {dead} died"


def test_the_bytes_are_those_of_one_machine(machines, tmp_path):
    there = machines()
    ray.init(there.cluster.address, log_to_driver=False, logging_level="ERROR")
    options = {**(LARGE or SMALL), "pairs": "to-final"}
    one = one_machine(tmp_path, "tiny-gpt2", "id,mat", options)
    run = jl.ray.run("tiny-gpt2", out=tmp_path / "shared", **options)
    assert_same(one, tmp_path / "shared")
    assert len(run.layers()) > 0 and not (tmp_path / "shared.unfinished").exists()
    assert {node for _, node in there.made()} == {node.node_id for node in there.cluster.worker_nodes}
    assert not list(tmp_path.glob("node-*/jumplens-*")), "states were left on the nodes"
    jumplens("run", "--model", "tiny-gpt2", *given(options), "--casts", "id,mat", "--out", tmp_path / "run")
    straight, ours = r2_of(tmp_path / "run"), r2_of(tmp_path / "shared")
    assert max(abs(straight[key] - ours[key]) for key in ours) <= 1e-6
    with pytest.raises(FileExistsError, match="holds maps already"):
        jl.ray.run("tiny-gpt2", out=tmp_path / "shared", **options)
    for other in (tmp_path, tmp_path / "run"):
        with pytest.raises(FileExistsError, match="holds something else .* left alone"):
            jl.ray.run("tiny-gpt2", out=other, overwrite=True, **options)
    before = (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns
    jl.ray.run("tiny-gpt2", out=tmp_path / "shared", overwrite=True, shares=1, **options)
    assert_same(one, tmp_path / "shared")
    assert (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns > before

    # Masked, all pairs, four casts more, nothing but Ray's object store between the nodes, by the command.
    options = {**(LARGE or SMALL), "pairs": "all", "intercept": True, "ridge": "auto"}
    at = tmp_path / "bert"
    at.mkdir()
    one = one_machine(at, "tiny-bert", "id,mat,mat_ridge,mat+b,mat+b_ridge", options)
    code = "from jumplens.ray import main; main()"
    words = ["run", "tiny-bert", "--address", there.cluster.address, "--shares", "5", "--not-shared", *given(options), "--out", at / "out"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "`mat_attn`" in done.stderr and "left out" in done.stderr
    assert_same(one, at / "out")
    done = subprocess.run([sys.executable, "-c", code, *map(str, words[:-1]), str(at / "other"), "--nope"], capture_output=True, text=True)
    assert done.returncode == 1 and "--nope" in done.stderr


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.skipif(LARGE is None, reason="is large"))])
def test_killed_in_every_phase_it_ends_in_the_same_bytes(machines, tmp_path, shared):
    there = machines()
    options = {**(LARGE or SMALL), "pairs": "to-final"}
    one = one_machine(tmp_path, "tiny-gpt2", "id,mat", options)
    out, dead = tmp_path / "out", set()
    phases = ["sums-2", "sums.", "maps-", "predictions-1"]
    there.hold(*phases, "predictions-3")
    driver = there.driver(out, model="tiny-gpt2", shared=shared, shares=3, **options)
    for phase in phases:
        node = there.held(phase, driver)
        dead.add(node)
        there.add()
        there.kill(node)
    # The driver, while the last share is held, and the others are there.
    there.held("predictions-3", driver)
    until = time.monotonic() + 60
    while sum(name.startswith("predictions") for name, _ in there.made()) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    again = there.driver(out, model="tiny-gpt2", shared=shared, shares=3, **options)
    assert again.wait(120) == 0, again.stderr.read()
    assert_same(one, out)
    sums = {f"sums-{index}-of-3.safetensors" for index in (1, 2, 3)}
    predictions = {f"predictions-{index}-of-3.safetensors" for index in (1, 2, 3)}
    assert_done_once(there.made(), dead, sums | predictions | {"sums.safetensors"} | {f"maps-{layer:03}" for layer in range(12)})


def test_a_share_that_fails_is_named_and_the_others_are_kept(machines, tmp_path):
    there = machines(2)
    (there.hooks / "fail-sums-2").touch()
    options = {"train": 300, "val": 70, "pairs": "to-final", "shares": 3}
    driver = there.driver(tmp_path / "out", **options)
    assert driver.wait(120) == 1
    said = driver.stderr.read()
    assert "share 2/3 (training samples" in said and "failed 3 times: OSError: the disk is full" in said and "goes on from there" in said, said
    assert sorted(name for name, _ in there.made()) == ["sums-1-of-3.safetensors", "sums-3-of-3.safetensors"]
    (there.hooks / "fail-sums-2").unlink()
    again = there.driver(tmp_path / "out", **options)
    assert again.wait(120) == 0, again.stderr.read()
    assert sum(name.startswith("sums-") for name, _ in there.made()) == 3


def test_a_cluster_without_the_memory_is_refused(tmp_path):
    ray.init(num_cpus=1, _memory=60_000_000, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(ValueError, match=r"a share takes .* of memory, and no node has more than 60 MB .* a file of 31\.\d MB"):
            jl.ray.run(out=tmp_path / "out", pairs="to-final", **SMALL)
        with pytest.raises(ValueError, match="no node has 3 cores"):
            jl.ray.run(out=tmp_path / "out", pairs="to-final", threads=3, **SMALL)
        with pytest.raises(ValueError, match="the seed is 0 in the run .* and 1 here"):
            jl.ray.run(out=tmp_path / "out", pairs="to-final", seed=1, **SMALL)
        with pytest.raises(ValueError, match="workers is 0"):
            jl.ray.run(out=tmp_path / "out", workers=0)
        assert not (tmp_path / "out").exists()
    finally:
        ray.shutdown()


def test_maps_from_pytorch_are_those_of_one_process(machines, tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    there = machines(2)
    ray.init(there.cluster.address, log_to_driver=False, logging_level="ERROR")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=3, n_embd=16, n_head=4, vocab_size=101, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    rng = np.random.default_rng(0)
    texts = [rng.integers(3, 101, size=rng.integers(1, 20)).tolist() for _ in range(700)]
    ours = jl.ray.fit(str(tmp_path / "gpt2"), texts, train=500, val=90, share=64, seed=3, intercept=True, pairs="all")
    wrapped = jl.torch.wrap(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").eval())
    straight = wrapped.fit(texts, train=500, val=90, seed=3, intercept=True, pairs="all", progress=False)
    assert ours.pairs == straight.pairs and ours.casts == straight.casts
    np.testing.assert_allclose(np.array(ours.r2["r2"], float), np.array(straight.r2["r2"], float), atol=1e-6)
    np.testing.assert_allclose(ours[1, 3].weight, straight[1, 3].weight, atol=1e-4)
    assert len(wrapped.evaluate(ours, texts[600:], progress=False)) > 0
    with pytest.raises(ValueError, match="there are 700 texts, and 790 were asked for"):
        jl.ray.fit(str(tmp_path / "gpt2"), texts, train=700, val=90)
    with pytest.raises(RuntimeError, match="the share of texts 1 to 10 failed 3 times: OSError"):
        jl.ray.fit(str(tmp_path / "nowhere"), texts, train=10)

    # Texts, which the model's tokenizer makes ids of: where states are used as they are, the figures are those of the program's samples.
    model = str(jl.bundled("tiny-gpt2", tmp_path))
    texts = jl.bundled("wikipedia-sample", tmp_path).read_text(encoding="utf-8").splitlines()[:60]
    of_text = jl.ray.fit(model, texts, train=40, val=20, share=16, load={"dtype": "float32"})
    jumplens("maps", "tiny-gpt2", "--train", 40, "--val", 20, "--out", tmp_path / "maps")
    mine = {(row[0], str(row[1]), str(row[2])): row[3] for row in zip(*(of_text.r2[name] for name in ("mapping", "from", "to", "r2")))}
    theirs = r2_of(tmp_path / "maps")
    assert all(abs(mine["id", str(layer), "12"] - theirs["id", str(layer), "12"]) < 1e-5 for layer in range(12))


def test_maps_from_a_data_set_of_ray(tmp_path):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    pytest.importorskip("pyarrow", reason="a data set of Ray needs it")
    data = pytest.importorskip("ray.data", reason="needs Ray's data sets")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        torch.manual_seed(0)
        config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=101, n_positions=32)
        transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
        texts = np.random.default_rng(0).integers(3, 101, size=(200, 12)).tolist()
        ours = jl.ray.fit(str(tmp_path / "gpt2"), data.from_items([{"ids": text} for text in texts]), val=50, share=64, column="ids")
        wrapped = jl.torch.wrap(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").eval())
        np.testing.assert_allclose(ours[0, 2].weight, wrapped.fit(texts, val=50, progress=False)[0, 2].weight, atol=1e-4)
    finally:
        ray.shutdown()
