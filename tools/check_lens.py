#!/usr/bin/env python3
"""Holds `jumplens lens --target` and `--chat` against PyTorch and transformers.

    python tools/check_lens.py [--program target/release/jumplens] [--run DIR] [--only docs,smollm2,chat]

docs     runs the functions of docs/lens.md ("From a map to logits"): on the bundled models and their maps, where it compares the
         probability and rank of a token at every layer and position of some texts; and on small random models of the other
         families, without maps, where it compares the best tokens
smollm2  the same for 20 prompts with their answers on SmolLM2-135M, whose maps are in the run folder `--run`; without it some
         are fitted on 1,500 sentences, which takes minutes
chat     texts and token ids of chats, by SmolLM2's template and by some written here, against `apply_chat_template`

Needs torch, transformers, safetensors, gguf and accelerate, and for SmolLM2 `tools/fetch_real_models.sh smollm2`. The states are
PyTorch's own; only the maps come from jumplens. Exit code 1 where something differs. Was run with torch 2.15.0 and transformers
5.23.0.
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
ASSETS = ROOT / "crates/jumplens-assets/assets"
MAPS = ROOT / "crates/jumplens-assets-maps/assets"
GGUF = ROOT / "target/real-models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

FACTS = [
    ("The capital of France is", " Paris"), ("The capital of Germany is", " Berlin"), ("The capital of Japan is", " Tokyo"),
    ("The capital of Italy is", " Rome"), ("The Eiffel Tower is in the city of", " Paris"), ("Two plus two equals", " four"),
    ("The opposite of hot is", " cold"), ("The largest planet in the solar system is", " Jupiter"),
    ("Water is made of hydrogen and", " oxygen"), ("The chemical symbol for gold is", " Au"),
    ("The author of Romeo and Juliet is William", " Shakespeare"), ("The first president of the United States was George", " Washington"),
    ("Monday, Tuesday, Wednesday,", " Thursday"), ("One, two, three,", " four"), ("The sun rises in the", " east"),
    ("A baby cat is called a", " kitten"), ("Bees make", " honey"), ("The sky is", " blue"),
    ("Albert Einstein developed the theory of", " relativity"), ("The currency of the United Kingdom is the", " pound"),
]

# Beside SmolLM2's own: what templates are known to do, a case each.
TEMPLATES = {
    "chatml": "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
              "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "blocks": "{%- set system = 'none' %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0].content %}\n"
              "    {%- set messages = messages[1:] %}\n{%- endif %}\n{{- '<<SYS>>' ~ system ~ '<</SYS>>' }}\n"
              "{% for message in messages %}\n    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\n"
              "        {{ raise_exception('Conversation roles must alternate') }}\n    {% endif %}\n"
              "    {% if message['role'] == 'user' %}\n[INST] {{ message['content'].strip() }} [/INST]\n    {% else %}\n"
              "        {% generation %}\n {{ message['content'] | trim + eos_token }}\n        {% endgeneration %}\n    {% endif %}\n{% endfor %}\n",
    "python": "{% set ns = namespace(n=0, last='') %}{% for m in messages if m.role != 'system' %}{% set ns.n = ns.n + 1 %}"
              "{% set ns.last = m.content %}{% endfor %}{{ ns.n }}|{{ ns.last.split(' ')[0].upper() }}|{{ ns.last.startswith('W') }}|"
              "{{ messages | map(attribute='role') | join(',') }}|{{ {'a': [1, 'é<'], 'b': none} | tojson }}|"
              "{{ tools is none }}|{{ documents is defined }}|{{ ns.last[::-1] }}|{{ ns.last | length }}|{{ strftime_now('%Y-%m-%d') }}|"
              "{%- macro turn(m) %}({{ m.role }}: {{ m.content }}){% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}\n",
}
CHATS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "user", "content": "  Spaces,\n lines & <b>\"quotes\"</b> 🙂 "}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who wrote Hamlet?"}],
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello! "}, {"role": "user", "content": "What now?"}],
]


def documented():
    """The functions of docs/lens.md by name."""
    text = (ROOT / "docs/lens.md").read_text()
    section = text[text.index("## From a map to logits"):]
    code = {"torch": torch}
    for block in re.findall(r"```python\n(.*?)```", section, re.S):
        exec(block, code)
    return code


class Lens:
    """The program, and where it writes."""

    def __init__(self, program, folder):
        self.program, self.folder = program, pathlib.Path(folder)

    def call(self, *args):
        done = subprocess.run([self.program, "-q", *map(str, args)], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{args}: {done.stderr}")
        return done.stdout

    def read(self, lines, *args):
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        out = self.call("lens", "--texts", prompts, "--format", "json", *args)
        return [json.loads(line) for line in out.splitlines()]


def compare(name, readings, model, logits_of, maps):
    """Counts ranks that differ and the largest difference of a probability, over every cast, layer and position. In f32 tokens
    whose logits are all but equal may change places: a rank may be any between those of logits 1e-3 above and below."""
    cells = differ = wrong = 0
    worst, least = 0.0, None
    with torch.no_grad():
        for reading in readings:
            ids = torch.tensor([[token["id"] for token in reading["tokens"]]])
            done = model(ids, output_hidden_states=True)
            last = len(done.hidden_states) - 1
            for cast in reading["casts"]:
                for layer, row in zip(cast["layers"], cast["cells"]):
                    at = torch.tensor(reading["positions"])
                    if layer == last:
                        logits = done.logits[0, at]
                    else:
                        h = done.hidden_states[layer][0, at]
                        logits = logits_of(model, h, maps[layer] if cast["cast"] == "mat" else torch.eye(h.shape[1]))
                    p = logits.double().softmax(-1)
                    for place, cell in enumerate(row):
                        for target, said in zip(reading["targets"], cell["targets"]):
                            token = target["token"]["id"]
                            own = logits[place, token]
                            first, rank, end = (1 + int((logits[place] > z).sum()) for z in (own + 1e-3, own, own - 1e-3))
                            cells += 1
                            wrong += not first <= said["rank"] <= end
                            if rank != said["rank"]:
                                differ += 1
                                least = min(rank, least or rank)
                            worst = max(worst, abs(float(p[place, token]) - said["probability"]))
    good = worst < 1e-3 and wrong == 0
    ties = f", all between logits that are equal to 1e-3, the first at rank {least}" if differ and not wrong else ""
    print(f"{name}: {len(readings)} texts, {cells} ranks, {differ} differ{ties}; probabilities by {worst:.1e} at most: "
          f"{'ok' if good else 'DIFFERS'}")
    return good


def maps_of(folder):
    """The maps to the last layer by source layer, of a folder of maps or a file."""
    files = [folder] if folder.is_file() else sorted(folder.glob("[0-9]*.safetensors"))
    tensors = {name: tensor.float() for file in files for name, tensor in load_file(file).items()}
    last = max(int(name.split("_")[1]) for name in tensors)
    return {int(name.split("_")[0]): tensor for name, tensor in tensors.items() if int(name.split("_")[1]) == last}


def docs(lens, code):
    sentences = (ASSETS / "wikipedia_sentences.txt").read_text().splitlines()[100:110]
    gpt2 = transformers.AutoModelForCausalLM.from_pretrained(ASSETS / "tiny-gpt2", dtype=torch.float32).eval()
    readings = lens.read([{"text": text} for text in sentences], "--target", " the", "--position", "all", "--cast", "mat,id")
    good = compare("tiny-gpt2", readings, gpt2, code["gpt2_logits"], maps_of(MAPS / "tiny-gpt2.safetensors"))
    bert = transformers.AutoModelForMaskedLM.from_pretrained(ASSETS / "tiny-bert", dtype=torch.float32).eval()
    readings = lens.read([{"text": text} for text in sentences], "--model", "tiny-bert", "--target", "the", "--position", "all", "--cast", "mat,id")
    good &= compare("tiny-bert", readings, bert, code["bert_logits"], maps_of(MAPS / "tiny-bert.safetensors"))
    torch.manual_seed(0)
    common = dict(vocab_size=300, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=64)
    families = {
        "gemma2": transformers.Gemma2Config(**common, intermediate_size=64, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
        "neox": transformers.GPTNeoXConfig(**common, intermediate_size=64),
        "opt": transformers.OPTConfig(**common, ffn_dim=64, word_embed_proj_dim=16),
    }
    for name, config in families.items():
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            # Far from one another, as trained weights are.
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        folder = lens.folder / name
        model.save_pretrained(folder)
        ids = torch.randint(3, 300, (1, 20))
        (reading,) = lens.read([{"ids": ids[0].tolist()}], "--model", folder, "--cast", "id", "--top", "3")
        done = model(ids, output_hidden_states=True)
        worst, cells, same = 0.0, 0, True
        for layer, row in enumerate(reading["casts"][0]["cells"]):
            for position, cell in enumerate(row):
                h = done.hidden_states[layer][0, position]
                logits = done.logits[0, position] if layer == 3 else code[f"{name}_logits"](model, h, torch.eye(32))
                top = logits.double().softmax(-1).topk(3)
                cells += 1
                same &= top.indices.tolist() == [guess["id"] for guess in cell["top"]]
                worst = max(worst, max(abs(p - guess["probability"]) for p, guess in zip(top.values.tolist(), cell["top"])))
        print(f"{name}, random: {cells} cells, probabilities of the best three by {worst:.1e} at most: {'ok' if same and worst < 1e-4 else 'DIFFERS'}")
        good &= same and worst < 1e-4
    return good


def smollm2(lens, code, run):
    if run is None:
        run = lens.folder / "smollm2"
        lens.call("moments", "--model", GGUF, "--pairs", "to-final", "--train", 1500, "--val", 100, "--out", lens.folder / "sums")
        lens.call("fit", "--moments", lens.folder / "sums/moments.safetensors", "--out", run)
    model = transformers.AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32).eval()
    lines = [{"text": text, "target": target} for text, target in FACTS]
    readings = lens.read(lines, "--run", run, "--cast", "mat,id")
    for reading in readings:
        at = {cast["cast"]: cast["answers"][0][0]["top_1_from"] for cast in reading["casts"]}
        print(f"  {reading['text']}{reading['targets'][0]['token']['text']}: top 1 from layer {at['mat']} on by mat, {at['id']} by id")
    return compare("SmolLM2-135M", readings, model, code["llama_logits"], maps_of(pathlib.Path(run) / "shortcuts"))


def chat(lens):
    good = True

    def hold(name, tokenizer, args):
        nonlocal good
        wanted, lines = [], []
        for messages in CHATS:
            try:
                wanted.append((tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                               tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]))
                lines.append({"messages": messages})
            except Exception as error:  # the template refuses it
                refused = lens.folder / "refused.jsonl"
                refused.write_text(json.dumps({"messages": messages}))
                done = subprocess.run([lens.program, "lens", "--chat", "--texts", refused, *map(str, args)], capture_output=True, text=True)
                same = done.returncode == 1 and str(error) in done.stderr
                good &= same
                print(f"chat {name}: refused as `{error}`: {'ok' if same else 'DIFFERS ' + done.stderr}")
        readings = lens.read(lines, "--chat", "--layers", "0", "--cast", "id", *args)
        for reading, (text, ids) in zip(readings, wanted):
            same = reading["text"] == text and [token["id"] for token in reading["tokens"]] == list(ids)
            good &= same
            if not same:
                print(f"  {text!r}\n  {reading['text']!r}")
        print(f"chat {name}: {len(readings)} chats: {'ok' if good else 'DIFFERS'}")

    tokenizer = transformers.AutoTokenizer.from_pretrained(GGUF.parent, gguf_file=GGUF.name)
    # As the model's own tokenizer.json has it; transformers does not know the file's name for it.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    hold("SmolLM2", tokenizer, ["--model", GGUF])
    for name, template in TEMPLATES.items():
        folder = lens.folder / name
        shutil.copytree(ASSETS / "tiny-gpt2", folder)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
        if name == "blocks":
            (folder / "chat_template.jinja").write_text(template)
        elif name == "python":
            config["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
        else:
            config["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        hold(name, transformers.AutoTokenizer.from_pretrained(folder), ["--model", folder])
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/jumplens"))
    parser.add_argument("--run")
    parser.add_argument("--only", default="docs,smollm2,chat")
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        lens = Lens(args.program, folder)
        for what in args.only.split(","):
            good &= {"docs": lambda: docs(lens, documented()), "smollm2": lambda: smollm2(lens, documented(), args.run),
                     "chat": lambda: chat(lens)}[what]()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
