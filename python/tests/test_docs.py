"""What is documented: the same in the stubs and at run time, and examples that run."""

from __future__ import annotations

import ast
import doctest
import inspect
from pathlib import Path
from typing import Any

import jumplens as jl
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
