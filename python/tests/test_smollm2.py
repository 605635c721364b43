"""SmolLM2-135M from its GGUF file, by transformers and by `jumplens run`, on the same sentences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jumplens as jl
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("gguf", reason="transformers reads GGUF files with the package `gguf`, which is not installed")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with the package `accelerate`, which is not installed")
pytest.importorskip("pyarrow", reason="predictions are read by the package `pyarrow`, which is not installed")

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("JUMPLENS_REAL_MODELS", ROOT / "target" / "real-models")) / "smollm2"
FILES = sorted(FOLDER.glob("*.gguf"))
#: `JUMPLENS_SMOLLM2=9000,3000` is the whole of what is bundled, and takes half an hour.
TRAIN, VAL = map(int, os.environ.get("JUMPLENS_SMOLLM2", "1500,150").split(","))
CASTS = ["id", "mat", "mat+b"]
#: Two logits this close are a tie: states of the two programs differ in their last digits, and these, through a map, by as much.
TIE = 1e-3


@pytest.mark.skipif(not FILES, reason=f"no GGUF file in {FOLDER}: `tools/fetch_real_models.sh smollm2` fetches it")
def test_figures_are_those_of_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    arguments = ["--model", str(FILES[0]), "--train", str(TRAIN), "--val", str(VAL), "--pairs", "to-final"]
    program = [sys.executable, "-m", "jumplens", "run", *arguments, "--casts", ",".join(CASTS), "--out", str(out), "--quiet"]
    subprocess.run(program, check=True)
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

    tops = Tops(monkeypatch)
    table = m.evaluate(maps, ids, casts=CASTS, progress=False)
    logits, tokens, surprisals = tops.by_sample(m.n_layers)

    # Sample by sample: the same token, or one of two with the same logit.
    predictions = run.predictions()
    their_tokens, their_surprisals = np.full(tokens.shape[:3], -1), np.full(tokens.shape[:3], np.nan)
    for sample, mapping, layer, top, surprisal in rows(predictions, "sample", "mapping", "layer", "top10", "surprisal"):
        if mapping in CASTS and layer < m.n_layers:
            at = layer, CASTS.index(mapping), sample
            their_tokens[at], their_surprisals[at] = top[0], surprisal
    same = tokens[..., 0] == their_tokens
    theirs_is = tokens == their_tokens[..., None]
    gap = logits[..., 0] - np.where(theirs_is, logits, -np.inf).max(-1)
    print(f"{(~same).sum()} of {same.size} tokens are others, with logits apart by at most {gap.max():.1e}")
    assert (gap <= TIE).all()
    assert (~same).mean() < 1e-3
    assert np.abs(surprisals - their_surprisals)[same].max() < 1e-3
    np.testing.assert_allclose(np.abs(surprisals - their_surprisals)[same].mean(), 0, atol=1e-4)

    # And in the mean, as far as ties allow.
    figures = ("precision_1", "precision_5", "precision_10", "surprisal", "kl", "loss")
    expected = {row[:2]: row[2:] for row in rows(run.layers(), "mapping", "layer", *figures)}
    worst = np.zeros(len(figures))
    for mapping, layer, *got in rows(table, "mapping", "layer", *figures):
        apart = np.abs(np.array(got) - np.array(expected[mapping, layer]))
        worst = np.maximum(worst, apart)
        ties = 0 if layer == m.n_layers else (~same)[layer, CASTS.index(mapping)].sum()
        by_ties = 0.0 if layer == m.n_layers else np.abs(surprisals - their_surprisals)[layer, CASTS.index(mapping)][~same[layer, CASTS.index(mapping)]].sum() / VAL
        assert (apart[:3] <= max(1, ties) / VAL + 1e-9).all(), (mapping, layer, apart)
        assert apart[3] <= 1e-3 + by_ties and apart[4] < 2e-3 and apart[5] < 1e-3, (mapping, layer, apart)
    print("off by at most: r²", max(off.values()), dict(zip(figures, worst)))


class Tops:
    """What `Model.evaluate` compares, kept: the best three tokens of each cast, and the surprisal of the first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[list[Any]] = []
        self.places: list[Any] = []
        begin, compare = jl.torch._Predictions.begin, jl.torch._Own.compare

        def beginning(predictions: Any, batch: Any) -> None:
            self.batches.append([])
            self.places.append(batch.places)
            begin(predictions, batch)

        def comparing(own: Any, logits: Any) -> Any:
            figures = compare(own, logits)
            if logits is not own.logits:
                top = logits.topk(3)
                self.batches[-1].append((top.values.numpy(), top.indices.numpy(), figures[1]))
            return figures

        monkeypatch.setattr(jl.torch._Predictions, "begin", beginning)
        monkeypatch.setattr(jl.torch._Own, "compare", comparing)

    def by_sample(self, layers: int) -> list[Any]:
        """Logits and tokens ``[layers, casts, samples, 3]``, and surprisals."""
        order = np.argsort(np.concatenate(self.places))
        both = [np.concatenate([np.stack([kept[what] for kept in batch]) for batch in self.batches], 1)[:, order] for what in range(3)]
        return [values.reshape(layers, len(CASTS), *values.shape[1:]) for values in both]


def rows(table: object, *columns: str) -> list[tuple[Any, ...]]:
    return list(zip(*(list(table[column]) for column in columns)))  # type: ignore[index]
