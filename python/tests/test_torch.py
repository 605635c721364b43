"""`jumplens.torch` on a tiny GPT-2 and a tiny BERT of random weights."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

import jumplens as jl  # noqa: E402
from jumplens._jumplens import positions  # noqa: E402

VOCAB, D, LAYERS = 101, 16, 3
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def gpt2(seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    settings = {"n_layer": LAYERS, "n_embd": D, "n_head": 4, "vocab_size": VOCAB, "n_positions": 32, **SPECIAL, **changes}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=24,
        max_position_embeddings=32, **SPECIAL,
    )  # fmt: skip
    return transformers.BertForMaskedLM(config).eval()


def texts(number: int, seed: int = 0, longest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB, size=rng.integers(1, longest + 1)).tolist() for _ in range(number)]


@pytest.fixture(scope="module")
def m() -> jl.torch.Model:
    return jl.torch.wrap(gpt2())


def one_by_one(m: Any, sentences: list[list[int]], start: int = 0, seed: int = 0, **choice: int) -> list[np.ndarray]:
    """The states at the chosen positions, from one text at a time, in f64."""
    chosen: list[list[np.ndarray]] = [[] for _ in range(m.n_layers + 1)]
    for index, ids in enumerate(sentences, start):
        at = positions(len(ids), index, seed, choice.get("positions", 1), choice.get("skip_first", 0))
        for p in at:
            run = ids if m.is_causal else [*ids[:p], m.mask_token_id, *ids[p + 1 :]]
            with torch.no_grad():
                for kept, state in zip(chosen, m.states([run])):
                    kept.append(state[0, p].double().numpy())
    return [np.stack(states) for states in chosen]


@pytest.mark.parametrize("model", [gpt2, bert])
@pytest.mark.parametrize(("number", "skip_first"), [(1, 0), (3, 2)])
def test_maps_are_least_squares_over_the_states_of_single_texts(model: Any, number: int, skip_first: int) -> None:
    m = jl.torch.wrap(model(), mask_token_id=4)
    sentences = texts(160)
    long_enough = sum(len(ids) > skip_first for ids in sentences)
    train, val = long_enough - 30, 30
    maps = m.fit(
        sentences, train=train, val=val, seed=5, pairs="all", positions=number, skip_first=skip_first, batch_tokens=100, progress=False
    )
    split = [index for index, ids in enumerate(sentences) if len(ids) > skip_first][train]
    choice = {"positions": number, "skip_first": skip_first}
    x, v = one_by_one(m, sentences[:split], 0, 5, **choice), one_by_one(m, sentences[split:], split, 5, **choice)
    table = maps.r2
    got = {(row[0], row[1], row[2]): row[3:] for row in zip(*(list(table[name]) for name in ("mapping", "from", "to", "r2", "r2_train")))}
    for i, j in maps:
        expected = np.linalg.lstsq(x[i], x[j], rcond=1e-6)[0].T
        for states, r2 in zip((v, x), got["mat", i, j]):
            residual = ((states[j] - states[i] @ expected.T) ** 2).sum(0) / ((states[j] - states[j].mean(0)) ** 2).sum(0)
            assert r2 == pytest.approx(1 - residual.mean(), abs=1e-6)
        if model is gpt2:
            np.testing.assert_allclose(maps[i, j].weight, expected, atol=1e-4)


def test_positions_are_those_of_the_program(tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["samples", "--train", "60", "--val", "20", "--seed", "3", "--positions", "2", "--skip-first", "1", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "jumplens", *arguments, "--quiet"], check=True)
    chosen: dict[str, list[int]] = {}
    lengths: dict[str, int] = {}
    for split in ("train", "val"):
        for line in (out / "samples" / f"{split}.jsonl").open():
            sample = json.loads(line)
            chosen.setdefault(sample["text"], []).append(sample["position"])
            lengths[sample["text"]] = len(sample["ids"])
    for index, (text, expected) in enumerate(chosen.items()):
        assert positions(lengths[text], index, 3, 2, 1) == expected


def test_figures_are_those_of_their_definitions(m: Any) -> None:
    sentences = texts(300, seed=1)
    maps = m.fit(sentences, train=250, val=50, intercept=False, progress=False)
    table = m.evaluate(maps, sentences, batch_tokens=64, progress=False)
    assert len(table["layer"]) == 2 * (LAYERS + 1)
    x = [torch.tensor(state) for state in one_by_one(m, sentences[250:], 250)]
    chosen = [positions(len(ids), 250 + at, 0, 1, 0)[0] for at, ids in enumerate(sentences[250:])]
    targets = [ids[p + 1] if p + 1 < len(ids) else -1 for ids, p in zip(sentences[250:], chosen)]
    with torch.no_grad():
        own = m.logits(x[-1].float()).double().log_softmax(-1)
        for row in zip(*(list(table[name]) for name in table.columns)) if hasattr(table, "columns") else zip(*table.values()):
            names = list(table.columns) if hasattr(table, "columns") else list(table)
            row = dict(zip(names, row))
            layer = row["layer"]
            state = x[layer]
            if row["mapping"] == "mat" and layer < LAYERS:
                state = torch.tensor(maps[layer, LAYERS](state.float().numpy()))
            cast = m.logits(state.float()).double().log_softmax(-1)
            token = cast.argmax(-1)
            for k in (1, 5, 10):
                hits = (own.topk(k).indices == token[:, None]).any(-1).double().mean()
                assert row[f"precision_{k}"] == pytest.approx(float(hits))
                assert row[f"precision_{k}_lo"] <= row[f"precision_{k}"] <= row[f"precision_{k}_hi"]
            surprisal = -own.gather(-1, token[:, None])
            assert row["surprisal"] == pytest.approx(float(surprisal.mean()), abs=1e-5)
            assert row["surprisal_lo"] <= row["surprisal"] <= row["surprisal_hi"]
            assert row["kl"] == pytest.approx(float((own.exp() * (own - cast)).sum(-1).mean()), abs=1e-5)
            known = [-float(cast[i, target]) for i, target in enumerate(targets) if target >= 0]
            assert row["loss"] == pytest.approx(np.mean(known), abs=1e-5)


def test_what_maps_were_fitted_on_is_not_measured_on(m: Any) -> None:
    sentences = texts(320, seed=2)
    maps = m.fit(sentences, train=200, val=50, progress=False)
    of_val = m.evaluate(maps, sentences, casts=["mat"], progress=False)
    assert list(of_val["surprisal"]) == list(m.evaluate(maps, sentences[:250], casts=["mat"], progress=False)["surprisal"])
    others = m.evaluate(maps, texts(50, seed=9), casts=["mat"], progress=False)
    assert list(others["surprisal"]) != list(of_val["surprisal"])


def test_maps_travel_and_know_their_model(m: Any, tmp_path: Path) -> None:
    sentences = texts(150)
    maps = m.fit(sentences, progress=False)
    maps.save(tmp_path / "maps")
    again = jl.Maps.load(tmp_path / "maps")
    assert again.info()["notes"]["fit"]["train"] == 150
    expected = list(m.evaluate(maps, texts(20, seed=3), progress=False)["kl"])
    assert list(m.evaluate(again, texts(20, seed=3), progress=False)["kl"]) == expected
    for other, words in ((gpt2(seed=1), "another embedding"), (gpt2(n_layer=2), "3 layers"), (gpt2(n_embd=32), "16")):
        with pytest.raises(ValueError, match=words):
            jl.torch.wrap(other).evaluate(again, sentences, progress=False)
    half = jl.torch.wrap(gpt2().to(torch.bfloat16))
    assert len(half.evaluate(again, texts(20, seed=3), progress=False)["kl"]) == len(expected)


def test_half_precision_is_fitted_in_f32() -> None:
    m = jl.torch.wrap(gpt2().to(torch.bfloat16))
    sentences = texts(200)
    maps = m.fit(sentences, train=150, val=50, progress=False)
    x = one_by_one(m, sentences[:150])
    np.testing.assert_allclose(maps[1, LAYERS].weight, np.linalg.lstsq(x[1], x[LAYERS], rcond=1e-6)[0].T, atol=0.05)


def test_a_map_as_a_module(m: Any) -> None:
    map = jl.Map(np.random.default_rng(0).normal(size=(3, D)).astype("f"), np.ones(3, "f"))
    x = torch.randn(2, 4, D)
    torch.testing.assert_close(map.to_torch()(x), torch.tensor(map(x)), atol=1e-5, rtol=1e-5)
    assert map.to_torch().weight.requires_grad


def test_an_exact_map_changes_nothing_and_a_jump_is_the_blocks_around_it(m: Any) -> None:
    ids = torch.tensor(texts(1, longest=12))
    map = jl.Map(np.random.default_rng(0).normal(size=(D, D)).astype("f") / 4)
    with torch.no_grad():
        states = m.states(ids)
        with m.shortcut(1, LAYERS, map):
            jumped = m.model(ids).logits
        torch.testing.assert_close(jumped, m.logits(map.to_torch()(states[1])), atol=1e-5, rtol=1e-5)
        own = m.model(ids).logits
        with m.shortcut(0, 1, map):
            assert not torch.allclose(m.model(ids).logits, own)
        torch.testing.assert_close(m.model(ids).logits, own, atol=0, rtol=0)
    assert all("forward" not in block.__dict__ for block in m.blocks)


def test_the_lens_is_the_head_on_cast_states(m: Any) -> None:
    maps = m.fit(texts(200), progress=False)
    ids = texts(1, seed=4, longest=9)[0] + [7, 8, 9]
    lens = m.lens(ids, maps, k=3)
    assert lens.top_ids.shape == (LAYERS + 1, len(ids), 3)
    with torch.no_grad():
        states = m.states([ids])
        for layer in range(LAYERS + 1):
            state = states[layer][0]
            cast = state if layer == LAYERS else torch.tensor(maps[layer, LAYERS](state))
            probabilities = m.logits(cast).softmax(-1)
            for position in range(len(ids)):
                for token, probability in lens.top(layer, position):
                    assert probability == pytest.approx(float(probabilities[position, int(token)]), abs=1e-5)
    assert len(lens.to_frame()["token"]) == (LAYERS + 1) * len(ids) * 3
    said = json.loads(lens.to_json())
    assert said["top"][2][1] == [list(pair) for pair in lens.top(2, 1)]
    assert lens._repr_html_().count("<td") == (LAYERS + 1) * len(ids)
    assert m.lens(ids).cast == "id"


def test_tokens_are_shown_as_text_not_as_markup(m: Any) -> None:
    lens = m.lens([5, 6], k=2)
    lens._name = lambda id: '<script>"&'
    assert "<script>" not in lens._repr_html_() and "&lt;script&gt;" in lens._repr_html_()


def test_reduced_products_are_turned_off_and_put_back(m: Any) -> None:
    seen = []
    hook = m.blocks[0].register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    torch.set_float32_matmul_precision("high")
    try:
        m.fit(texts(30), progress=False)
        assert set(seen) == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        hook.remove()


def test_logits_of_positions_that_nobody_looks_at_are_not_made(m: Any) -> None:
    made = []
    hook = m.model.register_forward_hook(lambda module, args, output: made.append(output.logits.shape[:2].numel()))
    try:
        m.fit(texts(30), progress=False)
        m.states(texts(1, longest=20))
    finally:
        hook.remove()
    assert sum(made) <= 31


def test_memory_does_not_grow_with_the_number_of_texts(m: Any) -> None:
    def peak(number: int) -> tuple[int, int]:
        """Values of states that are held, and bytes of Python's own objects."""
        most = 0
        states: list[weakref.ref[Any]] = []
        chosen_states = m._chosen_states

        def watched(batch: Any) -> Any:
            nonlocal most, states
            states = [state for state in states if state() is not None]
            most = max(most, sum(value.numel() for state in states if (value := state()) is not None))
            made = chosen_states(batch)
            states.extend(map(weakref.ref, made))
            return made

        rng = np.random.default_rng(0)
        m._chosen_states = watched
        tracemalloc.start()
        try:
            texts = (rng.integers(3, VOCAB, size=20).tolist() for _ in range(number))
            m.fit(texts, train=number, batch_tokens=1000, progress=False)
            return most, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            del m._chosen_states

    few, many = peak(1500), peak(4500)
    assert 0 < many[0] <= 1.05 * few[0] and many[1] <= 1.2 * few[1], (few, many)


def bundled(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(jl.bundled("tiny-gpt2", folder), **options).eval()


def test_a_model_spread_by_a_device_map_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    plain = jl.torch.wrap(bundled(tmp_path, dtype=torch.float32))
    ids = [texts(1, longest=20)[0] for _ in range(3)]
    sentences = texts(200, seed=6)
    maps = plain.fit(sentences, pairs="all", progress=False)
    places = {f"transformer.h.{i}": "disk" if i % 2 else "cpu" for i in range(12)}
    places |= {name: "cpu" for name in ("transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head")}
    for device_map in ("cpu", "auto", places):
        model = bundled(tmp_path, dtype=torch.float32, device_map=device_map, offload_folder=str(tmp_path / "offload"))
        assert (device_map is places) == any(parameter.is_meta for parameter in model.parameters())
        m = jl.torch.wrap(model)
        with torch.no_grad():
            for state, expected in zip(m.states(ids[:1]), plain.states(ids[:1])):
                torch.testing.assert_close(state, expected)
            with m.shortcut(3, 9, maps), plain.shortcut(3, 9, maps):
                torch.testing.assert_close(model(torch.tensor(ids[:1])).logits, plain.model(torch.tensor(ids[:1])).logits)
            torch.testing.assert_close(model(torch.tensor(ids[:1])).logits, plain.model(torch.tensor(ids[:1])).logits)
        again = m.fit(sentences, pairs="all", progress=False)
        np.testing.assert_allclose(again[3, 9].weight, maps[3, 9].weight, atol=1e-3)
        m.evaluate(maps, texts(30, seed=7), casts=["id"], progress=False)
    nowhere = bundled(tmp_path, dtype=torch.float32, device_map={"": "disk"}, offload_folder=str(tmp_path / "offload"))
    with pytest.raises(ValueError, match="the embedding may not"):
        jl.torch.wrap(nowhere)


def test_a_model_in_4_bit_gives_its_own_states(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    options = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    model = bundled(tmp_path, dtype=torch.float32, device_map="cpu", quantization_config=options)
    m = jl.torch.wrap(model)
    ids = torch.tensor(texts(1, longest=20))
    with torch.no_grad():
        states, own = m.states(ids), model(ids, output_hidden_states=True)
        for state, expected in list(zip(states, own.hidden_states))[:-1]:
            torch.testing.assert_close(state, expected)
        torch.testing.assert_close(m.logits(states[-1]), own.logits)
        assert float((own.logits - bundled(tmp_path, dtype=torch.float32)(ids).logits).abs().max()) > 1e-3
    sentences = texts(200, seed=6)
    table = m.evaluate(m.fit(sentences, progress=False), texts(30, seed=7), casts=["mat"], progress=False)
    assert len(table["kl"]) == 13


def test_a_data_loader_that_forks_may_use_maps(m: Any) -> None:
    from torch.utils.data import DataLoader, Dataset

    jl.fit(*np.random.default_rng(0).normal(size=(2, 500, 8)).astype("f"))  # threads of this process
    map = jl.Map(np.random.default_rng(0).normal(size=(D, D)).astype("f"))

    class Cast(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 6

        def __getitem__(self, index: int) -> Any:
            rows = np.random.default_rng(index).normal(size=(200, D)).astype("f")
            return map(rows), jl.fit(rows, map(rows)).weight

    context = "fork" if sys.platform == "linux" else None
    loader = DataLoader(Cast(), batch_size=2, num_workers=2, multiprocessing_context=context, timeout=60)
    for batch in loader:
        torch.testing.assert_close(batch[1], torch.tensor(map.weight).expand(2, D, D), atol=1e-5, rtol=0)


class NoBlocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 4)
        self.head = torch.nn.Linear(4, 10)

    def forward(self, input_ids: Any) -> Any:
        return self.head(self.embed(input_ids))


class Beside(NoBlocks):
    """Its head looks at the embedding too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4) for _ in range(3)])

    def forward(self, input_ids: Any) -> Any:
        h = embedded = self.embed(input_ids)
        for block in self.blocks:
            h = block(h)
        return self.head(h + embedded)


def t5() -> Any:
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return transformers.T5ForConditionalGeneration(config).eval()


def headless() -> Any:
    return jl.torch.wrap(gpt2().transformer)


GPT2 = gpt2()
MAPS = jl.fit_layers([np.random.default_rng(i).normal(size=(40, D)).astype("f") for i in range(LAYERS + 1)], pairs="all")
NARROW = jl.fit_layers([np.random.default_rng(i).normal(size=(40, 4)).astype("f") for i in range(LAYERS + 1)])
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "double wrap": (lambda m: jl.torch.wrap(m), TypeError, "wrapped already"),
    "a name": (lambda m: jl.torch.wrap("gpt2"), TypeError, "the model itself"),
    "training mode": (lambda m: jl.torch.wrap(gpt2().train()), ValueError, r"model\.eval\(\)"),
    "no blocks": (lambda m: jl.torch.wrap(NoBlocks().eval()), ValueError, "no list of modules"),
    "a head that looks elsewhere": (lambda m: jl.torch.wrap(Beside().eval()), ValueError, "off by"),
    "an encoder and a decoder": (lambda m: jl.torch.wrap(t5()), ValueError, "forward pass|several stacks"),
    "no head": (lambda m: headless().logits(torch.zeros(1, D)), ValueError, "AutoModelForCausalLM"),
    "no head to evaluate": (lambda m: headless().evaluate(MAPS, texts(5)), ValueError, "AutoModelForCausalLM"),
    "maps of another width": (lambda m: m.evaluate(NARROW, texts(5), progress=False), ValueError, "another model's"),
    "a missing cast": (lambda m: m.evaluate(MAPS, texts(5), casts=["mat+b"]), KeyError, "mat"),
    "a cast that runs blocks": (lambda m: m.evaluate(MAPS, texts(5), casts=["mat_ffn"]), ValueError, "jumplens run"),
    "position past the end": (lambda m: m.lens([5, 6], MAPS).top(0, 2), IndexError, "positions 0 to 1"),
    "too long": (lambda m: m.states([list(range(40))]), ValueError, "past the end"),
    "no such token": (lambda m: m.states([[5, VOCAB]]), ValueError, "tokens 0 to 100"),
    "ids that are no integers": (lambda m: m.states([[0.5, 1.0]]), TypeError, "integers"),
    "an empty text": (lambda m: m.lens([], MAPS), ValueError, "no tokens"),
    "empty texts": (lambda m: m.fit([], train=1, progress=False), ValueError, "give"),
    "texts that are too short": (lambda m: m.fit([[5]] * 9, skip_first=3, progress=False), ValueError, "0 texts"),
    "too few texts": (lambda m: m.fit(texts(5), train=5, val=2, progress=False), ValueError, "ask for fewer"),
    "one text": (lambda m: m.fit("text", progress=False), TypeError, "a list"),
    "no tokenizer": (lambda m: m.fit(["text"], progress=False), ValueError, "tokenizer"),
    "no positions": (lambda m: m.fit(texts(5), positions=0), ValueError, "1 or more"),
    "no mask token": (lambda m: jl.torch.wrap(bert()).fit(texts(5), progress=False), ValueError, "mask_token_id"),
    "holes in the mask": (lambda m: m.states([[5, 6, 7]], [[1, 0, 1]]), ValueError, "holes"),
    "no such jump": (lambda m: m.shortcut(2, 2, MAPS).__enter__(), ValueError, "layers 0 to 3"),
    "a jump without a map": (lambda m: m.shortcut(0, 2, NARROW).__enter__(), ValueError, "another model's"),
    "states of another width": (lambda m: m.logits(torch.zeros(2, D + 1)), ValueError, "16 is expected"),
    "states that are not finite": (lambda m: broken().fit(texts(5), progress=False), ValueError, "not finite"),
}


def broken() -> Any:
    model = gpt2()
    wrapped = jl.torch.wrap(model)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias.fill_(float("nan"))
    return wrapped


@pytest.mark.parametrize("case", WRONG)
def test_wrong_uses_are_refused_in_words(m: Any, case: str) -> None:
    use, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        use(m)


def test_a_jump_inside_a_jump_is_refused_and_leaves_the_model_as_it_was(m: Any) -> None:
    ids = torch.tensor([[5, 6, 7]])
    own = m.model(ids).logits
    with m.shortcut(0, 2, MAPS):
        with pytest.raises(RuntimeError, match="leave that"):
            with m.shortcut(1, 2, MAPS):
                pass
    torch.testing.assert_close(m.model(ids).logits, own, atol=0, rtol=0)


def test_ctrl_c_stops_a_fit_within_a_second(heard: None) -> None:
    m = jl.torch.wrap(gpt2(n_embd=256, n_layer=6))
    begun = time.monotonic()
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        m.fit(itertools.cycle(texts(50)), train=10**9, progress=False)
    assert time.monotonic() - begun < 1.5
    assert len(m.states([[5, 6]])) == 7


def test_a_model_of_plain_pytorch() -> None:
    class Plain(Beside):
        def forward(self, input_ids: Any) -> Any:
            h = self.embed(input_ids)
            for block in self.blocks:
                h = torch.tanh(block(h)) * 0 + block(h)
            return self.head(h)

    class Clean(Beside):
        def forward(self, input_ids: Any) -> Any:
            h = self.embed(input_ids)
            for block in self.blocks:
                h = block(h)
            return self.head(h)

    m = jl.torch.wrap(Clean().eval())
    assert (m.n_layers, m.d, m.has_head) == (3, 4, True)
    with pytest.raises(ValueError, match="more than once"):
        jl.torch.wrap(Plain().eval())
