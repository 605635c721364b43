#!/usr/bin/env python3
"""Every field of transformers' configuration classes at a value other than its default: what comes of it.

    tools/config_table.py [--write FILE.jsonl] [--program PATH] [--only FAMILY]

needs torch, transformers (5.24, which is followed; 4.49 as well, for what differs), safetensors and numpy. For every
family and field it makes a tiny checkpoint whose weights follow from the tensors' names by a formula, runs transformers
on it, and prints what differs from what `EXPECTED` allows. `--write` keeps the outcome for `tests/config_table.rs`, which
makes the same checkpoints. `--program` runs a built jumplens on each instead, from its files to the states.

A new family takes an entry in `FAMILIES`, and in `VALUES` the fields that no other family has.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np

warnings.filterwarnings("ignore")
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM  # noqa: E402

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
IDS = [(7 * i + 3) % 32 for i in range(14)]
POSITIONS = [4, 13]
TOLERANCE = 1e-5

LLAMA = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "max_position_embeddings": 32}
# The class, the fields that the table's models have, the path to the blocks, and whether positions are rotary.
FAMILIES = {
    "gpt2": ("GPT2Config", {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
             "transformer.h", False),
    "bert": ("BertConfig", {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                            "num_attention_heads": 2, "max_position_embeddings": 32}, "bert.encoder.layer", False),
    "llama": ("LlamaConfig", LLAMA, "model.layers", True),
    "mistral": ("MistralConfig", LLAMA, "model.layers", True),
    "qwen2": ("Qwen2Config", LLAMA, "model.layers", True),
    "qwen3": ("Qwen3Config", LLAMA | {"head_dim": 8}, "model.layers", True),
    "gemma": ("GemmaConfig", LLAMA | {"head_dim": 8}, "model.layers", True),
    "gemma2": ("Gemma2Config", LLAMA | {"head_dim": 8}, "model.layers", True),
    "gemma3_text": ("Gemma3TextConfig", LLAMA | {"head_dim": 8, "sliding_window_pattern": 2},
                    "model.layers", True),
    "gpt_neox": ("GPTNeoXConfig", {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                                   "num_attention_heads": 2, "max_position_embeddings": 32}, "gpt_neox.layers", True),
    "opt": ("OPTConfig", {"vocab_size": 32, "hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2,
                          "num_attention_heads": 2, "max_position_embeddings": 32, "word_embed_proj_dim": 16},
            "model.decoder.layers", False),
}
ACTIVATIONS = ["gelu", "gelu_10", "gelu_fast", "gelu_new", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh",
               "gelu_accurate", "hardswish", "laplace", "leaky_relu", "linear", "mish", "quick_gelu", "relu", "relu2",
               "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "prelu", "xielu"]
# By field: values other than the default. A dictionary is several fields at once; `...` leaves the field out.
VALUES = {
    "_attn_implementation_autoset": [True], "_name_or_path": ["somewhere"], "_remove_final_layer_norm": [True],
    "activation_function": ACTIVATIONS, "hidden_act": ACTIVATIONS,
    "hidden_activation": ["gelu_pytorch_tanh", "gelu", "relu", None],
    "add_cross_attention": [True, {"is_decoder": True, "add_cross_attention": True}],
    "architectures": [None, ["Elsewhere"]], "attention_bias": [True, False, None], "mlp_bias": [True, None],
    "attention_dropout": [0.5], "attention_probs_dropout_prob": [0.5], "attn_pdrop": [0.5], "embd_pdrop": [0.5],
    "resid_pdrop": [0.5], "dropout": [0.5], "hidden_dropout": [0.5], "hidden_dropout_prob": [0.5],
    "classifier_dropout": [0.5], "layerdrop": [0.5], "summary_first_dropout": [0.5],
    "attn_logit_softcapping": [2.0, None], "final_logit_softcapping": [2.0, None],
    "query_pre_attn_scalar": [4],
    "bad_words_ids": [[[3]]], "begin_suppress_tokens": [[3]], "suppress_tokens": [[3]], "bos_token_id": [3],
    "eos_token_id": [3], "pad_token_id": [3], "sep_token_id": [3], "decoder_start_token_id": [3],
    "forced_bos_token_id": [3], "forced_eos_token_id": [3], "cache_implementation": ["static"],
    "chunk_size_feed_forward": [4], "cross_attention_hidden_size": [8], "diversity_penalty": [0.5], "do_sample": [True],
    "do_layer_norm_before": [False, None], "dtype": ["float16"], "torch_dtype": ["float16"], "early_stopping": [True],
    "enable_bias": [False], "encoder_no_repeat_ngram_size": [2], "exponential_decay_length_penalty": [[2, 1.5]],
    "ffn_dim": [20], "intermediate_size": [20], "n_inner": [20, None], "finetuning_task": ["mnli"],
    "head_dim": [4, 12, 24], "hidden_size": [24], "n_embd": [24], "id2label": [{"id2label": {"0": "a", "1": "b", "2": "c"}}],
    "label2id": [{"label2id": {"a": 0, "b": 1, "c": 2}, "id2label": {"0": "a", "1": "b", "2": "c"}}], "init_std": [0.5],
    "initializer_range": [0.5], "is_causal": [False], "is_decoder": [True], "is_encoder_decoder": [True],
    "layer_norm_elementwise_affine": [False], "layer_norm_eps": [0.1], "layer_norm_epsilon": [0.1],
    "rms_norm_eps": [0.1], "length_penalty": [0.5], "max_length": [7], "min_length": [7],
    "layer_types": [["full_attention", "sliding_attention"],
                    {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5, "use_sliding_window": True},
                    {"layer_types": ["full_attention", "full_attention"], "sliding_window": 5, "use_sliding_window": True},
                    ["chunked_attention", "full_attention"], ["full_attention"]],
    "max_position_embeddings": [40], "n_positions": [40],
    "max_window_layers": [{"max_window_layers": 1, "use_sliding_window": True, "sliding_window": 5},
                          {"max_window_layers": 0, "use_sliding_window": True, "sliding_window": 5}, 1],
    "n_head": [4], "num_attention_heads": [4], "n_layer": [3], "num_hidden_layers": [3],
    "num_key_value_heads": [2, {"num_attention_heads": 4, "num_key_value_heads": 2}, None],
    "no_repeat_ngram_size": [2], "num_beam_groups": [2], "num_beams": [2], "num_return_sequences": [2],
    "output_attentions": [True], "output_hidden_states": [True], "output_scores": [True], "prefix": ["a"],
    "partial_rotary_factor": [0.5], "position_embedding_type": ["relative_key"], "pretraining_tp": [2],
    "problem_type": ["regression"], "pruned_heads": [{"pruned_heads": {"0": [1]}}], "remove_invalid_values": [True],
    "reorder_and_upcast_attn": [True], "repetition_penalty": [1.5], "return_dict": [True],
    "return_dict_in_generate": [True], "rotary_emb_base": [10], "rotary_pct": [0.5, 1.0],
    "scale_attn_by_inverse_layer_idx": [True], "scale_attn_weights": [False, None],
    "sliding_window_pattern": [1, 3], "rope_local_base_freq": [10.0],
    "sliding_window": [5, None, {"sliding_window": 5, "use_sliding_window": True}], "summary_activation": ["tanh"],
    "summary_proj_to_labels": [False], "summary_type": ["last"], "summary_use_proj": [False],
    "task_specific_params": [{"task_specific_params": {"a": 1}}], "temperature": [0.5], "tf_legacy_loss": [True],
    "tie_encoder_decoder": [True], "tie_word_embeddings": [True, False], "tokenizer_class": ["GPT2Tokenizer"],
    "top_k": [5], "top_p": [0.5], "torchscript": [True], "transformers_version": ["4.0.0"], "type_vocab_size": [3],
    "typical_p": [0.5], "use_bfloat16": [True], "use_bidirectional_attention": [True, False], "use_cache": [False],
    "use_parallel_residual": [False], "use_sliding_window": [{"use_sliding_window": True, "sliding_window": 5,
                                                              "max_window_layers": 0}],
    "vocab_size": [40], "word_embed_proj_dim": [8, None], "rope_theta": [10.0, None],
    "quantization_config": [{"quantization_config": {"quant_method": "gptq", "bits": 4}}],
    # The other names.
    "alias": [{"n_embd": ..., "hidden_size": 24}, {"n_embd": 16, "hidden_size": 24}, {"n_layer": ..., "num_hidden_layers": 3},
              {"n_head": ..., "num_attention_heads": 4}, {"n_positions": ..., "max_position_embeddings": 40}],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 4.0, 5.0]}
# Rotary positions, of heads of width 8.
ROPE = [
    {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0}},
    {"rope_parameters": {"rope_type": "default"}}, {"rope_parameters": {"rope_theta": 10.0}},
    {"rope_parameters": {"rope_theta": 10.0}, "rope_theta": 100.0},
    {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, {"rope_parameters": {"rope_type": "linear"}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 10.0},
    {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 4.0}},
    {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 4.0}},
    {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default", "rope_theta": 10.0}},
    {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10.0}},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 16}},
    {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    {"rope_parameters": YARN}, {"rope_scaling": YARN | {"rope_type": ..., "type": "yarn"}, "rope_theta": 100.0},
    {"rope_parameters": YARN | {"attention_factor": 0.7}}, {"rope_parameters": YARN | {"beta_fast": 4, "beta_slow": 2}},
    {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3}}, {"rope_parameters": YARN | {"mscale": 0.7}},
    {"rope_parameters": YARN | {"truncate": False, "beta_fast": 3}}, {"rope_parameters": YARN | {"factor": None}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, {"rope_parameters": YARN | {"factor": 0.5}},
    {"rope_parameters": LONG}, {"rope_parameters": LONG | {"original_max_position_embeddings": 16}},
    {"rope_parameters": LONG | {"factor": 4.0, "original_max_position_embeddings": 16}},
    {"rope_parameters": LONG | {"attention_factor": 0.7, "original_max_position_embeddings": 16}},
    {"rope_parameters": LONG, "original_max_position_embeddings": 16},
    {"rope_parameters": LONG | {"short_factor": [1.0]}},
    {"rope_parameters": {"rope_type": "proportional", "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"rope_type": "proportional", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "su", "factor": 2.0}}, {"rope_parameters": {"rope_type": "axial"}},
    {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}},
    {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10.0},
                         "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}}},
    {"rope_parameters": {}}, {"rope_scaling": None, "rope_theta": 10.0}, {"rope_parameters": None},
]


def weights(name, shape):
    """Numbers that look random, the same in every language: a hash of the name and the place, between -0.5 and 0.5."""
    state = 2166136261
    for byte in name.encode():
        state = (state ^ byte) * 16777619 % 2**32
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) * 2654435761 + state) % 2**32
    for shift in (16, 15, 13):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(0x45D9F3B) % 2**32
    u = x.astype(np.float64) / 2**32 - 0.5
    if len(shape) == 1:
        u = 1 + 0.6 * u if name.endswith("weight") else 0.6 * u
    return (u if len(shape) == 1 else 0.8 * u).astype(np.float32).reshape(shape)


def merged(base, change):
    """`base` with the fields of `change`; `...` leaves one out, at the top and one level below."""
    out = dict(base)
    for key, value in change.items():
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v is not ...}
        if value is ...:
            out.pop(key, None)
        else:
            out[key] = value
    return out


def model_class(family):
    return AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM


def shapes_of(family, config):
    """Names and shapes of a checkpoint, tied tensors once."""
    own = {k: v for k, v in config.items() if k not in ("quantization_config", "dtype", "torch_dtype")}
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(own))
        model = model_class(family).from_config(AutoConfig.from_pretrained(folder))
    seen, shapes = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen and tensor.is_floating_point():
            seen.add(tensor.data_ptr())
            shapes[name] = list(tensor.shape)
    return shapes


def run(family, blocks, folder):
    """States of every layer and logits, at `POSITIONS`."""
    model = model_class(family).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval() \
        if int(transformers.__version__.split(".")[0]) > 4 else \
        model_class(family).from_pretrained(folder, attn_implementation="eager", torch_dtype=torch.float32).eval()
    states = []
    layers = model.get_submodule(blocks)
    first = lambda value: value[0] if isinstance(value, tuple) else value  # noqa: E731
    layers[0].register_forward_pre_hook(lambda module, args, kwargs: states.append(
        first(args) if args else kwargs["hidden_states"]), with_kwargs=True)
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: states.append(first(out)))
    with torch.no_grad():
        out = model(torch.tensor([IDS]), return_dict=True)
    rows = [state.reshape(len(IDS), -1)[POSITIONS].float().numpy() for state in states]
    return rows, out.logits[0, POSITIONS].float().numpy()


def rows():
    """Family, field and what is changed, for the whole table."""
    for family, (name, base, _, is_rotary) in FAMILIES.items():
        if not hasattr(transformers, name):
            print(f"{family}: transformers {transformers.__version__} has no {name}", file=sys.stderr)
            continue
        known = getattr(transformers, name)()
        fields = set(known.to_dict()) | set(COMMON) | ({"head_dim"} if family == "qwen2" else set())
        fields -= {"model_type", "rope_parameters", "rope_scaling", "_sliding_window_pattern"}
        fields |= {"rope_theta"} if is_rotary and family != "gpt_neox" else set()
        fields |= {"gpt2": {"alias"}, "gpt_neox": {"rotary_pct", "rotary_emb_base", "partial_rotary_factor", "rope_theta"},
                   "bert": {"position_embedding_type"}, "gemma": {"hidden_activation"},
                   "gemma3_text": {"sliding_window_pattern", "rope_local_base_freq"}}.get(family, set())
        for field in sorted(fields):
            for value in VALUES[field]:
                several = isinstance(value, dict)
                change = value if several else {field: value}
                default = getattr(known, field, ...)
                if not several and default is not ... and value == base.get(field, default) and value is not None:
                    continue
                yield family, field, change
        for change in ROPE if is_rotary else []:
            yield family, next(iter(change)), change


# What version 4.49 writes for every class, whether or not 5.24 still has it.
COMMON = ["_name_or_path", "add_cross_attention", "bad_words_ids", "begin_suppress_tokens", "cross_attention_hidden_size",
          "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
          "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "is_causal",
          "is_decoder", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
          "num_beams", "num_return_sequences", "output_scores", "prefix", "pruned_heads", "quantization_config",
          "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
          "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k",
          "top_p", "torch_dtype", "torchscript", "typical_p", "use_bfloat16"]


def table(only):
    """Each row with what transformers makes of it."""
    bases = {}
    for family, field, change in rows():
        if only and family != only:
            continue
        _, base, blocks, _ = FAMILIES[family]
        base = {"model_type": family} | base
        if family not in bases:
            bases[family] = shapes_of(family, base)
        config = merged(base, change)
        row = {"family": family, "field": field, "config": config}
        try:
            row["shapes"] = shapes_of(family, config)
        except Exception as error:  # Whatever transformers raises.
            row["shapes"], row["error"] = bases[family], str(error)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            save_file({name: weights(name, shape) for name, shape in row["shapes"].items()},
                      folder / "model.safetensors", {"format": "pt"})
            (folder / "config.json").write_text(json.dumps(config))
            if "error" not in row:
                try:
                    row["states"], row["logits"] = run(family, blocks, folder)
                except Exception as error:  # Likewise.
                    row["error"] = str(error)
            yield row, folder


def compact(numbers):
    return [float(f"{x:.6g}") for x in np.asarray(numbers).ravel()]


def write(path, only):
    """One line a family's base and a set of shapes, then one line a row."""
    shapes, seen, lines = [], {}, []
    for row, _ in table(only):
        family = row["family"]
        base = {"model_type": family} | FAMILIES[family][1]
        if row["shapes"] not in shapes:
            shapes.append(row["shapes"])
        line = {"family": family, "field": row["field"],
                "set": {k: v for k, v in row["config"].items() if k not in base or base[k] != v},
                "unset": [k for k in base if k not in row["config"]], "shapes": shapes.index(row["shapes"])}
        if "error" in row:
            line["error"] = " ".join(row["error"].split())[:80]
        else:
            outcome = json.dumps([[compact(s) for s in row["states"]], compact(row["logits"])])
            # Most fields are without effect: their outcome is another row's.
            line["outcome"] = seen.setdefault(outcome, len(seen))
            if line["outcome"] == len(seen) - 1 and not any(o.get("outcome") == line["outcome"] for o in lines):
                line["states"], line["logits"] = json.loads(outcome)
        lines.append(line)
        print(family, row["field"], line["set"], line.get("error", line.get("outcome")), file=sys.stderr)
    head = {"transformers": transformers.__version__, "ids": IDS, "positions": POSITIONS, "shapes": shapes,
            "bases": {family: {"model_type": family} | entry[1] for family, entry in FAMILIES.items()}}
    with open(path, "w") as file:
        for line in [head, *lines]:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")


def against(program, only):
    """The built program on every checkpoint, from its files to the states."""
    outcomes = ["equal", "refused", "both refuse", "runs what transformers refuses", "WRONG"]
    counts = {}
    for row, folder in table(only):
        lines = "".join(json.dumps({"ids": IDS, "position": p}) + "\n" for p in POSITIONS)
        (folder / "s.jsonl").write_text(lines)
        done = subprocess.run([program, "states", "-q", "--model", folder, "--train-samples", folder / "s.jsonl",
                               "--val-samples", folder / "s.jsonl", "--out", folder / "run"],
                              capture_output=True, text=True)
        named = [name for name in [row["field"], *row["config"]] if f"`{name}`" in done.stderr]
        what = f"{row['family']} {row['field']} {row['config']}"
        if done.returncode:
            outcome = "both refuse" if "error" in row else "refused"
            if not named:
                outcome = "WRONG"
                print(f"WRONG: {what}: no field is named: {done.stderr}")
            elif outcome == "refused":
                print(f"refused: {what}: {done.stderr.strip()[:160]}")
        elif "error" in row:
            outcome = "runs what transformers refuses"
            print(f"{outcome}: {what}: {row['error'][:120]}")
        else:
            outcome = "equal"
            for layer, want in enumerate(row["states"]):
                got = load_file(folder / f"run/states/val/{layer:02}.safetensors")["states"]
                off = np.linalg.norm(got - want, axis=1) / np.linalg.norm(want, axis=1)
                if not (off <= TOLERANCE).all():
                    outcome = "WRONG"
                    print(f"WRONG: {what}: layer {layer} is off by {off.max():.1e}")
                    break
        of_family = counts.setdefault(row["family"], dict.fromkeys(outcomes, 0))
        of_family[outcome] += 1
    counts["all"] = {outcome: sum(of_family[outcome] for of_family in counts.values()) for outcome in outcomes}
    for family, of_family in counts.items():
        print(transformers.__version__, family, sum(of_family.values()), of_family)
    return counts["all"]["WRONG"] == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write")
    parser.add_argument("--program")
    parser.add_argument("--only", choices=FAMILIES)
    args = parser.parse_args()
    if args.write:
        write(args.write, args.only)
    if args.program and not against(pathlib.Path(args.program).resolve(), args.only):
        sys.exit(1)
