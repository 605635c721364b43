#!/usr/bin/env python3
"""The loop that Jacobian lenses are published with, in PyTorch, timed at SmolLM2's shape: the prompt repeated, one forward
pass, then one backward pass for each batch of one-hot cotangents at all targets at once, of which each repetition has one.

    bench_jacobian.py [--cotangents 64] [--batch 8,16,32] [--threads 2]      (needs torch and transformers)

`cargo bench --bench jacobian` does the same here. Weights are random, which changes nothing about the time.
"""
import argparse
import time

import torch
import transformers

parser = argparse.ArgumentParser()
parser.add_argument("--cotangents", type=int, default=64)
parser.add_argument("--batch", default="8,16,32")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--rounds", type=int, default=2)
options = parser.parse_args()
torch.set_num_threads(options.threads)
config = transformers.LlamaConfig(
    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
    num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100000)
torch.manual_seed(0)
model = transformers.LlamaModel(config).eval().requires_grad_(False)
ids = torch.randint(0, config.vocab_size, (1, 128))
targets = slice(16, 127)


def once(batch):
    kept = []
    hooks = [layer.register_forward_hook(
        lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out)) for layer in model.layers]
    embedded = model.embed_tokens(ids.expand(batch, -1)).requires_grad_(True)
    model(inputs_embeds=embedded, use_cache=False)
    for hook in hooks:
        hook.remove()
    last, sources = kept[-1], kept[:-1]
    rows = []
    for first in range(0, options.cotangents, batch):
        cotangent = torch.zeros_like(last)
        for at in range(batch):
            cotangent[at, targets, first + at] = 1.0
        gradients = torch.autograd.grad(last, sources, cotangent, retain_graph=True)
        rows.append([gradient[:, targets].mean(1) for gradient in gradients])
    return rows


for batch in map(int, options.batch.split(",")):
    seconds = []
    for _ in range(options.rounds):
        began = time.perf_counter()
        once(batch)
        seconds.append(time.perf_counter() - began)
    print(f"torch {torch.__version__}, {options.threads} threads, {options.cotangents} cotangents by {batch}: "
          f"{min(seconds):.2f} s", flush=True)
