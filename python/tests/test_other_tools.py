"""The code of docs/other-tools.md, run against TransformerLens and nnsight."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import jumplens as jl  # noqa: E402

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "other-tools.md").read_text(encoding="utf-8")


def run(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the names stand for once the page's first block, and that under a heading, have been run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    intro, *sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    section = next(section for section in sections if section.startswith(heading))
    names: dict[str, Any] = {}
    for place, part in ((f"intro-{heading}", intro), (heading, section)):
        # From a file: nnsight reads the source of what it runs.
        path = tmp_path / f"{place}.py"
        path.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)))
        exec(compile(path.read_text(), str(path), "exec"), names)
    return names


def own(names: dict[str, Any]) -> tuple[Any, Any, jl.Maps]:
    """The model by transformers, its tokenizer, and the maps at every position of the texts."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(names["folder"])
    model = transformers.AutoModelForCausalLM.from_pretrained(names["folder"], dtype=torch.float32).eval()
    m = jl.torch.wrap(model, tokenizer)
    return m, tokenizer, m.fit(names["texts"], positions="all", progress=False)


def same_maps(got: jl.Maps, expected: jl.Maps) -> None:
    for cast in ("mat", "mat+b"):
        for pair in expected:
            torch.testing.assert_close(
                torch.tensor(got.cast(cast)[pair].weight), torch.tensor(expected.cast(cast)[pair].weight), atol=2e-3, rtol=0
            )


def test_transformer_lens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformer_lens", reason="TransformerLens is not installed")
    names = run("TransformerLens", tmp_path, monkeypatch)
    m, _, expected = own(names)
    same_maps(names["maps"], expected)
    with torch.no_grad():
        states = m.states(names["tokens"])
        torch.testing.assert_close(names["h"], torch.stack(states), atol=1e-4, rtol=0)
        cast = expected.cast("mat")[6, 12].to_torch()(states[6])
        torch.testing.assert_close(names["logits"], m.logits(cast), atol=2e-2, rtol=0)
        bridge = names["bridge"]
        inside = jl.torch.wrap(bridge.original_model)
        torch.testing.assert_close(torch.stack(inside.states(names["tokens"])), torch.stack(states), atol=1e-4, rtol=0)
        # What the page says of processed weights.
        bridge.enable_compatibility_mode()
        processed = bridge.run_with_cache(names["tokens"])[1].accumulated_resid(layer=None)
        centred = [state - state.mean(-1, keepdim=True) for state in states]
        torch.testing.assert_close(processed, torch.stack(centred), atol=1e-4, rtol=0)
        assert (processed - torch.stack(states)).abs().max() > 1e-2


def test_nnsight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnsight", reason="nnsight is not installed")
    names = run("nnsight", tmp_path, monkeypatch)
    m, tokenizer, expected = own(names)
    same_maps(names["maps"], expected)
    ids = torch.tensor([tokenizer(names["texts"][0])["input_ids"]])
    with torch.no_grad(), m.shortcut(6, 12, expected.cast("mat")):
        torch.testing.assert_close(names["logits"], m.model(ids).logits, atol=2e-2, rtol=0)
