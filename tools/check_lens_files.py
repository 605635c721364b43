#!/usr/bin/env python3
"""Holds lenses that jumplens exports against PyTorch: they load with `weights_only=True`, and give the top tokens that
`jumplens lens` gives.

    python tools/check_lens_files.py [--program target/release/jumplens]

Fits a Jacobian lens of the bundled GPT-2 on a few prompts, exports it as a Jacobian lens and as a tuned lens, loads both in
PyTorch by the rules of their formats (number l of `J` is of the output of block l; a translator is h + W h + b, from the
embedding on), and compares the best token of every layer and position of some texts with those of the program, which reads the
files back. Needs torch and transformers; was run with torch 2.15.0 and transformers 5.23.0. Exit code 1 where something differs.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "crates/jumplens-assets/assets/tiny-gpt2"
TEXTS = ["The capital of France is", "He was born in the year 1950 and later moved to the city of London.", "One, two, three,"]

parser = argparse.ArgumentParser()
parser.add_argument("--program", default=str(ROOT / "target/release/jumplens"))
options = parser.parse_args()


def call(*args):
    done = subprocess.run([options.program, "-q", *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{args}: {done.stderr}")
    return done.stdout


def best(readings):
    """By text, layer and position."""
    return [{layer: [cell["top"][0]["id"] for cell in row] for layer, row in zip(cast["layers"], cast["cells"])}
            for reading in readings for cast in reading["casts"]]


model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
wrong = 0
with tempfile.TemporaryDirectory() as folder, torch.no_grad():
    folder = pathlib.Path(folder)
    call("fit", "--lens", "jacobian", "--model", "tiny-gpt2", "--prompts", 20, "--prompt-tokens", 64, "--out", folder / "own")
    export = ["shortcuts", "export", folder / "own", "--cast", "jacobian", "--format"]
    call(*export, "jacobian", "--out", folder / "lens.pt")
    call(*export, "tuned-lens", "--out", folder / "tuned")
    call("shortcuts", "import", folder / "lens.pt", "--model", "tiny-gpt2", "--out", folder / "back")
    call("shortcuts", "import", folder / "tuned", "--model", "tiny-gpt2", "--out", folder / "translators")
    lens = torch.load(folder / "lens.pt", weights_only=True)
    last, d = model.config.n_layer, model.config.n_embd
    assert set(lens) == {"J", "n_prompts", "source_layers", "d_model", "metadata"}, set(lens)
    assert sorted(lens["J"]) == lens["source_layers"] == list(range(last - 1)), lens["source_layers"]
    assert all(m.dtype == torch.float16 and m.shape == (d, d) for m in lens["J"].values())
    assert (lens["n_prompts"], lens["d_model"]) == (20, d)
    params = torch.load(folder / "tuned/params.pt", weights_only=True)
    config = json.loads((folder / "tuned/config.json").read_text())
    assert set(params) == {f"{l}.{part}" for l in range(last) for part in ("weight", "bias")}
    assert (config["d_model"], config["num_hidden_layers"], config["lens_type"]) == (d, last, "linear_tuned_lens")
    for name, cast in [("back", "jacobian"), ("translators", "tuned")]:
        cells = close = 0
        for text in TEXTS:
            reading = json.loads(call("lens", "--shortcuts", folder / name, "--cast", cast, "--format", "json", text))
            ids = torch.tensor([[token["id"] for token in reading["tokens"]]])
            states = model(ids, output_hidden_states=True).hidden_states
            for layer, row in best([reading])[0].items():
                if layer == last or (name == "back" and layer == 0):
                    continue
                h = states[layer][0, torch.tensor(reading["positions"])]
                if name == "back":
                    moved = h @ lens["J"][layer - 1].float().T
                else:
                    moved = h + h @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]
                logits = model.lm_head(model.transformer.ln_f(moved))
                for said, own in zip(row, logits):
                    cells += 1
                    # Tokens whose logits are all but equal may change places.
                    close += int(said != own.argmax())
                    wrong += int(own.max() - own[said] > 1e-3)
        print(f"{name}: {cells} cells, {close} with another token of nearly the same logit, {wrong} wrong")
        if cells == 0:
            sys.exit("nothing was compared")
sys.exit(1 if wrong else 0)
