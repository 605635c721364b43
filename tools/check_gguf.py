#!/usr/bin/env python3
"""Loads GGUF files that `jumplens prune` writes in llama.cpp, and holds its logits against the same models in transformers.

    tools/check_gguf.py [--program FILE] [--positions N] [--only NAME]

Needs PyTorch, transformers, gguf and llama-cpp-python (`pip install --no-binary llama-cpp-python llama-cpp-python` builds it in some
minutes; it is not part of CI). Makes random tiny models of the families that GGUF files are written of, takes a block out of each, and of the
bundled GPT-2 three and of a real model, where `tools/fetch_real_models.sh smollm2` has fetched it, four; writes each as a folder in f32
and as GGUF in f32, f16 and q8_0. Of Llamas three sub-modules are dropped as well, and held against the whole model with 0 for the output
projections of these; and once more with linear maps in the place of attentions.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from gguf import GGUFReader
from gguf.quants import dequantize
from llama_cpp import Llama

ROOT = pathlib.Path(__file__).resolve().parent.parent
#: How far logits may be off, as a share of the largest, by format; and at how many positions the top token has to be the same.
FORMATS = {"f32": (2e-3, 0.99), "f16": (1e-2, 0.99), "q8_0": (1e-1, 0.0)}


def byte_level(folder: pathlib.Path, vocab: int) -> None:
    """A tokenizer of the 256 bytes and of what is left of the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = {letter: i for i, letter in enumerate(letters)}
    merges = []
    for first in letters:
        for second in letters[:4]:
            if len(tokens) < vocab and first + second not in tokens:
                tokens[first + second] = len(tokens)
                merges.append((first, second))
    tokenizer = Tokenizer(models.BPE(tokens, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def random_model(family: str, folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    vocab = 320
    sizes = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2}
    llama = {
        **sizes, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }  # fmt: skip
    scaling = {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    config = {
        "GPT2": {**sizes, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128},
        "Llama": llama,
        "Llama with scaled positions": {**llama, "rope_parameters": scaling},
        "Qwen2": llama,
        "Qwen3": {**llama, "head_dim": 32},
    }[family]
    name = family.split()[0]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if "scaled" in family:
            # So that attentions are what it can do without.
            for layer in model.model.layers:
                layer.mlp.down_proj.weight.mul_(5)
    model.save_pretrained(folder)
    byte_level(folder, vocab)


def compare(name: str, file: pathlib.Path, texts: np.ndarray, expected: np.ndarray, limits: tuple[float, float]) -> bool:
    """Whether llama.cpp's logits are those that are expected."""
    most, same = limits
    length = texts.shape[1]
    llama = Llama(str(file), n_ctx=length, logits_all=True, verbose=False, n_threads=2)
    off, agree = 0.0, []
    for ids, logits in zip(texts, expected):
        llama.reset()
        llama.eval(ids.tolist())
        got = np.asarray(llama.scores[:length])
        off = max(off, float(np.abs(got - logits).max() / np.abs(logits).max()))
        agree.append(got.argmax(-1) == logits.argmax(-1))
    share = float(np.mean(agree))
    good = off <= most and share >= same
    verdict = "" if good else "  FAILED"
    print(f"{name}: logits off by {off:.1e} of the largest, the same top token at {100 * share:.1f} %{verdict}", flush=True)
    return good


def without(model: torch.nn.Module, removed: str, file: pathlib.Path | None) -> None:
    """Makes 0 of what the blocks and sub-modules add that a line of `prune.csv` names, of attentions what the map in `file` does."""
    for what in removed.split():
        block, _, part = what.partition(".")
        layer = model.model.layers[int(block) - 1]
        if part == "attn" and file is not None:
            name = f"blk.{int(block) - 1}.attn_output.weight"
            [tensor] = [tensor for tensor in GGUFReader(file).tensors if tensor.name == name]
            map_ = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
            layer.self_attn.register_forward_hook(
                lambda _m, _a, kwargs, output, map_=map_: (kwargs["hidden_states"] @ map_.T, *output[1:]), with_kwargs=True
            )
            continue
        with torch.no_grad():
            for projection in {"attn": [layer.self_attn.o_proj], "ffn": [layer.mlp.down_proj]}.get(
                part, [layer.self_attn.o_proj, layer.mlp.down_proj]
            ):
                for parameter in projection.parameters():
                    parameter.zero_()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/jumplens", metavar="FILE")
    parser.add_argument("--positions", type=int, default=500, metavar="N", help="positions to compare at (default: 500)")
    parser.add_argument("--only", metavar="NAME", help="check models whose name begins so")
    arguments = parser.parse_args()
    at = pathlib.Path(tempfile.mkdtemp())
    families = ["GPT2", "Llama", "Llama with scaled positions", "Qwen2", "Qwen3"]
    models: list[tuple[str, str, int, str]] = [("tiny-gpt2", "tiny-gpt2", 3, "600")]
    for family in families:
        folder = at / family.replace(" ", "-")
        folder.mkdir()
        random_model(family, folder)
        models.append((family, str(folder), 1, "200"))
    real = sorted((ROOT / "target/real-models/smollm2").glob("*.gguf"))
    models += [("SmolLM2", str(file), 4, "300") for file in real]
    failed = []
    for name, model, blocks, train in models:
        if not name.startswith(arguments.only or ""):
            continue
        out = at / f"{name.replace(' ', '-')}-out"
        prune = [arguments.program, "-q", "prune", model, "--blocks", str(blocks), "--form", "fold", "--train", train, "--val", "20"]
        subprocess.run([*prune, "--weights", "f32", "--out", out], check=True, stdout=subprocess.DEVNULL)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        vocab = theirs.get_input_embeddings().weight.shape[0]
        length = min(100, getattr(theirs.config, "max_position_embeddings", 100))
        texts = np.random.default_rng(0).integers(3, vocab, size=(-(-arguments.positions // length), length))
        with torch.no_grad():
            expected = theirs(torch.tensor(texts)).logits.numpy()
        for weights, limits in FORMATS.items():
            file = out.with_suffix(f".{weights}.gguf")
            subprocess.run([*prune, "--weights", weights, "--out", file], check=True, stdout=subprocess.DEVNULL)
            failed += [] if compare(f"{name}, {weights}", file, texts, expected, limits) else [name]
        if not name.startswith("Llama"):
            continue
        for linear, (weights, limits) in itertools.product((False, True), FORMATS.items()):
            theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
            file = out.with_suffix(f".parts-{linear}.{weights}.gguf")
            parts = ["--parts", "3", "--form", "drop", "--train", train, "--val", "20", "--weights", weights, "--out", file]
            parts += ["--linear-attention"] if linear else []
            subprocess.run([arguments.program, "-q", "prune", model, *parts], check=True, stdout=subprocess.DEVNULL)
            [row] = [row for row in csv.DictReader(file.with_suffix(".csv").open()) if row["model"] == "chosen"]
            without(theirs, row["removed"], file if linear else None)
            with torch.no_grad():
                expected = theirs(torch.tensor(texts)).logits.numpy()
            what = f"{name} {'with maps for' if linear else 'without'} {row['removed']}"
            failed += [] if compare(f"{what}, {weights}", file, texts, expected, limits) else [name]
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
