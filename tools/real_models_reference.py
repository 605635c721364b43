#!/usr/bin/env python3
"""What Hugging Face transformers computes on the checkpoints of fetch_real_models.sh.

    tools/real_models_reference.py [minilm] [antiberty]

Writes crates/jumplens/tests/golden/real/NAME.json: for a few sentences their token ids and a position, and for every
layer the state there as its L2 norm, eight of its coordinates and its product with the vector cos(0), cos(1), …; with an
MLM head also the ten largest logits. Needs torch and transformers; was run with torch 2.15.0 and transformers 5.23.0.
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


def main():
    for name in sys.argv[1:] or SENTENCES:
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
            d = config.hidden_size
            cosine = torch.cos(torch.arange(d, dtype=torch.float64))
            coordinates = [k * (d - 1) // 7 for k in range(8)]
            layers = []
            for state in output.hidden_states:
                h = state[0, position].double()
                layers.append({"norm": h.norm().item(), "cosine": (h @ cosine).item(),
                               "coordinates": [h[k].item() for k in coordinates]})
            sequence = {"text": text, "ids": whole, "position": position, "layers": layers}
            if has_head:
                top = output.logits[0, position].double().topk(10)
                sequence["top"] = [[int(i), v.item()] for v, i in zip(top.values, top.indices)]
            sequences.append(sequence)
        OUT.mkdir(parents=True, exist_ok=True)
        path = OUT / f"{name}.json"
        path.write_text(json.dumps({"mask": mask, "sequences": sequences}) + "\n")
        print(path.relative_to(ROOT), path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
