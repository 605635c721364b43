#!/usr/bin/env python3
"""Runs the notebooks of docs/notebooks, and sees that what they show is what is stored in them.

    tools/notebooks.py [--write] [NOTEBOOK …]

Needs the package `jumplens` with PyTorch and transformers, nbclient, ipykernel, matplotlib and pandas. Figures are drawn anew and not compared;
of text and tables numbers may differ by a hundredth, and what a cell with the tag `varies` shows may be anything. `--write` stores the outputs: look at them before they are committed.
"""
import argparse
import math
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def shown(cell):
    """What a cell shows: kinds of outputs, with their text where that is compared."""
    outputs = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            # What goes to standard error is warnings and progress.
            if output.name != "stdout":
                continue
            # It comes in pieces, as it happens to.
            if outputs and outputs[-1][0] == "stdout":
                outputs[-1] = ("stdout", outputs[-1][1] + output.text)
            else:
                outputs.append(("stdout", output.text))
        else:
            outputs.extend((kind, output.data.get("text/plain", "")) for kind in sorted(output.data) if kind != "text/plain")
            outputs.append(("text/plain", output.data.get("text/plain", "")))
    return outputs


def is_same(stored, got):
    """True where two texts are the same but for the last digits of numbers."""
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (stored, got)]
    words = [NUMBER.sub("", text).split() for text in (stored, got)]
    return words[0] == words[1] and all(math.isclose(a, b, rel_tol=0.01, abs_tol=0.011) for a, b in zip(*numbers))


def differences(stored, got):
    for number, (before, now) in enumerate(zip(stored.cells, got.cells)):
        kinds = [[kind for kind, _ in shown(cell)] for cell in (before, now)]
        if kinds[0] != kinds[1]:
            yield f"cell {number} shows {kinds[1]}, and {kinds[0]} is stored"
            continue
        for (kind, old), (_, new) in zip(shown(before), shown(now)):
            if "varies" not in now.metadata.get("tags", []) and not is_same(old, new):
                yield f"cell {number} shows, as {kind}:\n{new}\nand this is stored:\n{old}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(FOLDER.glob("*.ipynb")))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    wrong = False
    for path in arguments.notebooks:
        stored = nbformat.read(path, as_version=4)
        got = nbformat.from_dict(stored)
        NotebookClient(got, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
        if arguments.write:
            for cell in got.cells:
                cell.metadata.pop("execution", None)
                # Warnings and progress are those of one machine.
                if cell.cell_type == "code":
                    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            nbformat.write(got, path)
            print(f"{path.name}: written")
            continue
        for difference in differences(stored, got):
            wrong = True
            print(f"{path.name}: {difference}", file=sys.stderr)
    sys.exit(wrong)


if __name__ == "__main__":
    main()
