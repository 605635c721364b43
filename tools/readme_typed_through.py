"""Type README through: run its shell commands as a new user would, and hold what they print against what it says.

    python3 tools/readme_typed_through.py --program target/release/jumplens [--python PYTHON] [PAGE.md …]

Each block of `sh` is run in an empty folder with the program on the PATH, in the order of the page. Where a block of `text`
follows, its lines have to be in the output, with numbers to the last digit that is shown (another CPU may round that
differently). Commands that need the network, files of the reader's or the Rust toolchain are left out, and said to be. Sizes
of run folders that the page names in megabytes are held against the folders. Blocks of `python` are run where their modules
are there.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# What a command cannot be run for here, by what is in it.
LEFT_OUT = {
    "cargo ": "compiles",
    "pip ": "compiles",
    "./my-gpt2": "a file of the reader's",
    "my_sentences.txt": "a file of the reader's",
    "SmolLM2-135M": "a file of the reader's",
    "smollm2": "a run of the reader's",
    "enwiki-": "a file of the reader's",
    "tools/": "fetches a model",
    "target/real-models": "a file of the reader's",
    "hf://": "the network",
    " gpt2": "the network",
    "runs/a ": "runs of the reader's",
}
NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
FAILED = []


def check(name, fine, seen=""):
    if not fine:
        FAILED.append(name)
    print(f"{'ok    ' if fine else 'FAILED'} {name}{'' if fine else f': {seen}'}", flush=True)


def blocks(page):
    """The code blocks of a page: their languages, texts, and the prose between one and the next."""
    found, rest = [], page
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.M | re.S):
        found.append((match[1], match[2], page[match.end():]))
    return found


def split(line):
    """A line without its numbers and spaces, and the numbers with the digits they are shown with."""
    numbers = [text.replace("−", "-").replace(",", "") for text in NUMBER.findall(line)]
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip(), numbers


def same(shown, printed):
    """Whether a printed line is the shown one, each number within two of its last digit."""
    (text, numbers), (other, others) = split(shown), split(printed)
    if text != other or len(numbers) != len(others):
        return False
    for a, b in zip(numbers, others):
        digits = len(a.split(".")[1]) if "." in a and "e" not in a else 0
        room = 2.5 * 10.0**-digits if digits else 0.0
        if abs(float(a) - float(b)) > room:
            return False
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--program", type=Path, default=Path("target/release/jumplens"))
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    pages = [page.resolve() for page in args.pages] or [root / "README.md"]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "bin").mkdir()
        (folder / "bin" / "jumplens").symlink_to(args.program.resolve())
        (folder / "work").mkdir()
        environment = dict(os.environ, PATH=f"{folder / 'bin'}:{os.environ['PATH']}", HF_HOME=str(folder / "hf"), COLUMNS="100")
        for page in pages:
            type_through(page, folder / "work", environment, args.python)
    print(f"{len(FAILED)} failed")
    sys.exit(1 if FAILED else 0)


def type_through(page, work, environment, python):
    text = page.read_text()
    output, script = "", ""
    run = 0
    for language, block, after in blocks(text):
        if language == "sh":
            output = ""
            for command in commands(block):
                why = next((why for part, why in LEFT_OUT.items() if part in command + " "), None)
                if why:
                    print(f"      left out ({why}): {command}")
                    continue
                done = subprocess.run(["bash", "-ec", command], cwd=work, env=environment, capture_output=True, text=True)
                check(f"{page.name}: {command}", done.returncode == 0, done.stderr[-500:])
                output += done.stdout
                run += 1
        elif language == "text" and output:
            printed = output.splitlines()
            for line in block.splitlines():
                if line.strip() in ("", "…") or line.strip().startswith("…"):
                    continue
                found = any(same(line, other) for other in printed)
                check(f"{page.name} prints: {line.strip()[:70]}", found, next((o for o in printed if split(o)[0] == split(line)[0]), "no such line"))
            output = ""
        elif language == "python":
            script = python_block(page, block, script, work, environment, python)
    check(f"{page.name} has commands", run > 0)
    for name, size in re.findall(r"`(jumplens-runs/[\w.-]+)/` \((\d+) MB\)", text):
        there = sum(file.stat().st_size for file in (work / name).rglob("*") if file.is_file()) / 1e6
        check(f"{page.name}: {name} takes {size} MB", abs(there - float(size)) <= 2, f"{there:.1f}")


def commands(block):
    """The commands of a block, one a line, without remarks."""
    lines = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def python_block(page, block, script, work, environment, python):
    """Runs a block after the ones before it, where its modules are there; gives all of them."""
    modules = set(re.findall(r"^(?:import|from) (\w+)", block, re.M))
    there = subprocess.run([python, "-c", "\n".join(f"import {module}" for module in modules)], capture_output=True)
    if there.returncode or re.search(r"\b(x|y|model|inputs)\b", block):
        print(f"      left out (no {', '.join(sorted(modules)) or 'values'}): {block.splitlines()[0]}")
        return script
    script += block
    done = subprocess.run([python, "-c", script], cwd=work, env=environment, capture_output=True, text=True)
    check(f"{page.name}: {block.strip().splitlines()[-1][:70]}", done.returncode == 0, done.stderr[-500:])
    # A figure that the sentence before the block ends with is what it prints last.
    said = re.search(r"(\d\.\d+):\s*$", page.read_text().split("```python\n" + block)[0])
    if said:
        printed = done.stdout.split()[-1] if done.stdout.split() else ""
        check(f"{page.name}: prints {said[1]}", printed and abs(float(printed) - float(said[1])) < 1e-3, printed)
    return script


if __name__ == "__main__":
    main()
