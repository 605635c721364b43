"""Random tiny models of many families, against transformers' own hidden states and logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import jumplens as jl  # noqa: E402

VOCAB, D, LAYERS = 120, 32, 4
COMMON = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    **COMMON, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
BERT = {
    **COMMON, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "max_position_embeddings": 66,
}  # fmt: skip
GPT2 = {**COMMON, "n_embd": D, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}

FAMILIES: dict[str, dict[str, Any]] = {
    "GPT2": GPT2,
    "GPTJ": {**GPT2, "rotary_dim": 4},
    "GPTNeoX": LLAMA,
    "GPTNeo": {
        **COMMON, "hidden_size": D, "num_layers": LAYERS, "num_heads": 4, "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 2]], "window_size": 4,
    },
    "OPT": {
        **COMMON, "hidden_size": D, "ffn_dim": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "max_position_embeddings": 64, "word_embed_proj_dim": 16,
    },
    "Bloom": {**COMMON, "hidden_size": D, "n_layer": LAYERS, "n_head": 4},
    "Falcon": {**COMMON, "hidden_size": D, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "max_position_embeddings": 64},
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Mixtral": {**LLAMA, "num_local_experts": 4},
    "Qwen2": LLAMA,
    "Qwen3": {**LLAMA, "head_dim": 8},
    "Gemma": {**LLAMA, "head_dim": 8},
    "Gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0},
    "Gemma3Text": {**LLAMA, "head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "Phi": LLAMA,
    "Phi3": LLAMA,
    "Olmo2": LLAMA,
    "StableLm": LLAMA,
    "Granite": {**LLAMA, "logits_scaling": 3.0, "residual_multiplier": 0.5},
    "Cohere": {**LLAMA, "logit_scale": 0.3},
    "Mpt": {**COMMON, "d_model": D, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 64},
    "Bert": BERT,
    "Roberta": BERT,
    "Electra": {**BERT, "embedding_size": 16},
    "DistilBert": {**COMMON, "dim": D, "hidden_dim": 48, "n_layers": LAYERS, "n_heads": 4, "max_position_embeddings": 64},
    "ModernBert": {
        **LLAMA, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4, "global_attn_every_n_layers": 2,
    },
}  # fmt: skip
MASKED = {"Bert", "Roberta", "Electra", "DistilBert", "ModernBert"}
CLASSES = {"Gemma3Text": "Gemma3ForCausalLM"}


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    settings = {key: value for key, value in FAMILIES[family].items()}
    config = getattr(transformers, f"{family}Config")(**settings)
    head = "MaskedLM" if family in MASKED else "CausalLM"
    name = CLASSES.get(family) or next(
        name for name in (f"{family}For{head}", f"{family}LMHeadModel") if hasattr(transformers, name)
    )
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def ids_of(batch: int, tokens: int) -> Any:
    return torch.tensor(np.random.default_rng(7).integers(5, VOCAB, size=(batch, tokens)))


def near(got: Any, expected: Any) -> None:
    scale = float(expected.abs().max())
    assert float((got - expected).abs().max()) <= 2e-5 * scale


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_logits_are_those_of_transformers(family: str) -> None:
    model = tiny(family)
    m = jl.torch.wrap(model)
    assert (m.n_layers, m.d, m.is_causal, m.has_head) == (LAYERS, D, family not in MASKED, True)
    ids = ids_of(3, 11)
    with torch.no_grad():
        states, own = m.states(ids), model(ids, output_hidden_states=True)
        assert len(states) == LAYERS + 1
        # The last of transformers' is behind the final norm, where there is one.
        for state, expected in list(zip(states, own.hidden_states))[:-1]:
            near(state, expected)
        near(m.logits(states[-1]), own.logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_state(family: str, side: str) -> None:
    m = jl.torch.wrap(tiny(family))
    ids = ids_of(3, 9)
    lengths = [9, 4, 6]
    padded, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        where = slice(9 - length, 9) if side == "left" else slice(0, length)
        padded[row, where], mask[row, where] = ids[row, :length], 1
    with torch.no_grad():
        states = m.states(padded, mask)
        for row, length in enumerate(lengths):
            for state, alone in zip(states, m.states(ids[row : row + 1, :length])):
                near(state[row][mask[row].bool()], alone[0])


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in MASKED])
def test_generation_in_a_jump_is_the_same_with_and_without_a_cache(family: str) -> None:
    model = tiny(family)
    m = jl.torch.wrap(model)
    ids = ids_of(2, 7)
    jump = jl.Map(np.eye(D, dtype="float32") + 0.2 * np.random.default_rng(0).normal(size=(D, D)).astype("float32"))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    model.generation_config.eos_token_id = None
    outside = model.generate(ids, **options)
    for from_, to in ((1, 3), (0, 2)):
        with torch.no_grad(), m.shortcut(from_, to, jump):
            with_cache = model.generate(ids, **options)
            without = ids
            for _ in range(8):
                without = torch.cat([without, model(without, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert with_cache.tolist() == without.tolist()
    assert torch.equal(model.generate(ids, **options), outside)
