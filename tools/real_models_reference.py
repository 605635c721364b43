#!/usr/bin/env python3
"""What Hugging Face transformers computes on the checkpoints of fetch_real_models.sh.

    tools/real_models_reference.py [minilm] [antiberty] [smollm2] [gemma3]

Writes crates/jumplens/tests/golden/real/NAME.json: for a few sentences their token ids and a position, and for every
layer the state there as its L2 norm, eight of its coordinates and its product with the vector cos(0), cos(1), …; with an
head also the ten largest logits (layer L before the final norm). Of smollm2 and gemma3, GGUF files, also the token ids of
many texts, and of each tensor its norm and its product with that vector. Needs torch and transformers, and for GGUF files gguf
and accelerate; was run with torch 2.15.0, transformers 5.23.0 (gemma3: 5.24.0), gguf 0.19.0 and accelerate 1.15.0.
"""
import json
import pathlib
import sys

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ROOT / "target/real-models"
OUT = ROOT / "crates/jumplens/tests/golden/real"

# Sentence, and which token of it is masked.
SENTENCES = {
    "minilm": [
        ("The river runs through three counties before it reaches the sea.", 5),
        ("In 1897, Thomson's experiments showed that cathode rays are made of electrons.", 0),
        ("Short.", 2),
        ("It was the first of the company's ships to be fitted with a helicopter deck, a café and — unusually for the "
         "time — air conditioning throughout; passengers wrote home about little else.", 30),
    ],
    "antiberty": [
        (" ".join("EVQLVQSGPEVKKPGTSVKVSCKASGFTFMSSAVQWVRQARGQRLEWIGWIVIGSGNTNYAQKFQERVTITRDMSTSTAYMELSSLRSEDTAVYYCAAPYCSSISCNDGFDIWGQGTMVTVS"), 57),
        (" ".join("DVVMTQTPFSLPVSLGDQASISCRSSQSLVHSNGNTYLHWYLQKPGQSPKLLIYKVSNRFSGVPDRFSGSGSGTDFTLKISRVEAEDLGVYFCSQSTHVPYTFGGGTKLEIK"), 1),
        ("E V Q L X", 4),
        ("Q", 2),
    ],
}


# Texts that tokenizers get wrong, beside sentences of the bundled corpus.
TEXTS = [
    "", " ", "   ", "a", " a", "a ", "  two  spaces   three ", "tab\there", "line\nline\n\n line\r\n  end\n",
    "1234567890", "in 1897, 3.14159 and  2", "x 1", "x  12", "x   345 y", "v1.2.3-rc4", "٣٤٥ ½ Ⅳ 二三", "it's we'll THEY'RE I'd",
    "naïve café déjà vu", "e\u0301 a\u030a", "漢字とかな交じり文。", "안녕하세요 세계", "Привет, мир!", "שלום עולם", "🙂👩‍👩‍👧‍👦🇫🇷", "\u200b\u00a0\u3000x",
    "def f(x):\n    return x**2 + 1  # comment\n", "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}",
    "<|im_start|>user\nHello<|im_end|>\n", "<|endoftext|>", "a<|im_end|>b", "<|im_start|> x <|nothing|>", "<s> </s> <unk>",
    "https://example.org/a_b-c?d=1&e=%20#f", "$x_1^2 \\\\frac{a}{b}$", "!!! ... --- ___ ***", "\u0000\u0007", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "ALLCAPS lowercase MixedCase snake_case camelCase", "a" * 60, " " * 40 + "x", "\n" * 10,
]
SENTENCES_OF_CORPUS = 24


def from_gguf(name):
    import numpy as np
    from tokenizers import pre_tokenizers

    folder = MODELS / name
    (file,) = folder.glob("*.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)
    if name == "smollm2":
        # The file asks for `smollm`, which transformers does not know there: it splits as GPT-2 does. The model's own
        # tokenizer.json, and llama.cpp, take each digit by itself first.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

    def encode(text):
        # SmolLM2 has no token that begins a text; Gemma has.
        return tokenizer.encode(text, add_special_tokens=name != "smollm2")

    corpus = (ROOT / "crates/jumplens-assets/assets/wikipedia_sentences.txt").read_text().splitlines()
    step = len(corpus) // SENTENCES_OF_CORPUS
    texts = TEXTS + corpus[::step][:SENTENCES_OF_CORPUS]
    texts = [{"text": text, "ids": encode(text)} for text in texts]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
    tensors = {}
    for key, tensor in model.state_dict().items():
        if key != "lm_head.weight":  # tied
            flat = tensor.double().numpy().ravel()
            cosine = flat @ np.cos(np.arange(flat.size, dtype=np.float64))
            tensors[key] = [list(tensor.shape), float(np.linalg.norm(flat)), float(cosine)]
    config = {key: getattr(model.config, key) for key in [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "max_position_embeddings", "tie_word_embeddings"]}
    last = []
    model.model.layers[-1].register_forward_hook(
        lambda module, args, output: last.append(output[0] if isinstance(output, tuple) else output))
    sequences = []
    chosen = corpus[1::step][:4]
    if name == "gemma3":
        # Longer than the window of 512 tokens.
        chosen = ["The capital of France is", chosen[0], " ".join(corpus[1::step][:24])]
    for text in chosen:
        ids = encode(text)
        last.clear()
        with torch.no_grad():
            output = model(torch.tensor([ids]), output_hidden_states=True)
        # The last entry of hidden_states is behind the final norm.
        states = [state[0, -1] for state in output.hidden_states[:-1]] + [last[0].reshape(len(ids), -1)[-1]]
        top = output.logits[0, -1].double().topk(10)
        sequences.append({"text": text, "ids": ids, "position": len(ids) - 1, "layers": [digest(h) for h in states],
                          "top": [[int(i), v.item()] for v, i in zip(top.values, top.indices)]})
    write(name, {"config": config, "texts": texts, "tensors": tensors, "sequences": sequences})


def digest(state):
    h = state.double()
    d = len(h)
    cosine = torch.cos(torch.arange(d, dtype=torch.float64))
    return {"norm": h.norm().item(), "cosine": (h @ cosine).item(),
            "coordinates": [h[k * (d - 1) // 7].item() for k in range(8)]}


def write(name, reference):
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(reference) + "\n")
    print(path.relative_to(ROOT), path.stat().st_size, "bytes")


def main():
    for name in sys.argv[1:] or [*SENTENCES, "smollm2", "gemma3"]:
        if name in ("smollm2", "gemma3"):
            from_gguf(name)
            continue
        folder = MODELS / name
        config = transformers.BertConfig.from_pretrained(folder)
        config.architectures = None
        model = transformers.BertForMaskedLM(config)
        if (folder / "model.safetensors").exists():
            from safetensors.torch import load_file

            weights = load_file(folder / "model.safetensors")
        else:
            weights = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
        has_head = any(key.startswith("cls.predictions.") for key in weights)
        if not any(key.startswith("bert.") for key in weights):
            weights = {f"bert.{key}": value for key, value in weights.items()}
        result = model.load_state_dict(weights, strict=False)
        missing = [key for key in result.missing_keys if has_head or not key.startswith("cls.")]
        assert not [key for key in missing if "decoder" not in key], missing
        model.tie_weights()
        model.eval()
        if (folder / "tokenizer.json").exists():
            tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        else:
            tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False)
        mask = tokenizer.convert_tokens_to_ids("[MASK]")
        sequences = []
        for text, position in SENTENCES[name]:
            # Without the padding that some tokenizer.json files ask for.
            ids = [token for token in tokenizer(text)["input_ids"] if token != 0]
            whole = list(ids)
            ids[position] = mask
            with torch.no_grad():
                output = model(torch.tensor([ids]), output_hidden_states=True)
            layers = [digest(state[0, position]) for state in output.hidden_states]
            sequence = {"text": text, "ids": whole, "position": position, "layers": layers}
            if has_head:
                top = output.logits[0, position].double().topk(10)
                sequence["top"] = [[int(i), v.item()] for v, i in zip(top.values, top.indices)]
            sequences.append(sequence)
        write(name, {"mask": mask, "sequences": sequences})


if __name__ == "__main__":
    main()
