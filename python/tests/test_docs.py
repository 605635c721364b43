"""What is documented: the same in the stubs and at run time, and examples that run."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jumplens as jl
import numpy as np
import pytest
from jumplens import _jumplens

STUBS = ast.parse((Path(jl.__file__).parent / "_jumplens.pyi").read_text())


def documented() -> dict[str, tuple[str, Any]]:
    """By name: the stub's docstring, and the object."""
    found: dict[str, tuple[str, Any]] = {}
    for node in STUBS.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or not hasattr(_jumplens, node.name):
            continue
        value = getattr(_jumplens, node.name)
        inner = [part for part in getattr(node, "body", []) if isinstance(part, ast.FunctionDef)] if isinstance(node, ast.ClassDef) else []
        for name, part, of in [(node.name, node, value), *((f"{node.name}.{part.name}", part, getattr(value, part.name, None)) for part in inner)]:
            text = ast.get_docstring(part)
            if text and not name.split(".")[-1].startswith("_"):
                found[name] = (text, of)
    return found


@pytest.mark.parametrize("name", documented())
def test_help_says_what_the_stubs_say(name: str) -> None:
    text, value = documented()[name]
    assert value is not None and inspect.cleandoc(value.__doc__) == text


EXAMPLES = {"jumplens": jl.__doc__, "bundled": jl.bundled.__doc__, **{name: text for name, (text, _) in documented().items()}}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = EXAMPLES[name]
    test = doctest.DocTestParser().get_doctest(text or "", {}, name, None, None)
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0


PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small run."""
    folder = tmp_path_factory.mktemp("page")
    program = [sys.executable, "-m", "jumplens", "run", "--train", "300", "--val", "60", "--quiet"]
    subprocess.run(program, cwd=folder, check=True)
    return folder


def sections() -> dict[str, list[str]]:
    """The page's code by heading."""
    parts = re.split(r"^## (.*)$", PAGE, flags=re.MULTILINE)
    blocks = {heading: re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) for heading, text in zip(parts[1::2], parts[2::2])}
    return {heading: code for heading, code in blocks.items() if code}


@pytest.mark.parametrize("heading", sections())
def test_the_page_runs(heading: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "Runs": ["pyarrow"], "Any model in PyTorch": ["torch", "transformers"], "A run's files without the package": ["pandas", "pyarrow", "safetensors"],
    }  # fmt: skip
    for library in needed.get(heading, []):
        pytest.importorskip(library, reason=f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "jumplens-runs").symlink_to(place / "jumplens-runs")
    random = np.random.default_rng(0).normal
    h = [random(size=(200, 8)).astype("float32") for _ in range(13)]
    names: dict[str, Any] = {
        "jl": jl, "d": 8, "batches": [h, h], "x": h[0], "y": h[1], "x_val": h[2], "y_val": h[3], "h_0": h[0], "h_1": h[1], "h_2": h[2],
    }  # fmt: skip
    if heading == "Arrays":
        part = jl.Sums(8, layers=13)
        part.add(h)
        part.save("part-2")
    if heading == "Any model in PyTorch":
        from transformers import AutoTokenizer

        names["name"] = str(jl.bundled("tiny-gpt2"))
        names["texts"] = jl.bundled("wikipedia-sample").read_text(encoding="utf-8").splitlines()[:300]
        names["inputs"] = AutoTokenizer.from_pretrained(names["name"])("The river", return_tensors="pt")
    for block in sections()[heading]:
        exec(block.replace("train=9000, val=3000", "train=200, val=60"), names)
