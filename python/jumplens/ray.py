"""One experiment on the machines of a Ray cluster: samples drawn once, shares of them run wherever there is room, sums added up in a
tree, maps fitted layer by layer, and tables that have the bytes of a run on one machine.

``docs/cluster.md`` says how to start a cluster, when to take it, and how far it goes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import _jumplens
from ._jumplens import Maps, Run, Sums

# Ray's decorators and results have no types that could be held to anything.
ray: Any
try:
    ray = importlib.import_module("ray")
except ImportError as error:
    raise ImportError("jumplens.ray needs Ray: `pip install jumplens[ray]`") from error

__all__ = ["fit", "run"]

#: Files that are added up by one task: the tree's depth times what is read at a level is least at three to four.
FAN_IN = 4
#: How often a share is tried.
ATTEMPTS = 3
#: How long the driver waits before it looks at the progress again, in seconds.
PATIENCE = 0.25
#: Texts of a share of `fit`, where nothing is said.
TEXTS = 2048

#: What a task makes: a path that every node sees, or the files' bytes by name (one file's under "").
_Made = str | dict[str, Any]
#: What a task says beside it: lines for the user, and its node.
_Told = tuple[list[str], str]


def run(
    model: str | os.PathLike[str] = "tiny-gpt2",
    *,
    out: str | os.PathLike[str],
    workers: int | None = None,
    shares: int | None = None,
    threads: int = 1,
    scratch: str | os.PathLike[str] | None = None,
    shared: bool | None = None,
    keep_parts: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Run:
    """Does an experiment on the cluster that Ray is connected to (``ray.init("auto")``; without, Ray starts on this machine).

    Parameters
    ----------
    model : str
        As ``jumplens run`` takes it. Every node has to find it: a bundled one, one of the Hub, or a folder at the same place.
    out : path
        Where the maps and tables go, as ``jumplens fit --moments`` and ``evaluate --merge`` write them. Until they are there, what is made
        lies in ``OUT.unfinished``, from which the same call goes on where it was stopped.
    workers : int, optional
        Tasks at one time; by default as many as the cluster has cores and memory for.
    shares : int, optional
        In how many shares the samples are divided; by default one a worker.
    threads : int
        Threads, and cores, of a task.
    scratch : path, optional
        A folder on each node for states, which never leave it; by default the system's temporary one.
    shared : bool, optional
        Whether all nodes see `out`; by default they are asked. Where they do not, sums travel through Ray's object store.
    keep_parts : bool
        Leave ``OUT.unfinished`` and the nodes' folders where they are when all is done.
    overwrite : bool
        Replace what an earlier call has finished in `out`.
    progress : bool
        Show a bar (tqdm).
    **options
        Those of ``jumplens run``, with ``_`` for ``-``: ``corpus="…"``, ``train=9000``, ``val=3000``, ``seed=0``, ``pairs="to-final"``,
        ``casts=["id", "mat"]``, ``intercept=True``, ``ridge="auto"``. Casts that run blocks are left out, and a line says so.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        Where an option is none or does not go with what is there, or no node has the memory for a share.
    FileExistsError
        Where `out` has something.
    RuntimeError
        Where a share failed three times: the message names its samples and the reason. What the others made is kept.

    Examples
    --------
    >>> import jumplens as jl
    >>> run = jl.ray.run("gpt2", corpus="sentences.txt", train=1_000_000, val=10_000, pairs="to-final", out="gpt2")  # doctest: +SKIP
    >>> run.layers()  # doctest: +SKIP
    """
    arguments = ["--model", os.fspath(model)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not None and value is not False:
            several = not isinstance(value, (str, os.PathLike)) and isinstance(value, Iterable)
            arguments += [option, ",".join(map(str, value)) if several else str(value)]
    for what, number in (("workers", workers), ("shares", shares), ("threads", threads)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"{what} is {number!r}, where a whole number of 1 or more is expected")
    asked = _Asked(Path(out).absolute(), workers, shares, threads, scratch, shared, keep_parts, overwrite, progress)
    return _Driver(asked, arguments).all()


def fit(
    model: str | Callable[[], tuple[Any, Any]],
    texts: Any,
    train: int | None = None,
    val: int = 0,
    *,
    backend: Literal["torch"] = "torch",
    num_gpus: float = 0,
    num_cpus: int = 1,
    workers: int | None = None,
    column: str = "text",
    share: int = TEXTS,
    load: dict[str, Any] | None = None,
    seed: int = 0,
    pairs: Literal["to-final", "all"] = "to-final",
    positions: int | Literal["all"] = 1,
    skip_first: int = 0,
    intercept: bool = True,
    ridge: float | Literal["auto"] | None = None,
    rank: int | None = None,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> Maps:
    """Fits the maps between layers of any model of PyTorch, on the devices of a cluster: `jumplens.torch.Model.fit` in shares.

    States never leave the device that they are on; sums travel through Ray's object store, and are added up there.

    Parameters
    ----------
    model : str, or function
        What `from_pretrained` of transformers takes on every node; or a function without arguments that gives a model, in evaluation mode
        and on its device, and a tokenizer. It is called once a worker process.
    texts : iterable of str or of lists of token ids, or ray.data.Dataset
        The first `train` of them are fitted on, the `val` after them give r². Those that are too short for any position are passed over,
        and others do not take their place. Of a data set `column` is taken, in its order.
    train, val : int
        How many; by default all that are not for `val`.
    backend : "torch"
        The program runs its own models by `run`.
    num_gpus, num_cpus : number
        What each task has. With `num_gpus` the model is put on the first device that PyTorch finds in the task.
    workers : int, optional
        Tasks at one time; by default as many as there is room for.
    share : int
        Texts of a task.
    load : dict, optional
        What `from_pretrained` gets beside the name.
    seed, pairs, positions, skip_first, intercept, ridge, rank, batch_tokens, progress
        As for `jumplens.torch.Model.fit`.

    Returns
    -------
    Maps
        With the table `Maps.r2` where there are validation texts.

    Raises
    ------
    ValueError
        Where there are too few texts, or an option is none.
    RuntimeError
        Where a share failed three times: the message names its texts and the reason.
    """
    if backend != "torch":
        raise ValueError(f"backend is {backend!r}, where \"torch\" is expected: what the program itself runs is done by `jumplens.ray.run`")
    for what, number, least in (("val", val, 0), ("train", train, 1), ("share", share, 1), ("num_cpus", num_cpus, 1), ("workers", workers, 1)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise ValueError(f"{what} is {number!r}, where a whole number of {least} or more is expected")
    if isinstance(texts, str):
        raise TypeError("texts is one text, where a list of them is expected")
    if hasattr(texts, "iter_rows"):
        rows = (row[column] for row in texts.iter_rows())
        total = texts.count() if train is None else None
    else:
        if train is None and not hasattr(texts, "__len__"):
            texts = list(texts)
        rows, total = iter(texts), len(texts) if train is None else None
    if train is None:
        train = (total or 0) - val
    if train < 1:
        raise ValueError(f"there are {total} texts, and {val} are for validation: give more, or fewer for `val`")
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    told = ray.put(_Torch(model, load or {}, num_gpus > 0, seed, pairs, positions, skip_first, batch_tokens))
    options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": ATTEMPTS - 1, "retry_exceptions": True, "num_returns": 2}
    room = sum(
        int(min(node["Resources"].get("CPU", 0) // num_cpus, node["Resources"].get("GPU", 0) // num_gpus if num_gpus else 1 << 30))
        for node in ray.nodes()
        if node["Alive"]
    )
    if not room:
        raise ValueError(f"no node has {num_cpus} cores and {num_gpus:g} GPUs: give fewer")
    made: dict[str, list[Any]] = {"train": [], "val": []}
    bar = _text_bar(train + val, progress)

    def shares() -> Iterator[_Step]:
        at = 0
        for split, number in (("train", train), ("val", val)):
            left = number
            while left:
                some = list(itertools.islice(rows, min(share, left)))
                if not some:
                    raise ValueError(f"there are {at} texts, and {train + val} were asked for: give more, or ask for fewer")
                first, place = at, len(made[split])
                made[split].append(None)
                at, left = at + len(some), left - len(some)
                what = f"the share of texts {first + 1} to {at}"

                def submit(name: str, first: int = first, some: list[Any] = some) -> tuple[Any, Any]:
                    told_of, sums = ray.remote(_torch_sums).options(**options, name=name).remote(told, first, some)
                    return told_of, sums

                def then(sums: Any, split: str = split, place: int = place, number: int = len(some)) -> None:
                    made[split][place] = sums
                    bar.update(number)

                yield _Step(f"sums of texts {first + 1}-{at}", what, submit, then)

    with contextlib.closing(bar):
        crew = _Crew(min(workers or room, room), lambda: None, more=shares())
        crew.drive("nothing is kept, since sums are in memory")
    adding = {"num_cpus": num_cpus, "max_retries": ATTEMPTS - 1, "name": "add up"}
    while any(len(sums) > 1 for sums in made.values()):
        for split, sums in made.items():
            groups = [sums[at : at + FAN_IN] for at in range(0, len(sums), FAN_IN)]
            made[split] = [ray.remote(_add).options(**adding).remote(*group) if len(group) > 1 else group[0] for group in groups]
    of_train, of_val = (_loaded(ray.get(refs[0])) if refs else None for refs in made.values())
    assert of_train is not None
    if not of_train.n or (val and not (of_val and of_val.n)):
        raise ValueError("no text has a position to choose: give longer ones, or skip fewer tokens")
    maps = of_train.fit(intercept=intercept, ridge=ridge, rank=rank)
    table = of_val.r2(maps, train=of_train) if of_val is not None else None
    notes = {"fit": {"train": of_train.n, "val": val, "seed": seed, "positions": positions, "skip_first": skip_first}}
    name = model if isinstance(model, str) else getattr(model, "__name__", "model")
    return maps._with(json.dumps(notes), name, table)


@dataclass(frozen=True)
class _Torch:
    """What every task of `fit` is told."""

    model: str | Callable[[], tuple[Any, Any]]
    load: dict[str, Any]
    on_device: bool
    seed: int
    pairs: Literal["to-final", "all"]
    positions: int | Literal["all"]
    skip_first: int
    batch_tokens: int


#: The model of this process, by what it was asked for with.
_wrapped: dict[bytes, Any] = {}


def _wrap(told: _Torch, of_text: bool) -> Any:
    """The model, loaded once a process; with its tokenizer where there is something for it to do."""
    key = hashlib.sha256(ray.cloudpickle.dumps((told.model, sorted(told.load.items()), told.on_device, of_text))).digest()
    if key not in _wrapped:
        own = importlib.import_module("jumplens.torch")
        torch = importlib.import_module("torch")
        if callable(told.model):
            model, tokenizer = told.model()
        else:
            transformers = importlib.import_module("transformers")
            config = transformers.AutoConfig.from_pretrained(told.model)
            is_masked = any("MaskedLM" in name for name in getattr(config, "architectures", None) or [])
            auto = transformers.AutoModelForMaskedLM if is_masked else transformers.AutoModelForCausalLM
            model = auto.from_pretrained(told.model, **told.load).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(told.model) if of_text else None
            if told.on_device:
                model = model.to(torch.accelerator.current_accelerator())
        _wrapped.clear()
        _wrapped[key] = own.wrap(model, tokenizer)
    return _wrapped[key]


def _torch_sums(told: _Torch, first: int, texts: list[Any]) -> tuple[_Told, Any]:
    """The sums of a share of texts."""
    own = importlib.import_module("jumplens.torch")
    choice = own._Choice(told.seed, told.positions, told.skip_first)
    wrapped = _wrap(told, any(isinstance(text, str) for text in texts))
    sums, _ = wrapped._sums_of_share(texts, first, choice, told.pairs, told.batch_tokens)
    return ([], ""), _saved(sums)


def _add(*sums: Any) -> Any:
    return _saved(functools.reduce(lambda one, other: one + other, map(_loaded, sums)))


def _saved(sums: Sums) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sums"
        sums.save(path)
        return np.fromfile(path, np.uint8)


def _loaded(content: Any) -> Sums:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sums"
        np.asarray(content).tofile(path)
        return Sums.load(path)


def _text_bar(number: int, progress: bool) -> Any:
    if progress and sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            return importlib.import_module("tqdm").tqdm(total=number, unit=" texts")
    return _NoBar()


class _NoBar:
    def update(self, _: int) -> None: ...
    def close(self) -> None: ...


def main() -> None:
    """The command ``jumplens-ray``."""
    parser = argparse.ArgumentParser(
        prog="jumplens-ray",
        description="An experiment on the machines of a Ray cluster.",
        epilog="All other options are those of `jumplens run`.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="run")
    command = commands.add_parser("run", allow_abbrev=False, help="do everything", epilog="All other options are those of `jumplens run`.")
    command.add_argument("--address", default="auto", help="where the cluster is [default: auto, the one of this machine]; `local` starts Ray here")
    command.add_argument("--model", help="as for `jumplens run`, where it may stand directly behind `run` too [default: tiny-gpt2]")
    command.add_argument("--out", metavar="DIR", help="folder to write [default: jumplens-runs/MODEL]")
    command.add_argument("--workers", type=int, metavar="N", help="tasks at one time [default: what the cluster has room for]")
    command.add_argument("--shares", type=int, metavar="N", help="shares of the samples [default: one a worker]")
    command.add_argument("--threads", type=int, default=1, metavar="N", help="threads, and cores, of a task [default: 1]")
    command.add_argument("--scratch", metavar="DIR", help="folder on each node for states [default: the temporary one]")
    command.add_argument("--not-shared", action="store_true", help="do not rely on it that nodes see the folder of `--out`")
    command.add_argument("--keep-parts", action="store_true", help="keep what the result was made from")
    command.add_argument("--overwrite", action="store_true", help="replace what is finished in the folder")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    given = sys.argv[1:]
    named = None
    if len(given) > 1 and given[0] == "run" and not given[1].startswith("-"):
        named = given.pop(1)
    args, others = parser.parse_known_args(given)
    if named and args.model:
        parser.error("the model is given twice; leave one out")
    name = named or args.model or "tiny-gpt2"
    places = [place for place in name.rstrip("/").split("/") if place not in ("", ".", "..")]
    out = Path(args.out or Path("jumplens-runs") / (places[-1] if places else "model"))
    try:
        ray.init(address=args.address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError):
        sys.exit(f"error: no Ray cluster was found at `{args.address}`: start one with `ray start --head`, or give `--address local`")
    asked = _Asked(
        out.absolute(), args.workers, args.shares, args.threads, args.scratch, False if args.not_shared else None, args.keep_parts,
        args.overwrite, not args.quiet,
    )  # fmt: skip
    try:
        _Driver(asked, ["--model", name, *others]).all()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print(f"Interrupted: the same command goes on from what is in `{_unfinished(out)}`", file=sys.stderr)
        sys.exit(130)
    if not args.quiet:
        print(f"Results, figures and maps are in `{out}`; `{out}/report.html` shows them", file=sys.stderr)


@dataclass(frozen=True)
class _Asked:
    """What a call is asked to do, beside the experiment."""

    out: Path
    workers: int | None
    shares: int | None
    threads: int
    scratch: str | os.PathLike[str] | None
    shared: bool | None
    keep_parts: bool
    overwrite: bool
    progress: bool


@dataclass(frozen=True)
class _Job:
    """What every task is told of the experiment."""

    manifest: str
    #: Of the experiment, in the names of the nodes' folders.
    key: str
    of: int
    threads: int
    #: The folder for what is made, where all nodes see it.
    shared: str | None
    scratch: str | None

    def named(self, what: str, index: int) -> str:
        return f"{what}-{index:0{len(str(self.of))}}-of-{self.of}.safetensors"


# What tasks do, on the nodes.


class _Desk:
    """Where a task works on its node."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        # Before there are threads: a worker process has those of its first task.
        os.environ["RAYON_NUM_THREADS"] = str(job.threads)
        self.base = Path(job.scratch or tempfile.gettempdir()) / f"jumplens-{job.key}"
        self.parts = Path(job.shared) if job.shared else self.base / "parts"
        self.parts.mkdir(parents=True, exist_ok=True)
        self.base.mkdir(parents=True, exist_ok=True)

    def make(self, name: str, work: Callable[[Path], list[str]]) -> tuple[_Told, _Made]:
        """What goes by `name`, which `work` makes where it is not there, with the lines that are to be said."""
        kept, notes = self.parts / name, []
        if not (kept.exists() and _jumplens.is_whole(kept)):
            made = self.base / f"{uuid.uuid4().hex}-{name}"
            notes = work(made)
            self._keep(made, kept)
        return (notes, ray.get_runtime_context().get_node_id()), self.give(kept)

    def _keep(self, made: Path, kept: Path) -> None:
        """Gives what is made its name, under which nobody ever sees a part of it."""
        at = kept.with_name(f"{kept.name}.{uuid.uuid4().hex}.part")
        shutil.move(made, at)
        if kept.is_dir():
            shutil.rmtree(kept)
        os.replace(at, kept)

    def give(self, path: Path) -> _Made:
        """What others get of a file or a folder."""
        return str(path) if self.job.shared else _content(path)

    @contextlib.contextmanager
    def taken(self, made: Sequence[_Made]) -> Iterator[list[str]]:
        """What others made, as paths."""
        with tempfile.TemporaryDirectory(dir=self.base) as folder:
            yield [_put(one, Path(folder) / str(index)) for index, one in enumerate(made)]

    def taken_once(self, made: _Made, name: str) -> str:
        """The same for what many tasks of a node look at; it stays."""
        if isinstance(made, str):
            return made
        path = self.base / name
        if not (path.is_dir() or (path.exists() and _jumplens.is_whole(path))):
            at = self.base / f"{uuid.uuid4().hex}-{name}"
            _put(made, at)
            # Another task may have been faster, with the same bytes.
            with contextlib.suppress(OSError):
                os.replace(at, path)
        return str(path)

    @contextlib.contextmanager
    def of_share(self, index: int) -> Iterator[Path]:
        """The folder of a share's states, which is nobody else's meanwhile."""
        folder = self.base / f"share-{index}-of-{self.job.of}"
        folder.mkdir(exist_ok=True)
        with _locked(folder / ".lock"):
            yield folder


def _content(path: Path) -> dict[str, Any]:
    """A file's bytes, or those of the files below a folder but for what is only of use there."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name != ".lock"]
        return {str(file.relative_to(path)): np.fromfile(file, np.uint8) for file in files}
    return {"": np.fromfile(path, np.uint8)}


def _put(made: _Made, path: Path) -> str:
    """Where they are as files: at `path`, unless they have a path."""
    if isinstance(made, str):
        return made
    for name, content in made.items():
        file = path / name if name else path
        file.parent.mkdir(parents=True, exist_ok=True)
        np.asarray(content).tofile(file)
    return str(path)


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Holds a lock that the system lets go of when the process ends. `BlockingIOError` where it is not to be waited for."""
    try:
        import fcntl
    except ImportError:
        # Elsewhere than on Unix there is none, and Ray has no clusters.
        yield
        return
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


@functools.lru_cache(maxsize=1)
def _worker(manifest: str) -> _jumplens.Worker:
    """The model, loaded once a process."""
    return _jumplens.Worker(manifest)


@functools.lru_cache(maxsize=1)
def _sums_file(path: str, _modified: int) -> _jumplens.SumsFile:
    return _jumplens.SumsFile(path)


def _sums(job: _Job, index: int, train: bytes, val: bytes, counter: Any) -> tuple[_Told, _Made]:
    """The sums of a share."""
    desk = _Desk(job)

    def work(made: Path) -> list[str]:
        with desk.of_share(index) as folder:
            return _worker(job.manifest).sums(index, job.of, train, val, folder, made, _teller(counter, ("sums", index)))

    return desk.make(job.named("sums", index), work)


def _merge(job: _Job, name: str, *parts: _Made) -> tuple[_Told, _Made]:
    """The sums of several shares, or of several sums."""
    desk = _Desk(job)

    def work(made: Path) -> list[str]:
        with desk.taken(parts) as paths:
            _jumplens.merge_sums(paths, made)
        return []

    return desk.make(name, work)


def _fit(job: _Job, total: _Made, layer: int) -> tuple[_Told, _Made]:
    """The maps from a layer."""
    desk = _Desk(job)

    def work(made: Path) -> list[str]:
        path = desk.taken_once(total, f"total-of-{job.of}.safetensors")
        _sums_file(path, os.stat(path).st_mtime_ns).fit(job.manifest, layer, layer + 1, made)
        return []

    return desk.make(f"maps-{layer:03}", work)


def _evaluate(job: _Job, index: int, val: bytes, maps: _Made, digest: str, counter: Any) -> tuple[_Told, _Made]:
    """The predictions of a share."""
    desk = _Desk(job)

    def work(made: Path) -> list[str]:
        at = desk.taken_once(maps, f"maps-{digest}")
        with desk.of_share(index) as folder:
            # What was evaluated before it was stopped is kept next to it.
            there = folder / "predictions.safetensors"
            there.unlink(missing_ok=True)
            notes = _worker(job.manifest).evaluate(index, job.of, val, folder, at, there, _teller(counter, ("evaluate", index)))
            os.replace(there, made)
        return notes

    return desk.make(job.named("predictions", index), work)


def _look(job: _Job, token: str | None) -> dict[str, Any]:
    """What a node has."""
    desk = _Desk(_Job(job.manifest, job.key, job.of, job.threads, None, job.scratch))
    sees = False
    if job.shared and token:
        with contextlib.suppress(OSError):
            sees = (Path(job.shared) / ".token").read_text() == token
    parts = [path.name for path in desk.parts.glob("sums-*") if not path.name.endswith(".part")]
    states = [path.parent.name for path in desk.base.glob("share-*/states.json")]
    return {
        "sees": sees,
        "free": shutil.disk_usage(desk.base).free,
        "isa": _jumplens.isa(),
        "version": _jumplens.__version__,
        "parts": [*parts, *states],
    }


def _clear(job: _Job) -> None:
    """Removes what tasks left on a node."""
    shutil.rmtree(Path(job.scratch or tempfile.gettempdir()) / f"jumplens-{job.key}", ignore_errors=True)


def _teller(counter: Any, task: tuple[str, int]) -> Callable[[int, str], None]:
    counter.begin.remote(task)
    return lambda amount, unit: counter.add.remote(task, amount, unit)


class _Counter:
    """Counts what the tasks have done."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, int], dict[str, int]] = {}

    def begin(self, task: tuple[str, int]) -> None:
        """A share that is begun again counts from nothing."""
        self._done[task] = {}

    def add(self, task: tuple[str, int], amount: int, unit: str) -> None:
        of_task = self._done.setdefault(task, {})
        of_task[unit] = of_task.get(unit, 0) + amount

    def done(self) -> dict[tuple[str, int], dict[str, int]]:
        return self._done


# What the driver does.


@dataclass
class _Step:
    """A task that is to be done."""

    name: str
    #: What a message says of it.
    what: str
    submit: Callable[[str], tuple[Any, Any]]
    then: Callable[[Any], None]


@dataclass
class _Crew:
    """Tasks, so many at one time."""

    workers: int
    watch: Callable[[], None]
    waiting: deque[_Step] = field(default_factory=deque)
    #: Those that are made as there is room for them.
    more: Iterator[_Step] = field(default_factory=lambda: iter(()))
    failed: list[tuple[_Step, BaseException]] = field(default_factory=list)
    #: On which node each was done.
    where: dict[str, str] = field(default_factory=dict)

    def drive(self, kept: str) -> None:
        """Does all of them, and those that come of them. What fails three times is told of when the others are done, with what is `kept`."""
        flying: dict[Any, tuple[_Step, Any]] = {}
        try:
            while True:
                while len(flying) < self.workers:
                    step = self.waiting.popleft() if self.waiting else next(self.more, None)
                    if step is None:
                        break
                    told, made = step.submit(step.name)
                    flying[told] = (step, made)
                if not flying:
                    break
                for told in ray.wait(list(flying), timeout=PATIENCE)[0]:
                    step, made = flying.pop(told)
                    try:
                        lines, self.where[step.name] = ray.get(told)
                        _say(lines)
                    except ray.exceptions.RayError as error:
                        self.failed.append((step, error))
                        continue
                    step.then(made)
                self.watch()
        except BaseException:
            for told in flying:
                with contextlib.suppress(Exception):
                    ray.cancel(told, force=True)
            raise
        if self.failed:
            told_of = "; ".join(f"{step.what} failed {ATTEMPTS} times: {_reason(error)}" for step, error in self.failed)
            self.failed.clear()
            raise RuntimeError(f"{told_of}; {kept}")


def _reason(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    return " ".join(str(error).split("\n\n")[0].split())


#: Lines that were said already.
_said: set[str] = set()


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        if line not in _said:
            _said.add(line)
            print(line, file=sys.stderr)


def _unfinished(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


def _program(*arguments: str) -> None:
    """Does a stage by the program, in its words."""
    done = subprocess.run([sys.executable, "-m", "jumplens", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode:
        error = said.rpartition("error: ")[2]
        raise ValueError(error or f"`jumplens {arguments[0]}` ended with code {done.returncode}")
    _say(said.splitlines())


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


class _Driver:
    """Does an experiment."""

    def __init__(self, asked: _Asked, arguments: list[str]) -> None:
        self.asked = asked
        self.arguments = arguments
        self.at = _unfinished(asked.out)
        self.result = self.at / "result"

    def all(self) -> Run:
        """All of it, or what is left to do."""
        out = self.asked.out
        if out.exists() and any(out.iterdir()):
            if not _is_fitted(out):
                raise FileExistsError(f"`{out}` holds something else than maps from sums, and is left alone: give another `out`")
            if not self.asked.overwrite:
                raise FileExistsError(f"`{out}` holds maps already: give another `out`, or allow them to be replaced (overwrite)")
        self.at.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_locked(self.at / ".lock", wait=False))
            except BlockingIOError:
                raise ValueError(f"another process works in `{self.at}`: wait until it is done, or stop it") from None
            self._begin()
            stack.callback(self._bar.close)
            total = self._total()
            self._maps(total)
            if self._needs.has_head:
                self._tables()
            else:
                _say(["The model has no head, and makes no predictions: there are maps and r² alone"])
            if not (self.result / "report.html").exists():
                _program("plot", "--out", str(self.result), "--quiet")
            if out.exists():
                shutil.rmtree(out)
            os.rename(self.result, out)
            if not self.asked.keep_parts:
                self._each_node(_clear, self._job)
                shutil.rmtree(self.at)
        return Run(out)

    def _begin(self) -> None:
        """Draws the samples, and sees what the cluster has."""
        _program("samples", *self.arguments, "--resume", "--out", str(self.at / "run"))
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        manifest = (self.at / "run" / "manifest.json").read_text(encoding="utf-8")
        made_from = json.loads(manifest)
        files = made_from["stages"]["samples"]["files"]
        about = {name: value for name, value in made_from.items() if name not in ("stages", "threads", "isa", "jumplens_sha256")}
        key = hashlib.sha256(json.dumps([about, files], sort_keys=True).encode()).hexdigest()[:16]
        threads = self.asked.threads

        plan = self.at / "plan.json"
        shares = self.asked.shares
        if shares is None and plan.exists():
            shares = int(json.loads(plan.read_text())["shares"])
        # What a share takes depends on how many there are only by its samples.
        needs = _jumplens.share_needs(manifest, str(self.at / "run"), shares or self.asked.workers or 1, threads)
        room = self._room(needs, threads)
        self._workers = min(self.asked.workers or room, room)
        most = _most_shares(manifest)
        shares = min(shares or self._workers, most)
        plan.write_text(json.dumps({"shares": shares}))
        needs = self._needs = _jumplens.share_needs(manifest, str(self.at / "run"), shares, threads)
        if needs.left_out:
            names = ", ".join(f"`{name}`" for name in needs.left_out)
            _say([f"The casts that run blocks ({names}) are left out: they take maps of parts, which are not made from sums"])
        if not needs.casts:
            raise ValueError("no cast is left to measure: `id`, `mat` and other maps between layers can be")

        scratch = os.fspath(self.asked.scratch) if self.asked.scratch is not None else None
        shared = None if self.asked.shared is False else str(self.at)
        self._job = _Job(manifest, key, shares, threads, shared, scratch)
        self._look_at_nodes(needs)
        self._shares = _jumplens.samples_of_shares(manifest, shares)
        lines = [(self.at / "run" / "samples" / f"{split}.jsonl").read_bytes().splitlines(keepends=True) for split in ("train", "val")]
        self._lines = lines
        # Beside the driver: other nodes may go.
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._counter = ray.remote(_Counter).options(num_cpus=0, scheduling_strategy=here).remote()
        self._bar = _Bar(needs.tokens, needs.val_tokens, made_from["val"], self.asked.progress)
        self._told_job = ray.put(self._job)
        self._crew = _Crew(self._workers, self._watch)

    def _room(self, needs: Any, threads: int) -> int:
        """How many tasks the nodes have cores and memory for."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [node for node in nodes if node.get("CPU", 0) >= threads]
        if not cores:
            most = max((node.get("CPU", 0) for node in nodes), default=0)
            raise ValueError(f"no node has {threads} cores, the most are {most:g}: give fewer `threads`")
        room = sum(int(min(node["CPU"] // threads, node.get("memory", 0) // needs.memory)) for node in cores)
        if not room:
            most = max(node.get("memory", 0) for node in cores)
            raise ValueError(
                f"a share takes {_bytes(needs.memory)} of memory, and no node has more than {_bytes(most)} for tasks (its sums are a file of "
                f"{_bytes(needs.sums)}): start nodes with more (`ray start --memory`), or give more `shares`"
            )
        return room

    def _each_node(self, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """What `work` gives on each node that tasks run on."""
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        told = {}
        for node in nodes:
            options = {"num_cpus": 0, "scheduling_strategy": affinity(node["NodeID"], soft=False), "name": f"look at {node['NodeName']}"}
            told[node["NodeID"]] = ray.remote(work).options(**options).remote(*arguments)
        answers = {}
        for name, answer in told.items():
            # A node that goes away meanwhile has nothing.
            with contextlib.suppress(ray.exceptions.RayError):
                answers[name] = ray.get(answer)
        return answers

    def _look_at_nodes(self, needs: Any) -> None:
        """Whether nodes see the folder, have room on their disks, and compute alike."""
        token = uuid.uuid4().hex
        (self.at / ".token").write_text(token)
        nodes = self._each_node(_look, self._job, token)
        if not nodes:
            raise RuntimeError("no node answers: see that `jumplens[ray]` is installed on all of them (`ray status` says which there are)")
        sees = all(node["sees"] for node in nodes.values())
        if self.asked.shared and not sees:
            raise ValueError(f"not every node sees `{self.at}`: give an `out` in a folder that is mounted on all of them, or not `shared`")
        if not sees:
            self._job = _Job(self._job.manifest, self._job.key, self._job.of, self._job.threads, None, self._job.scratch)
            store = min(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"])
            if needs.sums > store:
                raise ValueError(
                    f"the sums of a share take {_bytes(needs.sums)}, and a node has an object store of {_bytes(store)} (`ray start "
                    "--object-store-memory`): give an `out` in a folder that all nodes see, or start nodes with a larger one"
                )
        takes = needs.states + (2 if self._job.shared else 3) * needs.sums
        least = min(node["free"] for node in nodes.values())
        if least < takes:
            raise ValueError(
                f"a share takes {_bytes(takes)} on a node's disk for states and sums, and {_bytes(least)} are free: give another `scratch`"
            )
        free = shutil.disk_usage(self.at).free
        files = self._job.of if self._job.shared else 1
        if free < files * needs.sums * 5 // 4 and not list(self.at.glob("sums-*")):
            raise ValueError(
                f"the sums of {files} shares take {_bytes(files * needs.sums * 5 // 4)} in `{self.at}`, where {_bytes(free)} are free: give "
                "fewer `shares`, or another `out`"
            )
        versions = {node["version"] for node in nodes.values()} | {_jumplens.__version__}
        if len(versions) > 1:
            raise ValueError(f"the nodes have different versions of jumplens ({', '.join(sorted(versions))}): install one on all of them")
        kinds = sorted({node["isa"] for node in nodes.values()})
        if len(kinds) > 1:
            _say([
                f"Nodes compute with different instructions ({', '.join(kinds)}): last digits may differ from run to run; "
                f"JUMPLENS_ISA={kinds[0]} on all nodes makes them alike"
            ])  # fmt: skip
        self._held = {part: name for name, node in nodes.items() for part in node["parts"]}

    def _submitted(self, work: Callable[..., Any], *arguments: Any, near: str | None = None) -> Callable[[str], tuple[Any, Any]]:
        """How a task is handed in. Ray does it again where its process or its node dies, or it fails."""

        def submit(name: str) -> tuple[Any, Any]:
            options: dict[str, Any] = {
                "num_cpus": self._job.threads, "memory": self._needs.memory, "num_returns": 2, "name": name,
                "max_retries": ATTEMPTS - 1, "retry_exceptions": True,
            }  # fmt: skip
            if near is not None:
                options["scheduling_strategy"] = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(near, soft=True)
            told, made = ray.remote(work).options(**options).remote(self._told_job, *arguments)
            return told, made

        return submit

    def _watch(self) -> None:
        # Progress is worth no run.
        with contextlib.suppress(ray.exceptions.RayError):
            self._bar.show(ray.get(self._counter.done.remote(), timeout=5))

    def _kept(self, name: str) -> str | None:
        """What is there already, where all nodes see it or the driver has it."""
        path = self.at / name
        return str(path) if path.exists() and _jumplens.is_whole(path) else None

    def _samples_of(self, index: int) -> tuple[bytes, bytes]:
        parts = [b"".join(lines[start:end]) for lines, (start, end) in zip(self._lines, self._shares[index - 1])]
        return parts[0], parts[1]

    def _said_of(self, index: int) -> str:
        """A share and its samples, for messages."""
        (train, val) = self._shares[index - 1]
        return f"share {index}/{self._job.of} (training samples {train[0] + 1} to {train[1]}, validation samples {val[0] + 1} to {val[1]})"

    def _total(self) -> Any:
        """The sums of all samples, by way of those of the shares."""
        job, total = self._job, "sums.safetensors"
        if (kept := self._kept(total)) is not None:
            self._bar.skip("sums", 1, 1)
            return kept if job.shared else ray.put(_content(Path(kept)))
        found: list[Any] = []
        self._bar.begin("sums", job.of)

        def make(first: int, end: int, up: Callable[[Any], None]) -> None:
            """Sums of the shares `first` to before `end`, handed to `up`."""
            is_root = (first, end) == (1, job.of + 1)
            one = end - first == 1
            name = total if is_root and not one else job.named("sums", first) if one else f"sums-{first}-to-{end - 1}-of-{job.of}.safetensors"

            def done(made: Any) -> None:
                if one:
                    self._bar.done("sums", first)
                up(made)

            if job.shared and (kept := self._kept(name)) is not None:
                for index in range(first, end):
                    self._bar.skip("sums", index, job.of)
                return up(kept)
            if one:
                train, val = self._samples_of(first)
                near = self._held.get(name)
                submit = self._submitted(_sums, first, train, val, self._counter, near=near)
                self._crew.waiting.append(_Step(f"sums {first}/{job.of}", self._said_of(first), submit, done))
                return
            # The fewest levels, with as many files at each place as the others have.
            width = max(1, FAN_IN ** (max(1, _levels(end - first)) - 1))
            places = [(start, min(start + width, end)) for start in range(first, end, width)]
            children: list[Any] = [None] * len(places)

            def child(place: int) -> Callable[[Any], None]:
                def take(made: Any) -> None:
                    children[place] = made
                    if all(one is not None for one in children):
                        merge()

                return take

            def merge() -> None:
                what = f"adding up the sums of shares {first} to {end - 1}"

                def merged(made: Any) -> None:
                    if job.shared and not self.asked.keep_parts:
                        for start, stop in places:
                            self._forget(job.named("sums", start) if stop - start == 1 else f"sums-{start}-to-{stop - 1}-of-{job.of}.safetensors")
                    up(made)

                # Before shares that are not begun: what it adds up is let go of.
                self._crew.waiting.appendleft(_Step(f"merge {first}-{end - 1}", what, self._submitted(_merge, name, *children), merged))

            for place, (start, stop) in enumerate(places):
                make(start, stop, child(place))

        make(1, job.of + 1, found.append)
        self._crew.drive(f"what the others made is kept in `{self.at}`, and the same call goes on from there")
        (made,) = found
        if job.shared:
            return str(self.at / (total if job.of > 1 else job.named("sums", 1)))
        # What the driver has outlives it, and the node that it was made on.
        self._write(ray.get(made), total)
        return made

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self.at / name).unlink()

    def _write(self, made: _Made, name: str) -> None:
        """Keeps what a node made where the driver is."""
        if isinstance(made, str):
            return
        at, path = self.at / f"{name}.{uuid.uuid4().hex}.part", self.at / name
        _put(made, at)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(at, path)

    def _maps(self, total: Any) -> None:
        """The maps of all layers, as a folder."""
        names = [f"maps-{layer:03}" for layer in range(self._needs.n_layers)]
        if self._has("fit"):
            return
        self._bar.begin("maps", len(names))
        for layer, name in enumerate(names):
            if self._kept(name) is None:

                def then(made: Any, name: str = name, layer: int = layer) -> None:
                    self._keep_made(name, made)
                    self._bar.done("maps", layer)

                what = f"fitting the maps from layer {layer}"
                self._crew.waiting.append(_Step(f"maps {layer}/{len(names)}", what, self._submitted(_fit, total, layer), then))
        self._crew.drive(f"what the others made is kept in `{self.at}`, and the same call goes on from there")
        _jumplens.join_fits([str(self.at / name) for name in names], self.result)

    def _keep_made(self, name: str, made: Any) -> None:
        if not self._job.shared:
            self._write(ray.get(made), name)

    def _has(self, stage: str) -> bool:
        try:
            return bool(Run(self.result).manifest["stages"].get(stage, {}).get("done"))
        except FileNotFoundError:
            return False

    def _tables(self) -> None:
        """The predictions of all shares, and the tables that they make."""
        if self._has("evaluate"):
            return
        job, names = self._job, []
        shares = [index for index in range(1, job.of + 1) if self._shares[index - 1][1][0] < self._shares[index - 1][1][1]]
        self._bar.begin("evaluate", len(shares))
        digest = hashlib.sha256((self.result / "manifest.json").read_bytes()).hexdigest()[:16]
        maps: Any = str(self.result)
        if not job.shared:
            maps = ray.put(_content(self.result))
        for index in shares:
            name = job.named("predictions", index)
            names.append(str(self.at / name))
            if self._kept(name) is not None:
                self._bar.skip("evaluate", index, len(shares))
                continue
            # Where the states are, if that node is still there.
            near = self._crew.where.get(f"sums {index}/{job.of}", self._held.get(f"share-{index}-of-{job.of}"))
            submit = self._submitted(_evaluate, index, self._samples_of(index)[1], maps, digest, self._counter, near=near)

            def then(made: Any, name: str = name, index: int = index) -> None:
                self._keep_made(name, made)
                self._bar.done("evaluate", index)

            self._crew.waiting.append(_Step(f"evaluate {index}/{job.of}", self._said_of(index), submit, then))
        self._crew.drive(f"what the others made is kept in `{self.at}`, and the same call goes on from there")
        _program("evaluate", "--out", str(self.result), "--merge", *names, "--quiet")


def _is_fitted(folder: Path) -> bool:
    """Whether a folder has what this module, or ``jumplens fit --moments``, wrote."""
    try:
        return bool(Run(folder).manifest.get("kind") == "fitted")
    except (FileNotFoundError, ValueError):
        return False


def _levels(number: int) -> int:
    levels = 0
    while number > 1:
        number = -(-number // FAN_IN)
        levels += 1
    return levels


def _most_shares(manifest: str) -> int:
    """As many as leave none without training samples."""
    least, most = 1, 1 << 16
    while least < most:
        middle = (least + most + 1) // 2
        shares = _jumplens.samples_of_shares(manifest, middle)
        if all(start < end for (start, end), _ in shares):
            least = middle
        else:
            most = middle - 1
    return least


class _Bar:
    """One bar over the tokens of all shares: those that are run for sums, and those of the samples that are evaluated."""

    def __init__(self, tokens: int, val_tokens: int, val: int, progress: bool) -> None:
        self._by_sample = val_tokens / max(val, 1)
        self._tokens = tokens
        self._shares: dict[tuple[str, int], bool] = {}
        self._phase, self._of = "", 0
        self._bar: Any = None
        if progress and sys.stderr.isatty():
            with contextlib.suppress(ImportError):
                self._bar = importlib.import_module("tqdm").tqdm(total=tokens + val_tokens, unit="tok", unit_scale=True, smoothing=0.1)

    def begin(self, phase: str, of: int) -> None:
        self._phase, self._of = phase, of
        self._describe()

    def _describe(self) -> None:
        if self._bar is not None:
            done = sum(phase == self._phase for phase, _ in self._shares)
            self._bar.set_description(f"{self._phase} {done}/{self._of}")

    def done(self, phase: str, index: int) -> None:
        self._shares[phase, index] = True
        self._describe()

    def skip(self, phase: str, index: int, of: int) -> None:
        """A share that was there already, one of so many."""
        self._shares[phase, index] = False
        if self._bar is not None:
            self._bar.initial += (self._tokens if phase == "sums" else self._bar.total - self._tokens) // of
        self._describe()

    def show(self, counted: dict[tuple[str, int], dict[str, int]]) -> None:
        if self._bar is None:
            return
        run = sum(units.get("tokens", 0) for (phase, _), units in counted.items() if phase == "sums")
        evaluated = sum(units.get("samples", 0) for (phase, _), units in counted.items() if phase == "evaluate")
        n = self._bar.initial + run + int(evaluated * self._by_sample)
        self._bar.update(max(0, min(n, self._bar.total) - self._bar.n))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
