"""Do to a built jumplens what unlucky and hostile machines do, and count what it doesn't survive.

    python tools/torture.py [--program PATH] [--minutes N] [--seed N] [--only KIND,…] [--patience TIMES] [--keep DIR]

Kinds: kills, commands, flips, races, disks, limits, hub. One table each: `tried`; `landed`, how many took effect (the signal
came before the end, the damage was found, the limit was met); `differences`, results that changed without a word; `holes`, all
that is not as docs/reliability.md promises, differences included. Each hole is printed with the command that shows it; the exit
code is 1 where there is one. The same seed tries the same things, as far as the machine is as fast.

Needs Python 3.11, Linux, and nothing but the standard library. Full disks need the right to mount a tmpfs.
"""

import argparse
import collections
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "crates/jumplens/tests/fixtures/corpora"
# Seconds in which a command has to end: any, one that got a signal, one that talks to the Hub. `--patience` multiplies the
# first two, for machines that do other work.
BOUND, ANSWER, HUB_BOUND = 120, 4, 200
# Bytes of memory that no command on the bundled models may take, whatever it is asked.
MEMORY = 3 << 30
TEXT = "The capital of France is"
SMALL = ["--train", "60", "--val", "20", "--pairs", "to-final"]
# More than a chunk of states, so that there is something in the middle.
LONG = ["--train", "1100", "--val", "40", "--pairs", "to-final"]
RUNS = {
    "causal": LONG,
    "masked": ["--model", "tiny-bert", *LONG],
    "all maps": [*LONG, "--intercept", "--ridge", "auto", "--rank", "8", "--positions", "2"],
    "bf16": [*LONG, "--dtype", "bf16"],
}
STAGES = ["samples", "states", "fit", "r2", "evaluate", "plot"]
# What bits are flipped in that is no folder of the same name.
SOURCES = {"share1 alone": "share1/moments.safetensors", "maps": "maps.safetensors"}
# Shares of the time.
SHARES = {"kills": 3, "commands": 2, "flips": 6, "races": 2, "disks": 2, "limits": 1, "hub": 1}


class Table:
    """What was tried, by kind and row."""

    def __init__(self):
        self.rows = collections.defaultdict(dict)
        self.holes = []
        self.skipped, self.notes = {}, {}

    def count(self, kind, row, landed, hole=None, difference=False, command=()):
        cells = self.rows[kind].setdefault(row, [0, 0, 0, 0])
        for place, more in enumerate([1, landed, difference, hole is not None]):
            cells[place] += bool(more)
        if hole is not None:
            line = f"{kind}, {row}: {hole}"
            self.holes.append(line)
            print(f"HOLE {line}\n     {shlex.join(map(str, command))}", file=sys.stderr, flush=True)

    def print(self):
        for kind in SHARES:
            rows = self.rows.get(kind, {})
            if kind in self.skipped:
                print(f"\n{kind}: skipped, {self.skipped[kind]}")
            if rows:
                wide = max(map(len, [kind, "all", *rows]))
                print(f"\n{kind:<{wide}}  {'tried':>7}  {'landed':>7}  {'differences':>11}  {'holes':>6}")
                rows = {**rows, "all": [sum(column) for column in zip(*rows.values())]}
                for row, (tried, landed, differences, holes) in rows.items():
                    print(f"{row:<{wide}}  {tried:>7}  {landed:>7}  {differences:>11}  {holes:>6}")
            if kind in self.notes:
                print(self.notes[kind])
        print(f"\n{len(self.holes)} holes", flush=True)


class Ended:
    """How a command ended."""

    def __init__(self, args, code, out, err, memory, hung, answered):
        self.args, self.code, self.out, self.err = args, code, out, err
        self.memory, self.hung, self.answered = memory, hung, answered

    def fault(self):
        """What no command may do, whatever happens to it; `None` where it did none of it."""
        said = self.err.strip()[-300:]
        if self.hung:
            return "it hangs"
        if self.memory > MEMORY:
            return f"it took {self.memory >> 20} MiB or more"
        if self.code < 0:
            return f"ended by signal {-self.code}: {said}"
        if self.code not in (0, 1) or "internal:" in said or "panicked" in said:
            return f"exit code {self.code}: {said}"
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.code == 1 and (len(errors) != 1 or self.err.splitlines()[-1] != errors[0]):
            return f"no error in one line: {said}"
        return None


class Running:
    """A command that was started."""

    all = []

    def __init__(self, program, args, at, limits=(), env=None, stdin=None):
        def child():
            os.setsid()
            for what, limit in limits:
                resource.setrlimit(what, (limit, limit))

        own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_", "JUMPLENS"))}
        own |= {"HF_HOME": str(at / "hf"), "HOME": str(at), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", **(env or {})}
        self.args = [str(arg) for arg in args]
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [program, *self.args], cwd=at, env=own, preexec_fn=child,
            stdin=stdin or subprocess.DEVNULL, stdout=self.out, stderr=self.err,
        )
        self.usage = None
        Running.all.append(self)

    def memory(self):
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        except (OSError, IndexError):
            return 0

    def is_over(self):
        if self.process.returncode is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode, self.usage = os.waitstatus_to_exitcode(status), usage
        return self.process.returncode is not None

    def send(self, name):
        """Not by `Popen.send_signal`, which would take its end first, and forget what it used. It is there until `is_over`."""
        os.kill(self.process.pid, name)

    def wait(self, bound=None, name=None, when=None):
        """Waits for its end, or as soon as `when()` holds sends the signal `name`."""
        bound = bound or BOUND
        begun, sent, hung, taken = time.monotonic(), None, False, False
        while not self.is_over():
            now = time.monotonic()
            if when is not None and sent is None and when(now - begun):
                self.send(name)
                sent = now
            if now - (sent or begun) > (ANSWER if sent else bound):
                hung = True
                self.send(signal.SIGKILL)
            elif self.memory() > MEMORY:
                # Before the machine has none left.
                taken = True
                self.send(signal.SIGKILL)
            time.sleep(0.003)
        Running.all.remove(self)
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        ended = self.process.returncode != 0 and sent is not None
        return Ended(self.args, self.process.returncode, *texts, MEMORY + 1 if taken else self.usage.ru_maxrss << 10, hung, ended)


# Times and numbers of threads differ from run to run, and what a folder was made from is where the work is done.
VOLATILE = re.compile(
    # A rate is not there where nothing was left to do.
    rb'"(seconds|tokens_per_second|threads)": ?([-+0-9.e]+|null),?\s*|"jumplens_sha256": ?"[0-9a-f]*"|^Seconds: .*$', re.M
)


def plain(at, data):
    # What was last in its object leaves a comma.
    return re.sub(rb",(\s*})", rb"\1", VOLATILE.sub(b"", data)).replace(str(at).encode(), b"AT")


def tree(at):
    """The digest of every file below `at`, by path."""
    found = {}
    for path in sorted(at.rglob("*")):
        name = str(path.relative_to(at))
        if path.is_file() and path.name != ".lock" and not name.startswith("hf/"):
            data = path.read_bytes()
            if path.suffix in (".json", ".html"):
                data = plain(at, data)
            found[name] = hashlib.sha256(data).digest()
    return found


def differing(a, b):
    """The first names at which two trees differ, in words."""
    names = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    return f"{', '.join(names[:4])}{' …' if len(names) > 4 else ''}"


def stage_record(folder, stage):
    try:
        return json.loads((folder / "manifest.json").read_bytes())["stages"][stage]
    except (OSError, ValueError, KeyError):
        return {}


class Torture:
    def __init__(self, program, seed, table, place):
        self.program, self.table, self.place = program, table, place
        self.rng = random.Random(seed)
        self.number = 0
        self.straight = {}
        self.references = {}

    def fresh(self, **copies):
        """A new folder to work in, with copies of what is in the base folder."""
        self.number += 1
        at = self.place / f"t{self.number}"
        at.mkdir()
        for name, source in copies.items():
            source = self.base / source
            if source.is_dir():
                shutil.copytree(source, at / name)
            else:
                shutil.copy(source, at / name)
        return at

    def run(self, args, at, bound=None, name=None, when=None, **how):
        return Running(self.program, args, at, **how).wait(bound, name, when)

    def make(self, args, at):
        ended = self.run(["-q", *args], at)
        if ended.code != 0:
            sys.exit(f"cannot prepare: {shlex.join(ended.args)}: {ended.err}")

    def prepare(self):
        """What the others damage copies of."""
        self.base = at = self.place / "base"
        at.mkdir()
        make = lambda *args: self.make(args, at)
        make("samples", *SMALL, "--ridge", "0.5", "--out", "samples")
        for before, stage in zip(STAGES, STAGES[1:]):
            shutil.copytree(at / before, at / stage)
            make(stage, "--out", stage)
        shutil.move(at / "plot", at / "run")
        shutil.copytree(at / "states", at / "summed")
        make("moments", "--out", "summed")
        shutil.copytree(at / "run", at / "other")
        for share in (1, 2):
            make("moments", *SMALL, "--shard", f"{share}/2", "--out", f"share{share}")
        make("merge", "share1/moments.safetensors", "share2/moments.safetensors", "--out", "sums")
        make("fit", "--moments", "sums", "--ridge", "0.5", "--out", "fitted")
        make("shortcuts", "export", "run", "--cast", "mat", "--out", "exported")
        make("shortcuts", "export", "run", "--cast", "mat", "--format", "npz", "--out", "arrays")
        shutil.copy(at / "exported/mat.safetensors", at / "maps.safetensors")
        make("shortcuts", "import", "maps.safetensors", "--out", "imported")
        make("sentences", "--num", "400", "--out", "corpus.txt")
        shutil.copytree(ROOT / "crates/jumplens-assets/assets/tiny-gpt2", at / "model")

    def reference(self, key, copies, args):
        """What a command makes of what is as it should be: exit code, standard output, files, seconds."""
        if key not in self.references:
            at, begun = self.fresh(**copies), time.monotonic()
            ended = self.run(args, at)
            out = plain(at, ended.out.encode())
            self.references[key] = (ended.code, out, tree(at), time.monotonic() - begun)
            if ended.code != 0:
                print(f"note: `{shlex.join(ended.args)}` on what is whole: {ended.err.strip()}", file=sys.stderr)
            shutil.rmtree(at)
        return self.references[key]

    def expected(self, name):
        """A run that nothing happened to: its files, and the seconds of its stages."""
        if name not in self.straight:
            at = self.fresh()
            self.make(["run", *RUNS[name], "--out", "F"], at)
            seconds = {stage: stage_record(at / "F", stage)["seconds"] for stage in STAGES}
            self.straight[name] = (tree(at), seconds)
            shutil.rmtree(at)
        return self.straight[name]

    # ---- Kills of runs

    def kills(self, until):
        """A run killed once within or after each stage, gone on with, and held against one that ran straight through."""
        first = True
        while first or time.monotonic() < until:
            name = "causal" if first else self.rng.choice(list(RUNS))
            first = False
            wanted, seconds = self.expected(name)
            at, tried, refused = self.fresh(), [], False
            folder, args = at / "F", ["run", *RUNS[name], "--resume", "--out", "F"]
            for place, stage in enumerate(STAGES):
                sent = self.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
                delay, reached, sent_at = self.rng.random() * seconds[stage], [], []

                def when(passed):
                    before = STAGES[place - 1] if place else None
                    if not reached and (before is None or stage_record(folder, before).get("done")):
                        reached.append(passed)
                    now = bool(reached) and passed - reached[0] >= delay
                    sent_at[:] = [passed] if now else []
                    return now

                ended = self.run(args, at, name=sent, when=when)
                row = f"{stage} {sent.name[3:]}"
                # Before its handler stands, a signal ends it as it ends anything.
                too_early = ended.code == -sent and sent_at and sent_at[0] < ANSWER / 20 and not ended.err
                if sent != signal.SIGKILL and too_early:
                    self.table.count("kills", row, False, command=ended.args)
                    continue
                if not ended.answered:
                    self.table.count("kills", row, False, ended.fault(), command=ended.args)
                    continue
                code = -9 if sent == signal.SIGKILL else 130
                hole = None
                if ended.hung:
                    hole = f"not ended {ANSWER} s after {sent.name}"
                elif ended.code != code or (code == 130 and not "error: interrupted" in ended.err):
                    hole = ended.fault() or f"exit code {ended.code}: {ended.err.strip()}"
                self.table.count("kills", row, True, hole, command=ended.args)
                tried.append(row)
                parts = sorted(folder.rglob("*.part")) if folder.exists() else []
                if parts and self.rng.random() < 0.4:
                    # What had not reached the disk yet when the machine went down.
                    part = self.rng.choice(parts)
                    length = self.rng.randrange(part.stat().st_size + 1)
                    os.truncate(part, length)
                    tried.append(f"{part.relative_to(folder)} cut at {length}")
                    refused = True
            ended = self.run(args, at)
            named = refused and ended.code == 1 and ".part" in ended.err
            got = tree(at)
            fault = ended.fault()
            if fault is None and not named and (ended.code != 0 or got != wanted):
                fault = f"after {'; '.join(tried)}: exit code {ended.code}, other than straight through: {differing(got, wanted)} {ended.err.strip()[-200:]}"
            row = f"gone on, {name}" + (", .part cut" if refused else "")
            self.table.count("kills", row, bool(tried), fault, fault is not None and got != wanted, ended.args)
            shutil.rmtree(at)

    # ---- Kills of single commands

    def commands(self, until):
        """Each command that writes killed once: nothing is lost, and the same command does it afterwards."""
        base = self.base
        both = [base / "share1/moments.safetensors", base / "share2/moments.safetensors"]
        every = {
            "samples": ({}, ["samples", *SMALL, "--out", "F"]),
            "states": ({"F": "samples"}, ["states", "--out", "F"]),
            "fit": ({"F": "states"}, ["fit", "--out", "F"]),
            "r2": ({"F": "fit"}, ["r2", "--out", "F"]),
            "evaluate": ({"F": "r2"}, ["evaluate", "--out", "F"]),
            "plot": ({"F": "evaluate"}, ["plot", "--out", "F"]),
            "moments": ({}, ["moments", *SMALL, "--out", "F"]),
            "merge": ({}, ["merge", *both, "--out", "F"]),
            "fit --moments": ({}, ["fit", "--moments", base / "sums", "--out", "F"]),
            "export": ({}, ["shortcuts", "export", base / "run", "--out", "F"]),
            "export npz": ({}, ["shortcuts", "export", base / "run", "--format", "npz", "--out", "F"]),
            "import": ({}, ["shortcuts", "import", base / "maps.safetensors", "--out", "F"]),
            "import npz": ({}, ["shortcuts", "import", base / "arrays/mat.npz", "--out", "F"]),
            "compare": ({}, ["compare", base / "run", base / "other", "--out", "F"]),
            "sentences": ({}, ["sentences", "--num", "200", "--out", "F.txt"]),
            "lens": ({}, ["lens", TEXT, "--run", base / "run"]),
            "info": ({}, ["info", base / "model"]),
            "doctor": ({}, ["doctor", "tiny-gpt2", "--corpus", base / "corpus.txt"]),
        }
        untouched = tree(base)
        for row, (copies, args) in self.in_turn(every.items(), until, 6):
            code, _, wanted, seconds = self.reference(("command", row), copies, args)
            at = self.fresh(**copies)
            # What each stage writes anew, and no stage's record has a digest of.
            anew = ("manifest.json", "summary.json")
            before = {name: digest for name, digest in tree(at).items() if not name.endswith(anew)}
            sent = self.rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            delay = self.rng.random() * seconds
            ended = self.run(args, at, name=sent, when=lambda passed: passed >= delay)
            hole = None
            if ended.hung:
                hole = f"not ended {ANSWER} s after {sent.name}"
            elif ended.answered and ended.code not in (-9, 130):
                # Before its handler stands, a signal ends it as it ends anything.
                hole = None if ended.code == -sent and delay < 0.2 * seconds + 0.05 else ended.fault()
            after = tree(at)
            lost = [name for name, digest in before.items() if after.get(name) != digest]
            if lost:
                hole = f"lost {', '.join(lost[:3])}"
            again = self.run(args, at)
            got = tree(at)
            # Where the signal came behind the last file, the command has nothing left to do.
            done = again.code == code or (again.code == 1 and got == wanted)
            if hole is None and (again.fault() or not done or got != wanted):
                hole = again.fault() or f"killed by {sent.name} after {delay:.3f} s, then {again.code}: {differing(got, wanted)} {again.err.strip()[-200:]}"
            self.table.count("commands", row, ended.answered, hole, hole is not None and again.code == 0, args)
            shutil.rmtree(at)
        if tree(base) != untouched:
            self.table.count("commands", "inputs", True, f"inputs changed: {differing(tree(base), untouched)}", True)

    def in_turn(self, items, until, least=None):
        """Items in a random order, round after round until the time is over, the first `least` of them in any case."""
        items = list(items)
        done = 0
        while True:
            self.rng.shuffle(items)
            for item in items:
                if done >= (len(items) if least is None else least) and time.monotonic() > until:
                    return
                yield item
                done += 1

    # ---- Flipped bits

    def readers(self, group, name):
        """The commands that read a file of a group, `F` being its folder, or `F.safetensors` the file alone."""
        file = "F.safetensors" if (self.base / SOURCES.get(group, group)).is_file() else "F"
        inside = f"{file}/moments.safetensors" if file == "F" else file
        looked = ["lens", TEXT, "--run", "F", "--format", "json"]
        drawn = ["plot", "--out", "F", "--format", "svg"]
        compared = ["compare", "F", self.base / "other", "--format", "svg", "--out", "X"]
        resume = ["run", "--resume", "--out", "F"]
        again = lambda stage: [stage, "--out", "F", "--overwrite"]
        exported = ["shortcuts", "export", file, "--out", "X"]
        maps = [exported, ["shortcuts", "list", file], ["shortcuts", "inspect", file], ["lens", TEXT, "--shortcuts", file, "--format", "json"]]
        maps += [[stage, "--out", "R", "--shortcuts", file, "--overwrite"] for stage in ("r2", "evaluate")]
        sums = [["merge", inside, "--out", "X"], ["fit", "--moments", inside, "--out", "X"]]
        match group:
            case "sums":
                return sums
            case "summed":
                sums.append(["moments", "--out", "F"])
                return {"moments.safetensors": sums, "manifest.json": sums}.get(name, [["moments", "--out", "F"]])
            case "share1" | "share1 alone":
                merged = ["merge", inside, self.base / "share2/moments.safetensors", "--out", "X"]
                return [merged, *([["moments", *SMALL, "--shard", "1/2", "--out", "F"]] if group == "share1" else [])]
            case "fitted":
                return [*maps, looked, drawn]
            case "exported":
                return [*maps, ["shortcuts", "import", "F/mat.safetensors", "--out", "X"], ["shortcuts", "list", "F/mat.safetensors"]]
            case "arrays":
                return [["shortcuts", "import", "F/mat.npz", "--out", "X"]]
            case "maps":
                return [*maps, ["shortcuts", "import", file, "--out", "X"]]
            case "imported":
                return maps
        by_folder = {
            "samples": [again("states"), again("evaluate"), compared, looked, resume],
            "states": [again("fit"), again("r2"), again("evaluate"), ["moments", "--out", "F"], resume],
            "shortcuts": [*maps, again("r2"), again("evaluate"), looked, resume],
            "results": [compared, drawn, looked, exported, resume],
            "plots": [drawn, resume],
            "report.html": [drawn, resume],
        }
        return by_folder.get(name.split("/")[0], [*maps, again("fit"), again("evaluate"), compared, drawn, looked, resume, ["moments", "--out", "F"]])

    def flips(self, until):
        """A bit of a file flipped, then each command that reads it: found by name, or nothing is other than it was."""
        groups = ["run", "run", "run", "summed", "share1", "share1 alone", "sums", "fitted", "exported", "arrays", "maps", "imported"]
        flipped = 0
        for group in self.in_turn(groups, until):
            source = self.base / SOURCES.get(group, group)
            files = [path for path in source.rglob("*") if path.is_file() and path.name != ".lock"] if source.is_dir() else [source]
            # A folder's files as often as the folder's, whatever their number.
            folders = sorted({str(path.relative_to(source)).split("/")[0] for path in files}) if source.is_dir() else ["."]
            chosen = self.rng.choice(folders)
            path = self.rng.choice(sorted(path for path in files if chosen == "." or path.relative_to(source).parts[0] == chosen))
            name = str(path.relative_to(source))
            size = path.stat().st_size
            if size == 0 or name.endswith(".md"):
                continue
            within = min(size, 4096) if self.rng.random() < 0.3 else size
            place, bit = self.rng.randrange(within), self.rng.randrange(8)
            row = f"{group}/{re.sub('[0-9]+', 'N', chosen)}" if source.is_dir() else group
            readers = self.readers(group, name)
            self.rng.shuffle(readers)
            flipped += 1
            self.table.notes["flips"] = f"{flipped} bits, each before every command that reads its file"
            for number, args in enumerate(readers):
                if number > 0 and time.monotonic() > until:
                    break
                file = "F" if source.is_dir() else "F.safetensors"
                copies = {file: SOURCES.get(group, group)}
                if "R" in args:
                    copies["R"] = "run"
                code, out, wanted, _ = self.reference((group, tuple(map(str, args))), copies, args)
                if code != 0:
                    continue
                at = self.fresh(**copies)
                damaged = at / file / name if source.is_dir() else at / file
                data = bytearray(damaged.read_bytes())
                data[place] ^= 1 << bit
                damaged.write_bytes(data)
                ended = self.run(args, at)
                got = tree(at)
                rel = str(damaged.relative_to(at))
                if damaged.exists() and damaged.read_bytes() == data:
                    got[rel] = wanted.get(rel)
                # What was done again is shown again.
                mended = ended.code == 0 and got == wanted and "was changed or removed" in ended.err
                is_same = mended or (got == wanted and plain(at, ended.out.encode()) == out)
                what = f"bit {bit} of byte {place} of {rel}"
                found, hole, difference = ended.code == 1, ended.fault(), False
                if hole is None and ended.code == 1 and name != "manifest.json":
                    hole = None if f"{damaged.name}`" in ended.err else f"{what}: found, but not named: {ended.err.strip()[-250:]}"
                elif hole is None and ended.code == 0 and not is_same:
                    hole, difference = f"{what}: not found, and other: {differing(got, wanted) or 'standard output'}", True
                elif hole is not None:
                    hole = f"{what}: {hole}"
                self.table.count("flips", row, found or mended, hole, difference, args)
                shutil.rmtree(at)

    # ---- Races

    def races(self, until):
        base = self.base
        export = ["shortcuts", "export", base / "run", "--out", "F"]
        sums = ["merge", base / "share1/moments.safetensors", base / "share2/moments.safetensors", "--out", "F"]
        two = {
            "run twice": ({}, ["run", *SMALL, "--resume", "--out", "F"], None),
            "fit twice": ({"F": "states"}, ["fit", "--out", "F"], None),
            "evaluate twice": ({"F": "r2"}, ["evaluate", "--out", "F"], None),
            "moments twice": ({}, ["moments", *SMALL, "--out", "F"], None),
            "export twice": ({}, export, None),
            "import twice": ({}, ["shortcuts", "import", base / "maps.safetensors", "--out", "F"], None),
            "merge twice": ({}, sums, None),
            "sentences twice": ({}, ["sentences", "--num", "100", "--out", "F"], None),
            "compare twice": ({}, ["compare", base / "run", base / "other", "--format", "svg", "--out", "F"], None),
            "plot beside lens": ({"F": "run"}, ["plot", "--format", "svg", "--out", "F"], ["lens", TEXT, "--run", "F"]),
            "evaluate beside lens": ({"F": "run"}, ["evaluate", "--out", "F", "--overwrite"], ["lens", TEXT, "--run", "F"]),
            "fit beside export": ({"F": "run"}, ["fit", "--out", "F", "--overwrite"], ["shortcuts", "export", "F", "--out", "X"]),
        }
        cut = {
            "weights": ({"model": "model"}, ["info", "model", "--format", "json"], "model/model.safetensors"),
            "weights of a run": ({"model": "model"}, ["run", "--model", "model", *SMALL, "--out", "F"], "model/model.safetensors"),
            "tokenizer": ({"model": "model"}, ["lens", TEXT, "--model", "model"], "model/tokenizer.json"),
            "corpus": ({"c.txt": "corpus.txt"}, ["samples", "--corpus", "c.txt", *SMALL, "--out", "F"], "c.txt"),
            "states": ({"F": "states"}, ["fit", "--out", "F"], "F/states/train/05.safetensors"),
            "maps": ({"F": "run"}, ["lens", TEXT, "--run", "F"], "F/shortcuts/05.safetensors"),
            "maps alone": ({"F": "maps.safetensors"}, ["shortcuts", "inspect", "F"], "F"),
            "sums": ({"S": "sums"}, ["fit", "--moments", "S", "--out", "F"], "S"),
            "exported": ({"E.safetensors": "maps.safetensors"}, ["shortcuts", "import", "E.safetensors", "--out", "F"], "E.safetensors"),
        }
        for row, (copies, *rest) in self.in_turn([*two.items(), *((f"cut: {row}", how) for row, how in cut.items())], until, 6):
            args = rest[0]
            code, out, wanted, seconds = self.reference(("race", row), copies, args)
            at = self.fresh(**copies)
            if row in two:
                first = Running(self.program, args, at)
                time.sleep(self.rng.random() * seconds * 0.6)
                second = Running(self.program, rest[1] or args, at)
                both = [first.wait(), second.wait()]
                hole = next(filter(None, (ended.fault() for ended in both)), None)
                landed = any(ended.code == 1 for ended in both)
                last = self.run(args, at)
                got = {name: digest for name, digest in tree(at).items() if not name.startswith("X")}
                if hole is None and (last.fault() or got != wanted):
                    hole = last.fault() or f"after both: {differing(got, wanted)}: {' / '.join(e.err.strip()[-150:] for e in [*both, last])}"
                self.table.count("races", row, landed, hole, hole is not None and got != wanted, args)
            else:
                file = at / rest[1]
                whole = file.read_bytes()
                running = Running(self.program, args, at)
                time.sleep(self.rng.random() * seconds * 0.8)
                how = self.rng.choice(["cut", "emptied", "removed", "longer"])
                if how == "removed":
                    file.unlink()
                elif how == "longer":
                    with open(file, "ab") as more:
                        more.write(whole[: 1 << 16])
                else:
                    os.truncate(file, 0 if how == "emptied" else self.rng.randrange(len(whole)))
                ended = running.wait()
                hole, got = ended.fault(), tree(at)
                got[rest[1]] = wanted.get(rest[1])
                # One that took the file in before has to have taken all of it.
                other = ended.code == 0 and (got != wanted or plain(at, ended.out.encode()) != out) and how != "longer" and "corpus" not in row
                if hole is None and other:
                    hole = f"{how}: {differing(got, wanted) or 'standard output'}"
                self.table.count("races", row, ended.code == 1, hole and f"{how}: {hole}", other, args)
            shutil.rmtree(at)

    # ---- Full disks, and limits of the system

    def disks(self, until):
        base, can_mount = self.base, True
        kinds = {
            "run": ["run", *SMALL, "--resume", "--out", "F"],
            "moments": ["moments", *SMALL, "--out", "F"],
            "export": ["shortcuts", "export", base / "run", "--out", "F"],
            "import": ["shortcuts", "import", base / "maps.safetensors", "--out", "F"],
            "merge": ["merge", base / "share1/moments.safetensors", base / "share2/moments.safetensors", "--out", "F"],
            "fit --moments": ["fit", "--moments", base / "sums", "--out", "F"],
            "sentences": ["sentences", "--num", "400", "--out", "F"],
            "compare": ["compare", base / "run", base / "other", "--out", "F"],
        }
        limits = ["disk", "file size", "memory", "descriptors", "processes"]
        trials = [(row, args, limit) for row, args in kinds.items() for limit in limits]
        for row, args, limit in self.in_turn(trials, until, 6):
            _, _, wanted, _ = self.reference(("disk", row), {}, args)
            at, how = self.fresh(), []
            if limit == "disk":
                if not can_mount:
                    continue
                used = max(1, sum(path.stat().st_size for path in base.rglob("*") if path.is_file()) // 10)
                size = self.rng.choice([16, 64, 256, 1024, 4096, used >> 10])
                size = self.rng.randrange(4, 4 + size)
                mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", at], capture_output=True)
                if mounted.returncode != 0:
                    can_mount = False
                    self.table.skipped["disks"] = f"full ones: {mounted.stderr.decode().strip()}"
                    continue
                what = f"{size} kB of disk"
            else:
                number = int(2 ** self.rng.uniform(*{"file size": (12, 22), "memory": (26, 31), "descriptors": (2, 7), "processes": (0, 4)}[limit]))
                names = {"file size": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS, "descriptors": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
                how, what = [(names[limit], number)], f"{limit} limited to {number}"
            try:
                # What the limit leaves room for the loader of the system to fail in is not the program's.
                ended = self.run(args, at, limits=how)
                loader = "error while loading shared libraries" in ended.err or (ended.code == -11 and not ended.err and limit == "memory")
                hole = None if loader else ended.fault()
                if limit == "disk":
                    subprocess.run(["mount", "-o", "remount,size=500m", at], check=True)
                again = self.run(args, at)
                got = tree(at)
                done = again.code == 0 or (ended.code == 0 and again.code == 1)
                if hole is None and (again.fault() or not done or got != wanted):
                    hole = again.fault() or f"then {again.code}: {differing(got, wanted)} {again.err.strip()[-200:]}"
                self.table.count("disks", f"{limit}, {row}", ended.code != 0, hole and f"{what}: {hole}", hole is not None and again.code == 0 and got != wanted, args)
            finally:
                if limit == "disk":
                    subprocess.run(["umount", at], check=True)
            shutil.rmtree(at)

    # ---- Numbers that nobody means

    def limits(self, until):
        most = str(2**64 - 1)
        base = self.base
        run = lambda *more: ["run", *SMALL, *more, "--out", "F"]
        samples = lambda *more: ["samples", *more, "--out", "F"]
        lens = lambda *more: ["lens", TEXT, *more]
        asked = [
            run("--threads", "512"), run("--threads", "1024"), run("--seed", most), run("--rank", most), run("--rank", "1000000000"),
            run("--ridge", "1e308"), run("--ridge", "1e-308"), run("--skip-first", most), run("--skip-first", "1000000"),
            samples("--train", "1", "--val", "1"), samples("--train", "0", "--val", "0"), samples("--train", "1000000000"),
            samples("--train", most, "--val", most), samples("--positions", most), samples("--train", "20000", "--positions", "all"),
            samples("--min-chars", most), samples("--max-chars", "0"), samples("--min-tokens", most), samples("--max-tokens", "1"),
            samples("--per-document", most), ["moments", "--shard", f"{most}/{most}", "--out", "F"], ["moments", "--shard", "1/1000000000", *SMALL, "--out", "F"],
            ["sentences", "--num", most, "--out", "F"], ["sentences", "--num", "1000000000000", "--out", "F"], ["sentences", "--num", "0", "--out", "F"],
            lens("--top", most), lens("--top", "1000000000"), lens("--layers", "0-1048576"), lens("--position", "1048576"), lens("--lambda", "1e308"),
            lens("--width", "65535"), ["lens", "word " * 20000], ["lens", "\u0301" * 30000], ["lens", ""],
            lens("--threads", "512"), ["info", "tiny-gpt2", "--threads", "1024"], ["doctor", "tiny-gpt2", "--threads", "512"],
            ["compare", *[base / "run"] * 2, "--out", "F"], ["merge", *[base / "share1/moments.safetensors"] * 2000, "--out", "F"],
            ["shortcuts", "inspect", base / "run", "--pairs", "all", "--threads", "512"],
            ["samples", "--train-samples", "/dev/zero", "--val-samples", "/dev/zero", "--out", "F"], samples("--corpus", "/dev/zero"),
            samples("--corpus", "/dev/full"), ["info", "/dev/zero"], ["shortcuts", "list", "/dev/zero"], ["merge", "/dev/zero", "--out", "F"],
        ]
        self.rng.shuffle(asked)
        for place, args in enumerate(asked):
            if place >= 8 and time.monotonic() > until:
                break
            at = self.fresh()
            ended = self.run(args, at, BOUND / 2)
            words = [arg if len(arg) < 24 else arg[:20] + "…" for arg in ended.args if not arg.startswith(str(base))]
            self.table.count("limits", " ".join(words[:6]), ended.code == 1, ended.fault(), command=ended.args[:20])
            shutil.rmtree(at)
        _, _, wanted, _ = self.reference(("threads",), {}, ["run", *SMALL, "--ridge", "auto", "--intercept", "--threads", "1", "--out", "F"])
        for threads in (["2", "3", "5"] if time.monotonic() < until else ["3"]):
            at = self.fresh()
            ended = self.run(["run", *SMALL, "--ridge", "auto", "--intercept", "--threads", threads, "--out", "F"], at)
            got = tree(at)
            hole = ended.fault() or (got != wanted and f"other than on one: {differing(got, wanted)}") or None
            self.table.count("limits", f"results on {threads} threads", True, hole, got != wanted, ended.args)
            shutil.rmtree(at)

    # ---- A hostile Hub

    def hub(self, until):
        """Every mode at once: they mostly wait."""
        quick = [*Hub.QUICK, *(f"data: {name}" for name in Hub.NAMES)]
        modes = quick + (Hub.SLOW if until - time.monotonic() > HUB_BOUND else [])
        if len(modes) == len(quick):
            self.table.skipped["hub"] = f"the modes that take up to {HUB_BOUND} s, for want of time: {', '.join(Hub.SLOW)}"
        files = {path.name: path.read_bytes() for path in (self.base / "model").iterdir()}
        parquet = (FIXTURES / "plain.parquet").read_bytes()
        self.rng.shuffle(modes)
        waiting = []
        while modes or waiting:
            while modes and len(waiting) < 12:
                mode = modes.pop()
                hub, at = Hub(mode, files, parquet), self.fresh()
                name = ["info", "org/model"] if not mode.startswith("data: ") else ["sentences", "--corpus", "hf://datasets/org/data", "--num", "5", "--out", "drawn.txt"]
                env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(at / "cache"), "HF_TOKEN": Hub.TOKEN, "HF_HUB_OFFLINE": "0"}
                waiting.append((mode, hub, at, Running(self.program, name, at, env=env), time.monotonic()))
            for entry in list(waiting):
                mode, hub, at, running, begun = entry
                if not running.is_over() and time.monotonic() - begun < HUB_BOUND:
                    continue
                waiting.remove(entry)
                ended = running.wait(0.01)
                hole = ended.fault()
                outside = [str(path.relative_to(at)) for path in at.rglob("*") if path.is_file() and path.relative_to(at).parts[0] not in ("cache", "drawn.txt", "drawn.txt.jsonl", "drawn.jsonl", "drawn.json", "drawn.txt.json")]
                if hub.leaked:
                    hole = f"the token was sent to another server: {hub.leaked}"
                elif outside or (self.place / "x.parquet").exists():
                    hole = f"written outside of the cache: {outside}"
                elif hole is None and mode in Hub.BAD and ended.code == 0:
                    hole = f"went well: {ended.out[:200]}"
                elif hole is None and mode in Hub.GOOD and ended.code != 0:
                    hole = f"did not go well: {ended.err.strip()[-300:]}"
                elif hole is None and not any(Hub.ESCAPED.get(mode, "") in path for path in hub.asked):
                    hole = f"asked for another file: {hub.asked}"
                self.table.count("hub", mode, ended.code == 1, hole, command=["HF_ENDPOINT=…", *ended.args])
                hub.close()
                shutil.rmtree(at)
            time.sleep(0.02)


class Hub:
    """A Hub on loopback that misbehaves in one way, and a second server that must never see the token."""

    TOKEN = "hf_torture"
    COMMIT = "c" * 40
    GOOD = ["well", "redirect with an address in its query", "retried", "data: plain", "data: hash", "data: blank", "data: percent", "data: question", "data: accents"]
    BAD = ["other bytes", "loop", "list that is no list", "list without end", "gzip bomb", "nothing", "cut short", "longer", "to a file", "to elsewhere", "refused", "elsewhere cut", "commit that is a path", "weights that are a path"]
    QUICK = ["well", *BAD, "redirect with an address in its query", "retried", "huge list", "no digest", "digest that is a path", "range ignored"]
    SLOW = ["list by the byte", "file by the byte", "stalls in the list", "stalls in a file", "no answer", "always busy", "busy for a day", "headers without end"]
    ESCAPED = {"data: hash": "%23", "data: question": "%3F", "data: percent": "%2531", "data: blank": "%20"}
    NAMES = {
        "plain": ["data/train.parquet"], "hash": ["data/train#1.parquet"], "question": ["data/train?1.parquet"], "percent": ["data/train%31.parquet"],
        "blank": ["data/train 1.parquet"], "accents": ["data/träin.parquet"], "line feed": ["data/train\n1.parquet"], "zero": ["data/tr\0ain.parquet"],
        "up": ["../../../../../x.parquet"], "root": ["/x.parquet"], "dots": ["data/../../../../x.parquet"], "backslash": ["..\\..\\x.parquet"],
        "long": ["d/" * 2000 + "train.parquet"], "long word": ["a" * 5000 + ".parquet"], "many": [f"data/train-{i}.parquet" for i in range(3)], "heap": [f"d{i}/t.parquet" for i in range(50000)],
    }

    def __init__(self, mode, files, parquet):
        self.mode, self.files, self.parquet = mode, files, parquet
        self.asked, self.leaked, self.busy = [], None, 2
        self.main, self.other = (self.serve(is_main) for is_main in (True, False))
        self.endpoint, self.elsewhere = (f"http://127.0.0.1:{server.server_port}" for server in (self.main, self.other))

    def serve(self, is_main):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = HUB_BOUND

            def log_message(self, *_):
                pass

            def do_GET(self):
                try:
                    hub.answer(self) if is_main else hub.answer_elsewhere(self)
                except OSError:
                    pass
                self.close_connection = True

            do_HEAD = do_GET

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self):
        for server in (self.main, self.other):
            server.shutdown()
            server.server_close()

    def send(self, to, body=b"", status=200, length=None, **headers):
        to.send_response(status)
        to.send_header("Content-Length", str(len(body) if length is None else length))
        to.send_header("Connection", "close")
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        if to.command == "GET":
            to.wfile.write(body)

    def trickle(self, to, body):
        """A byte at a time, as long as anyone listens."""
        to.send_response(200)
        to.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        to.send_header("Content-Length", str(max(len(body), 9999999)))
        to.end_headers()
        for byte in body if to.command == "GET" else b"":
            to.wfile.write(bytes([byte]))
            time.sleep(2)

    def file(self, to, body, is_main=True):
        mode, headers = self.mode, {"X_Repo_Commit": self.COMMIT}
        digest = hashlib.sha256(body).hexdigest()
        if is_main and mode == "digest that is a path":
            digest = "../../../../x"
        if mode != "no digest":
            headers["ETag"] = f'"{digest}"'
        got = to.headers.get("Range")
        match mode:
            case "other bytes" if len(body) > 20000 and to.command == "GET":
                body = bytes([body[0] ^ 1]) + body[1:]
            case "cut short" | "elsewhere cut" if len(body) > 20000 and to.command == "GET":
                return self.send(to, body[: len(body) // 2], length=len(body), **headers)
            case "longer" if to.command == "GET":
                body += b"x" * 1000
            case "stalls in a file" if len(body) > 20000 and to.command == "GET":
                self.send(to, body[:1000], length=len(body), **headers)
                return time.sleep(HUB_BOUND + 30)
            case "file by the byte" if len(body) > 20000 and to.command == "GET":
                return self.trickle(to, body)
            case "headers without end":
                to.wfile.write(b"HTTP/1.1 200 OK\r\n")
                for number in range(HUB_BOUND * 10):
                    to.wfile.write(f"X-{number}: {'y' * 50}\r\n".encode())
                    time.sleep(0.1)
                return None
        begin = re.fullmatch(r"bytes=(\d+)-", got or "")
        if begin and mode != "range ignored":
            start = int(begin[1])
            return self.send(to, body[start:], 206, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}", **headers)
        return self.send(to, body, **headers)

    def answer_elsewhere(self, to):
        if self.TOKEN in str(to.headers):
            self.leaked = f"{to.command} {to.path}"
        name = to.path.split("?")[0].rsplit("/", 1)[-1]
        self.file(to, self.files.get(name, b"{}"), False)

    def answer(self, to):
        mode, path = self.mode, to.path
        self.asked.append(path)
        is_list = path.startswith("/api/") and "/revision/" in path
        if mode == "retried" and self.busy > 0:
            self.busy -= 1
            return self.send(to, b"busy", 503 if self.busy else 429, Retry_After="1")
        if mode in ("always busy", "busy for a day"):
            return self.send(to, b"busy", 429, Retry_After="1" if mode == "always busy" else "86400")
        if mode == "no answer":
            return time.sleep(HUB_BOUND + 30)
        if mode == "nothing":
            return to.connection.close()
        if mode == "refused":
            return self.send(to, b"no", 403)
        if is_list:
            return self.listing(to)
        if mode.startswith("data: "):
            return self.file(to, self.parquet)
        name = path.split("?")[0].rsplit("/", 1)[-1]
        body = self.files.get(name, b"{}")
        if mode == "loop":
            return self.send(to, status=302, Location=path)
        if mode == "to a file":
            return self.send(to, status=302, Location=f"file://{ROOT}/README.md")
        if mode == "to elsewhere":
            # A digest of what the other server doesn't have.
            return self.send(to, status=302, Location=f"{self.elsewhere}/secret", X_Linked_ETag=f'"{"a" * 64}"', X_Linked_Size="10", X_Repo_Commit=self.COMMIT)
        if len(body) > 20000:
            linked = {"X_Linked_ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X_Linked_Size": str(len(body)), "X_Repo_Commit": self.COMMIT}
            if mode == "redirect with an address in its query" and "?" not in path:
                return self.send(to, status=302, Location=f"{path}?from=http://a.b/c", **linked)
            if mode in ("well", "elsewhere cut", "retried", "other bytes"):
                return self.send(to, status=302, Location=f"{self.elsewhere}{path}", **linked)
        return self.file(to, body)

    def listing(self, to):
        mode = self.mode
        names = self.NAMES[mode[6:]] if mode.startswith("data: ") else list(self.files)
        if mode == "huge list":
            names += [f"folder{i}/{'n' * 60}" for i in range(200000)]
        if mode == "weights that are a path":
            names = ["config.json", "model.safetensors.index.json"]
            self.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "../../../../x.safetensors"}}).encode()
        commit = "../../../../evil" if mode == "commit that is a path" else self.COMMIT
        body = json.dumps({"sha": commit, "siblings": [{"rfilename": name} for name in names]}).encode()
        match mode:
            case "list that is no list":
                body = b"[" * 100000
            case "gzip bomb":
                return self.send(to, gzip.compress(b" " * (256 << 20), 1), Content_Encoding="gzip")
            case "list without end":
                to.send_response(200)
                to.end_headers()
                while True:
                    to.wfile.write(b" " * (1 << 20))
            case "list by the byte":
                return self.trickle(to, body)
            case "stalls in the list":
                self.send(to, body[:20], length=len(body))
                return time.sleep(HUB_BOUND + 30)
        return self.send(to, body)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", type=Path, default=ROOT / "target/release/jumplens")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(SHARES), help="kinds, separated by commas")
    parser.add_argument("--patience", type=float, default=1, help="how many times longer than usual a command may take")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it there")
    args = parser.parse_args()
    global BOUND, ANSWER
    BOUND, ANSWER = BOUND * args.patience, ANSWER * args.patience
    kinds = args.only.split(",")
    if unknown := [kind for kind in kinds if kind not in SHARES]:
        parser.error(f"no kind {unknown[0]}: there are {', '.join(SHARES)}")
    # What is mounted and copied goes away in any case, and what was tried is shown.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    table = Table()
    begun = time.monotonic()
    place = (args.keep or Path(tempfile.mkdtemp(prefix="torture-"))).resolve()
    place.mkdir(parents=True, exist_ok=True)
    try:
        torture = Torture(args.program.resolve(), args.seed, table, place)
        torture.prepare()
        for number, kind in enumerate(kinds):
            left = args.minutes * 60 - (time.monotonic() - begun)
            share = SHARES[kind] / sum(SHARES[kind] for kind in kinds[number:])
            print(f"{kind} …", file=sys.stderr, flush=True)
            getattr(torture, kind)(time.monotonic() + left * share)
    except KeyboardInterrupt:
        print("interrupted: what was tried until now", file=sys.stderr)
    finally:
        for running in Running.all:
            if not running.is_over():
                running.process.kill()
                running.process.wait()
        if args.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    print(f"seed {args.seed}, {(time.monotonic() - begun) / 60:.1f} minutes, {os.cpu_count()} cores, {subprocess.run([args.program, '--version'], capture_output=True, text=True).stdout.strip()}")
    table.print()
    sys.exit(1 if table.holes else 0)


if __name__ == "__main__":
    main()
