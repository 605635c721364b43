#!/usr/bin/env python3
"""Fills `corpus/` with what fuzzing starts from: the tests' small fixtures, in the form that each target takes."""

import bz2
import gzip
import json
import shutil
import struct
from html import unescape
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "crates/jumplens/tests/fixtures"
# What stands between two files; `src/lib.rs` has it too.
NEXT = b"\n=====\n"


def shards(safetensors: bytes, n: int) -> list[bytes]:
    """The index of a checkpoint and the `n` shards that its tensors are dealt to."""
    (length,) = struct.unpack("<Q", safetensors[:8])
    header = json.loads(safetensors[8 : 8 + length])
    header.pop("__metadata__", None)
    data = safetensors[8 + length :]
    headers, bodies, weight_map = [{} for _ in range(n)], [b""] * n, {}
    for number, (name, tensor) in enumerate(header.items()):
        shard = number % n
        start, end = tensor["data_offsets"]
        offsets = [len(bodies[shard]), len(bodies[shard]) + end - start]
        headers[shard][name] = tensor | {"data_offsets": offsets}
        bodies[shard] += data[start:end]
        weight_map[name] = f"{shard}.safetensors"
    index = {"metadata": {"total_size": len(data)}, "weight_map": weight_map}
    texts = [json.dumps(header, separators=(",", ":")).encode() for header in headers]
    return [json.dumps(index).encode()] + [
        struct.pack("<Q", len(text)) + text + body for text, body in zip(texts, bodies)
    ]


def tokenizer(model: dict, **others: object) -> bytes:
    """A `tokenizer.json`."""
    special = {"single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True}
    whole = {"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>"} | special], "model": model} | others
    return json.dumps(whole).encode()


def tokenizers() -> dict[str, bytes]:
    """Tokenizers of every kind of model, with the parts that are found in the files of real ones."""
    pieces = ["<s>", "a", "t", "h", "e", "n", "\u2581", "\u0120", "th", "the", "\u2581the", "##e", "##n", "[UNK]"]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    pairs = [["t", "h"], ["th", "e"], ["\u2581", "the"]]
    bytes_ = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    pattern = {"Regex": "'(?i:[sdmt]|ll)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    around = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    bert = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True,
    }  # fmt: skip
    return {
        "bpe": tokenizer(
            {"type": "BPE", "vocab": vocab, "merges": pairs, "byte_fallback": False, "unk_token": "[UNK]"},
            normalizer={"type": "NFC"}, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, bytes_]},
            post_processor=around, decoder=bytes_,
        ),
        "bpe-strings": tokenizer(
            {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in pairs], "dropout": None,
             "fuse_unk": True, "byte_fallback": True, "ignore_merges": True, "unk_token": "<s>"},
            normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]},
            post_processor=around, truncation=None, padding=None,
        ),
        "word_piece": tokenizer(
            {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100},
            normalizer=bert, pre_tokenizer={"type": "BertPreTokenizer"},
            post_processor={"type": "BertProcessing", "sep": ["a", 1], "cls": ["<s>", 0]},
            truncation={"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        ),
        "unigram": tokenizer(
            {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
             "vocab": [[piece, -float(number)] for number, piece in enumerate(pieces)]},
            normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
            pre_tokenizer=metaspace, decoder=metaspace,
            post_processor={"type": "RobertaProcessing", "sep": ["a", 1], "cls": ["<s>", 0], "trim_offsets": True,
                            "add_prefix_space": True},
            padding={"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": 4, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "<s>"},
        ),
        "words": tokenizer(
            {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="},
            pre_tokenizer={"type": "Sequence", "pretokenizers": [
                {"type": "Whitespace"}, {"type": "Punctuation", "behavior": "MergedWithNext"},
                {"type": "Digits", "individual_digits": True}, {"type": "UnicodeScripts"}, {"type": "WhitespaceSplit"}]},
        ),
    }  # fmt: skip


def charsmap() -> bytes:
    """A table that makes a b of every a: a trie of double arrays, then what its values are offsets in."""
    has_leaf, offset, label = 1 << 8, 1, ord("a")
    units = [0] * 256
    units[0] = offset << 10
    units[offset ^ label] = label | has_leaf | (128 << 10)
    units[offset ^ label ^ 128] = 1 << 31
    return struct.pack("<I256I", 4 * len(units), *units) + b"b\0"


def zstandard(content: bytes) -> bytes:
    """A frame of blocks that are stored as they are."""
    size = 1 << 17
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    frame = b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(content))
    for number, block in enumerate(blocks):
        is_last = number + 1 == len(blocks)
        frame += struct.pack("<I", is_last | len(block) << 3)[:3] + block
    return frame


def pages(dumps: Path, texts: Path) -> None:
    """Two of the shortest articles of a dump as dumps of their own, and the wikitext of some."""
    xml = bz2.decompress((HERE.parent / "crates/jumplens/tests/data/enwiki-sample.xml.bz2").read_bytes())
    header, *rest = xml.split(b"  <page>")
    pages = (b"  <page>" + page.split(b"</mediawiki>")[0] for page in rest)
    articles = sorted((page for page in pages if b"<redirect" not in page), key=len)
    header = header[:600] + header[header.index(b"<namespaces>") :]
    small = [header, *articles[:2], b"</mediawiki>\n"]
    dump = b"".join(small)
    seeds = [dump, bz2.compress(dump), gzip.compress(dump), zstandard(dump)]
    for kind, seed in enumerate(seeds):
        (dumps / f"whole-{kind}").write_bytes(bytes([kind]) + seed)
    (dumps / "streams").write_bytes(b"\1" + b"".join(bz2.compress(part, 1) for part in small))
    for number, article in enumerate(articles[2:30]):
        text = article[article.index(b"<text") :].split(b">", 1)[1].split(b"</text>")[0]
        (texts / f"{number}").write_text(unescape(text.decode()[:6000]))


def main() -> None:
    names = (
        "charsmap", "config", "corpus", "dump", "gguf", "manifest", "maps", "moments", "parquet", "pickle",
        "safetensors_index", "samples", "tokenizer", "wikitext",
    )  # fmt: skip
    corpora = {name: HERE / "corpus" / name for name in names}
    for corpus in corpora.values():
        corpus.mkdir(parents=True, exist_ok=True)
    for path in FIXTURES.glob("gguf/*.gguf"):
        shutil.copy(path, corpora["gguf"])
    for path in FIXTURES.glob("pytorch/**/*.bin"):
        shutil.copy(path, corpora["pickle"])
    for config in (path for path in FIXTURES.glob("*/*/config.json") if (path.parent / "model.safetensors").exists()):
        whole = (config.parent / "model.safetensors").read_bytes()
        for name, files in (("whole", [whole]), ("shards", shards(whole, 2))):
            seed = corpora["safetensors_index"] / f"{config.parent.parent.name}-{config.parent.name}-{name}"
            seed.write_bytes(NEXT.join([config.read_bytes(), *files]))
    for kind, ending in enumerate(["pickle", "npy", "npz", "safetensors"]):
        for path in FIXTURES.glob(f"shortcuts/**/*.{ending}"):
            seed = corpora["maps"] / f"{path.parent.name}-{path.name}"
            seed.write_bytes(bytes([kind]) + path.read_bytes())
    lens = FIXTURES / "shortcuts/tuned_lens"
    files = [(lens / name).read_bytes() for name in ("config.json", "params.pt")]
    (corpora["maps"] / "tuned_lens").write_bytes(b"\4" + NEXT.join(files))
    # `fuzz_targets/config.rs` has the same families in the same order.
    for number, config in enumerate(sorted(FIXTURES.glob("families/*/config.json"))):
        compact = json.dumps(json.loads(config.read_bytes()), separators=(",", ":")).encode()
        (corpora["config"] / config.parent.name).write_bytes(bytes([ord("a") + number]) + compact)
    for name, text in tokenizers().items():
        (corpora["tokenizer"] / name).write_bytes(text)
    words = "[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\na\n##n\n".encode()
    pairs = b"#version: 0.2\nt h\nth e\n"
    vocab = b'{"<|endoftext|>":0,"t":1,"h":2,"e":3,"th":4,"the":5}'
    (corpora["tokenizer"] / "bert").write_bytes(NEXT.join([words, b'{"do_lower_case":true,"strip_accents":null}']))
    config = b'{"add_bos_token":true,"bos_token":{"content":"<|endoftext|>"},"unk_token":null}'
    (corpora["tokenizer"] / "gpt2").write_bytes(NEXT.join([vocab, pairs, config]))
    line = b'{"ids":[5,999,0],"position":1,"target":7,"text":"a \\u00e9"}\n'
    (corpora["samples"] / "lines").write_bytes(line + b'\n  \n{"position": 0, "ids": [12]}\n')
    pages(corpora["dump"], corpora["wikitext"])
    (corpora["corpus"] / "text").write_bytes(b"\0One sentence.\n\nAnother one.\n")
    (corpora["corpus"] / "json").write_bytes(b'\1{"text": "One. Two\\n\\u00e9", "id": [1, null]}\n{"text": "Three"}\n')
    for path in FIXTURES.glob("corpora/*.parquet"):
        (corpora["corpus"] / path.name).write_bytes(b"\2" + path.read_bytes())
        shutil.copy(path, corpora["parquet"])
    for kind in range(3):
        (corpora["charsmap"] / f"{kind}").write_bytes(bytes([kind]) + charsmap())
    for corpus in corpora.values():
        print(f"{corpus}: {len(list(corpus.iterdir()))} inputs")


if __name__ == "__main__":
    main()
