#!/usr/bin/env python3
"""The recipe of the package `tuned-lens` (Belrose et al., arXiv 2303.08112) on the training sentences of a run, and the KL of
its lenses on the run's validation samples, layer by layer: what `tuned` of `jumplens run` is held against.

    tuned_recipe.py MODEL RUN [--layers 0,1,2] [--tokens 4096] [--steps 250]        (needs torch, transformers and safetensors)

MODEL is a GPT-2's folder, RUN a run folder of it with states. SGD with Nesterov momentum 0.9, lr 1·(1 − 0.9) falling linearly to
0, weight decay 1e-3, gradients clipped to norm 1, residual form from zero. The package takes 2^18 tokens a step; here it is 2^12.
"""
import argparse
import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("run", type=pathlib.Path)
parser.add_argument("--layers")
parser.add_argument("--tokens", type=int, default=4096)
parser.add_argument("--steps", type=int, default=250)
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(options.threads)
model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval().requires_grad_(False)
n_layers, d = model.config.n_layer, model.config.n_embd
layers = [int(layer) for layer in options.layers.split(",")] if options.layers else list(range(n_layers))


def log_p(states):
    return torch.log_softmax(model.lm_head(model.transformer.ln_f(states)), -1)


def kl(states, target):
    return (target.exp() * (target - log_p(states))).sum(-1)


def states_of(split, layer):
    return load_file(options.run / "states" / split / f"{layer:02d}.safetensors")["states"]


@torch.no_grad()
def all_positions(sentences):
    """States of the layers that are asked for and of the last, at every position."""
    kept = {layer: [] for layer in [*layers, n_layers]}
    for first in range(0, len(sentences), 64):
        batch = sentences[first:first + 64]
        longest = max(map(len, batch))
        ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in batch])
        is_there = torch.tensor([[True] * len(ids) + [False] * (longest - len(ids)) for ids in batch])
        x = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(longest))
        for layer in range(n_layers + 1):
            if layer in kept:
                kept[layer].append(x[is_there])
            if layer < n_layers:
                out = model.transformer.h[layer](x)
                x = out[0] if isinstance(out, tuple) else out
    return {layer: torch.cat(states) for layer, states in kept.items()}


sentences = {}
for line in (options.run / "samples" / "train.jsonl").open():
    ids = json.loads(line)["ids"]
    sentences[tuple(ids)] = ids
states = all_positions(sorted(sentences.values(), key=len))
order = torch.randperm(len(states[n_layers]))
last = states[n_layers][order]
with torch.no_grad():
    held = log_p(states_of("val", n_layers))
print(f"{len(order)} tokens, {options.steps} steps of {options.tokens}", flush=True)
for layer in layers:
    own = states[layer][order]
    weight = torch.zeros(d, d, requires_grad=True)
    bias = torch.zeros(d, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1 - 0.9, momentum=0.9, nesterov=True, weight_decay=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0, 1 - step / options.steps))
    for step in range(options.steps):
        rows = torch.arange(step * options.tokens, (step + 1) * options.tokens) % len(order)
        h = own[rows]
        with torch.no_grad():
            target = log_p(last[rows])
        loss = kl(h + h @ weight.T + bias, target).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([weight, bias], 1.0)
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        h = states_of("val", layer)
        print(f"layer {layer}: KL {kl(h + h @ weight.T + bias, held).mean():.4f}", flush=True)
