"""What `jumplens prune` writes, loaded by transformers as any model is, and held against the whole model with hooks."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import jumplens as jl  # noqa: E402
from test_families import LAYERS, MASKED, VOCAB, tiny  # noqa: E402

#: The layers that feed-forward parts end with, by family.
OUTPUTS = {
    "GPT2": "mlp.c_proj", "Llama": "mlp.down_proj", "Qwen3": "mlp.down_proj", "GPTNeoX": "mlp.dense_4h_to_h", "OPT": "fc2",
    "Bert": "output.dense", "Gemma2": None,
}  # fmt: skip


def program(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "jumplens", *map(str, arguments), "--quiet"], check=True)


def samples_in(folder: Path, family: str) -> list[list[int]]:
    """Samples files of random tokens, and the validation sentences."""
    rng, sentences = np.random.default_rng(3), []
    for split, count in (("train", 220), ("val", 40)):
        lines = []
        for _ in range(count):
            ids = rng.integers(5, VOCAB, size=rng.integers(6, 20)).tolist()
            position = int(rng.integers(len(ids)))
            line = {"ids": ids, "position": position}
            if family in MASKED:
                line["target"] = int(rng.integers(5, VOCAB))
            lines.append(json.dumps(line))
            sentences.append(ids)
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return sentences[220:]


def pruned(family: str, tmp_path: Path, *options: str) -> tuple[Any, Any, list[list[int]], list[int]]:
    """The whole model, the one of two blocks less, validation sentences, and which blocks went."""
    whole, out = tiny(family), tmp_path / "out"
    whole.save_pretrained(tmp_path / "whole")
    sentences = samples_in(tmp_path, family)
    samples = ["--train-samples", tmp_path / "train.jsonl", "--val-samples", tmp_path / "val.jsonl"]
    program("prune", tmp_path / "whole", "--blocks", "2", "--weights", "f32", *options, *samples, "--out", out)
    shorter = type(whole).from_pretrained(out).eval()
    [row] = [row for row in csv.DictReader((out / "prune.csv").open()) if row["model"] == "chosen"]
    removed = [int(block) - 1 for block in row["removed"].split()]
    assert len(removed) == 2 and int(row["blocks"]) == len(jl.torch.wrap(shorter).blocks) == 2
    assert int(row["parameters"]) == sum(p.numel() for p in {id(p): p for p in shorter.parameters()}.values())
    return whole, shorter, sentences, removed


@pytest.mark.parametrize("family", OUTPUTS)
def test_states_and_figures_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    _, shorter, sentences, _ = pruned(family, tmp_path)
    run = tmp_path / "run"
    samples = ["--train-samples", tmp_path / "train.jsonl", "--val-samples", tmp_path / "val.jsonl"]
    program("samples", "--model", tmp_path / "out", *samples, "--pairs", "to-final", "--out", run)
    program("states", "--out", run)
    from safetensors.numpy import load_file

    m = jl.torch.wrap(shorter)
    ours = torch.tensor(load_file(run / "states" / "val" / "02.safetensors")["states"])
    positions = [json.loads(line)["position"] for line in (tmp_path / "val.jsonl").open()]
    with torch.no_grad():
        theirs = [shorter(torch.tensor([ids])).logits[0, position] for ids, position in zip(sentences, positions)]
        theirs = torch.stack(theirs)
        assert float((m.logits(ours) - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())
    # What the program says of its own model is what the files do.
    [row] = [row for row in csv.DictReader((tmp_path / "out" / "prune.csv").open()) if row["model"] == "chosen"]
    losses = []
    with torch.no_grad():
        for ids, line in zip(sentences, (tmp_path / "val.jsonl").open()):
            sample, logits = json.loads(line), shorter(torch.tensor([ids])).logits[0].log_softmax(-1)
            if family in MASKED:
                losses.append(-logits[sample["position"], sample["target"]])
            else:
                losses.extend(-logits[:-1].gather(1, torch.tensor(ids[1:])[:, None]).flatten())
    assert float(row["perplexity"]) == pytest.approx(float(torch.stack(losses).mean().exp()), rel=1e-5)


@pytest.mark.parametrize("family", [family for family, output in OUTPUTS.items() if output])
def test_a_map_by_a_hook_does_the_same(family: str, tmp_path: Path) -> None:
    whole, shorter, sentences, removed = pruned(family, tmp_path, "--form", "fold", "--ridge", "0", "--objective", "mse")
    own, other = jl.torch.wrap(whole).blocks, jl.torch.wrap(shorter).blocks
    kept = [block for block in range(len(own)) if block not in removed]

    def layer(block: Any) -> tuple[Any, Any]:
        module = block.get_submodule(OUTPUTS[family])
        weight = module.weight.detach().double()
        return (weight.T if family == "GPT2" else weight), module.bias

    def leave_out(_module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    logits = [shorter(torch.tensor([ids])).logits for ids in sentences[:8]]
    hooks = [own[block].register_forward_hook(leave_out, with_kwargs=True) for block in removed]
    norms = [block.output.LayerNorm if family == "Bert" else None for block in own]
    for at, block in enumerate(kept):
        (weight, bias), (new, new_bias) = layer(own[block]), layer(other[at])
        map_ = (new @ torch.linalg.pinv(weight)).float()
        shift = 0 if bias is None else (new_bias - map_ @ bias).detach()
        module = own[block].get_submodule(OUTPUTS[family])
        hooks.append(module.register_forward_hook(lambda _m, _a, out, map_=map_, shift=shift: out @ map_.T + shift))
        until = (kept[at + 1] if at + 1 < len(kept) else len(own)) - 1
        if family == "Bert":
            own[block].output.LayerNorm = norms[until]
    with torch.no_grad():
        for ids, expected in zip(sentences, logits):
            scale = float(expected.abs().max())
            assert float((whole(torch.tensor([ids])).logits - expected).abs().max()) <= 1e-4 * scale


def test_what_is_chosen_is_better_than_what_is_dropped(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program("prune", "tiny-gpt2", "--blocks", "2", "--train", "600", "--val", "60", "--compare", "--out", out)
    rows = {row["model"]: row for row in csv.DictReader((out / "prune.csv").open())}
    assert set(rows) == {"whole", "chosen", "dropped", "dropped, by angle", "folded, by angle", "folded, same blocks"}
    kl = {model: float(row["kl"]) for model, row in rows.items()}
    assert kl["whole"] == 0 < kl["chosen"] < kl["folded, same blocks"] and kl["chosen"] < kl["dropped"]
    # A second command does not replace it unasked, and what it wrote loads with its tokenizer.
    with pytest.raises(subprocess.CalledProcessError):
        program("prune", "tiny-gpt2", "--blocks", "1", "--train", "60", "--val", "20", "--out", out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert model(**tokenizer("The capital of France is", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


@pytest.mark.parametrize("family", ["GPT2", "Llama", "GPTNeoX", "OPT", "Falcon"])
def test_models_in_memory_become_smaller(family: str, tmp_path: Path) -> None:
    whole = tiny(family)
    rng = np.random.default_rng(5)
    texts = [rng.integers(5, VOCAB, size=rng.integers(8, 16)).tolist() for _ in range(330)]
    test = torch.tensor(rng.integers(5, VOCAB, size=(40, 12)))

    def kl(other: Any) -> float:
        with torch.no_grad():
            own, their = whole(test).logits.log_softmax(-1), other(test).logits.log_softmax(-1)
        return float((own.exp() * (own - their)).sum(-1).mean())

    before = {name: value.clone() for name, value in whole.state_dict().items()}
    made = {form: jl.torch.prune(whole, texts, 2, form=form, progress=False) for form in ("refit", "fold", "drop")}
    assert kl(made["refit"]) < kl(made["drop"]) and kl(made["fold"]) < kl(made["drop"])
    assert all(torch.equal(before[name], value) for name, value in whole.state_dict().items())
    # It saves, loads and generates as any other of its class.
    smaller = made["refit"]
    smaller.save_pretrained(tmp_path)
    loaded = type(whole).from_pretrained(tmp_path).eval()
    assert len(jl.torch.wrap(loaded).blocks) == LAYERS - 2
    with torch.no_grad():
        assert torch.equal(loaded(test).logits, smaller(test).logits)
        loaded.generation_config.eos_token_id = None
        out = loaded.generate(test[:2], max_new_tokens=5, do_sample=False, attention_mask=torch.ones_like(test[:2]))
        assert out[:, -1].tolist() == loaded(out[:, :-1], use_cache=False).logits[:, -1].argmax(-1).tolist()


def test_what_cannot_be_pruned_says_so() -> None:
    texts = [[5, 6, 7, 8, 9]] * 20
    with pytest.raises(ValueError, match="a norm stands behind it"):
        jl.torch.prune(tiny("Gemma2"), texts, 1)
    assert len(jl.torch.wrap(jl.torch.prune(tiny("Gemma2"), texts, 1, form="drop", progress=False)).blocks) == LAYERS - 1
    for wrong, message in (
        (lambda: jl.torch.prune(tiny("Bert"), texts, 1), "both sides"),
        (lambda: jl.torch.prune(tiny("GPT2"), texts, 4), "from 1 to 3"),
        (lambda: jl.torch.prune(tiny("GPT2"), [[5]], 1), "0 texts"),
        (lambda: jl.torch.prune(tiny("GPT2"), texts, 1, form="mend"), "give 'refit'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
