"""SmolLM2-135M from its GGUF file, by transformers and by `jumplens run`, on the same sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jumplens as jl
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gguf", reason="transformers reads GGUF files with the package `gguf`, which is not installed")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with the package `accelerate`, which is not installed")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("JUMPLENS_REAL_MODELS", ROOT / "target" / "real-models")) / "smollm2"
FILES = sorted(FOLDER.glob("*.gguf"))
TRAIN, VAL = 1500, 150


@pytest.mark.skipif(not FILES, reason=f"no GGUF file in {FOLDER}: `tools/fetch_real_models.sh smollm2` fetches it")
def test_figures_are_those_of_the_program(tmp_path: Path) -> None:
    out = tmp_path / "run"
    model_file = str(FILES[0])
    arguments = ["--model", model_file, "--train", str(TRAIN), "--val", str(VAL), "--pairs", "to-final", "--intercept"]
    for stage in (["samples", *arguments], ["states"], ["fit"], ["r2"], ["evaluate"]):
        subprocess.run([sys.executable, "-m", "jumplens", *stage, "--out", str(out), "--quiet"], check=True)
    run = jl.Run(out)

    samples = [json.loads(line) for split in ("train", "val") for line in (out / "samples" / f"{split}.jsonl").open()]
    ids = [sample["ids"] for sample in samples]
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILES[0].name, dtype=torch.float32).eval()
    m = jl.torch.wrap(model)
    maps = m.fit(ids, train=TRAIN, val=VAL, progress=False)

    theirs = {row[:3]: row[3] for row in rows(run.r2(), "mapping", "from", "to", "r2")}
    ours = {row[:3]: row[3] for row in rows(maps.r2, "mapping", "from", "to", "r2")}
    assert set(ours) <= set(theirs)
    # Of maps that miss more than all there is, so many digits are those of the states.
    off = {key: abs(ours[key] - theirs[key]) / max(1, 1 - theirs[key]) for key in ours}
    assert max(off.values()) < 1e-5, max(off.items(), key=lambda item: item[1])

    table = m.evaluate(maps, ids, casts=["id", "mat", "mat+b"], progress=False)
    figures = ("precision_1", "precision_5", "precision_10", "surprisal", "kl", "loss")
    theirs = {row[:2]: row[2:] for row in rows(run.layers(), "mapping", "layer", *figures)}
    apart = [np.abs(np.array(got) - np.array(theirs[mapping, layer])) for mapping, layer, *got in rows(table, "mapping", "layer", *figures)]
    worst, usual = np.max(apart, axis=0), np.quantile(apart, 0.9, axis=0)
    print("off by at most: r²", max(off.values()), dict(zip(figures, worst)))
    # Maps on so few samples tell two tokens that are next to one another apart by their last digits: one sample may have the other,
    # which the model finds as much less likely as a nat.
    assert (worst[:3] <= 1.001 / VAL).all() and usual[3] < 1e-3 and worst[3] < 1 / VAL


def rows(table: object, *columns: str) -> list[tuple[object, ...]]:
    return list(zip(*(list(table[column]) for column in columns)))  # type: ignore[index]
