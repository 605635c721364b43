#!/usr/bin/env python3
"""Checkpoints with one thing wrong, to see what `jumplens run` and `jumplens doctor` make of them.

    tools/break_model.py MODEL OUT [VARIANT …]

MODEL is a folder in Hugging Face layout or a GGUF file that transformers reads; OUT/VARIANT is a folder in Hugging Face
layout for each variant, all of them where none is named:

    sound          nothing is wrong
    rope-layout    the rows of q and k in the other RoPE layout (pairs side by side instead of half a head apart)
    embedding      rows of the embedding rolled by one: each token gets the vector of the one before it (and, where the
                   head is tied to it, each logit too)
    ids            the tokenizer gives every token the id after its own
    rope-base-10, rope-base-100, rope-base-x10
                   the base of RoPE divided by 10 or 100, or multiplied by 10
    epsilon        the norms' epsilon 1,000 times as large
    positions      learnt positions in reversed order
    no-bos, bos    the tokenizer puts no token before a sentence, or its BOS

Those that do not apply to the model are passed over. Needs torch, transformers and safetensors, and for GGUF gguf and
accelerate.
"""
import json
import pathlib
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

ROPE = ("rope-base-10", "rope-base-100", "rope-base-x10")
VARIANTS = ("sound", "rope-layout", "embedding", "ids", *ROPE, "epsilon", "positions", "no-bos", "bos")
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight",
              "bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight")
POSITIONS = ("transformer.wpe.weight", "wpe.weight", "bert.embeddings.position_embeddings.weight")


def read(path):
    """Configuration, tensors and tokenizer.json of a model."""
    path = pathlib.Path(path)
    if path.suffix == ".gguf":
        folder, gguf = path.parent, path.name
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
        config = model.config.to_dict()
        config.pop("quantization_config", None)
        tensors = {name: tensor for name, tensor in model.state_dict().items()
                   if name != "lm_head.weight" or not config.get("tie_word_embeddings")}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
        backend = tokenizer.backend_tokenizer
        if config["model_type"] == "llama" and config["vocab_size"] == 49152:
            # SmolLM2, whose way to split a text transformers does not know from a GGUF file.
            from tokenizers import pre_tokenizers
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        return config, tensors, json.loads(backend.to_str())
    config = json.loads((path / "config.json").read_text())
    if (path / "model.safetensors").exists():
        tensors = load_file(path / "model.safetensors")
    else:
        tensors = torch.load(path / "pytorch_model.bin", map_location="cpu", weights_only=True)
    if (path / "tokenizer.json").exists():
        return config, tensors, json.loads((path / "tokenizer.json").read_text())
    tokenizer = transformers.BertTokenizer(str(path / "vocab.txt"), do_lower_case=False)
    return config, tensors, json.loads(tokenizer.backend_tokenizer.to_str())


def interleaved(weight, heads):
    """Rows of each head as 0, half, 1, half + 1, …"""
    rows = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return rows.transpose(1, 2).reshape(weight.shape).contiguous()


def shifted_ids(tokenizer, vocab):
    """Every id one more, the last one 0."""
    def next_id(token):
        return (token + 1) % vocab

    tokenizer = json.loads(json.dumps(tokenizer))
    tokenizer["model"]["vocab"] = {token: next_id(i) for token, i in tokenizer["model"]["vocab"].items()}
    for token in tokenizer.get("added_tokens", []):
        token["id"] = next_id(token["id"])
    post = tokenizer.get("post_processor") or {}
    for part in post.get("processors", [post]):
        for special in part.get("special_tokens", {}).values():
            special["ids"] = [next_id(i) for i in special["ids"]]
        for end in ("cls", "sep"):
            if end in part:
                part[end][1] = next_id(part[end][1])
    return tokenizer


def beginning_with(tokenizer, bos, bos_id):
    """With BOS, or nothing, before a sentence."""
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
    begin = [{"SpecialToken": {"id": bos, "type_id": 0}}] if bos else []
    special = {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}} if bos else {}
    pair = [{"Sequence": {"id": "B", "type_id": 1}}]
    return {**tokenizer, "post_processor": {
        "type": "TemplateProcessing", "single": begin + sequence, "pair": begin + sequence + pair,
        "special_tokens": special}}


def broken(variant, config, tensors, tokenizer):
    """The variant; None where it does not apply."""
    config, tensors = dict(config), dict(tensors)
    if variant == "rope-layout":
        heads = config.get("num_attention_heads")
        of = {"q_proj": heads, "k_proj": config.get("num_key_value_heads") or heads}
        names = [(name, part) for name in tensors for part in of if f".{part}." in name]
        if not names or "opt" in config["model_type"]:
            return None
        for name, part in names:
            tensors[name] = interleaved(tensors[name], of[part])
    elif variant == "embedding":
        name = next(name for name in EMBEDDINGS if name in tensors)
        tensors[name] = tensors[name].roll(1, 0)
    elif variant == "ids":
        tokenizer = shifted_ids(tokenizer, config["vocab_size"])
    elif variant in ROPE:
        base = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta")
        if base is None:
            return None
        config.pop("rope_parameters", None)
        config["rope_theta"] = base * {"rope-base-10": 0.1, "rope-base-100": 0.01, "rope-base-x10": 10.0}[variant]
    elif variant == "epsilon":
        key = next(key for key in ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps") if key in config)
        config[key] *= 1000
    elif variant == "positions":
        name = next((name for name in POSITIONS if name in tensors), None)
        if name is None:
            return None
        tensors[name] = tensors[name].flip(0)
    elif variant in ("no-bos", "bos"):
        if config["model_type"] == "bert":
            return None
        id_of = {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
        bos = id_of.get(config.get("bos_token_id"))
        if variant == "bos" and bos is None:
            return None
        tokenizer = beginning_with(tokenizer, bos if variant == "bos" else None, config.get("bos_token_id"))
    return config, tensors, tokenizer


def main():
    model, out, *variants = sys.argv[1:]
    config, tensors, tokenizer = read(model)
    for variant in variants or VARIANTS:
        made = broken(variant, config, tensors, tokenizer)
        if made is None:
            print(f"{variant}: does not apply")
            continue
        folder = pathlib.Path(out) / variant
        folder.mkdir(parents=True, exist_ok=True)
        new_config, new_tensors, new_tokenizer = made
        (folder / "config.json").write_text(json.dumps(new_config, indent=2))
        (folder / "tokenizer.json").write_text(json.dumps(new_tokenizer, ensure_ascii=False))
        weights = folder / "model.safetensors"
        weights.unlink(missing_ok=True)
        sound = folder.parent / "sound/model.safetensors"
        if sound.exists() and all(new_tensors[name] is tensors[name] for name in tensors):
            weights.symlink_to(sound.resolve())
        else:
            save_file({name: tensor.contiguous().clone() for name, tensor in new_tensors.items()}, weights,
                      metadata={"format": "pt"})
        print(folder)


if __name__ == "__main__":
    main()
