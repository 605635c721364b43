#!/usr/bin/env python3
"""Fills `corpus/` with what fuzzing starts from: the tests' small fixtures, in the form that each target takes."""

import json
import shutil
import struct
from pathlib import Path

HERE = Path(__file__).resolve().parent
FIXTURES = HERE.parent / "crates/jumplens/tests/fixtures"
# What stands between two files; `fuzz_targets/safetensors_index.rs` has it too.
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


def main() -> None:
    corpora = {name: HERE / "corpus" / name for name in ("gguf", "maps", "pickle", "safetensors_index")}
    for corpus in corpora.values():
        corpus.mkdir(parents=True, exist_ok=True)
    for path in FIXTURES.glob("gguf/*.gguf"):
        shutil.copy(path, corpora["gguf"])
    for path in FIXTURES.glob("pytorch/**/*.bin"):
        shutil.copy(path, corpora["pickle"])
    for kind, ending in enumerate(["pickle", "npy", "npz", "safetensors"]):
        for path in FIXTURES.glob(f"shortcuts/**/*.{ending}"):
            seed = corpora["maps"] / f"{path.parent.name}-{path.name}"
            seed.write_bytes(bytes([kind]) + path.read_bytes())
    for config in FIXTURES.glob("*/*/config.json"):
        if not (config.parent / "model.safetensors").exists():
            continue
        whole = (config.parent / "model.safetensors").read_bytes()
        for name, files in (("whole", [whole]), ("shards", shards(whole, 2))):
            seed = corpora["safetensors_index"] / f"{config.parent.parent.name}-{config.parent.name}-{name}"
            seed.write_bytes(NEXT.join([config.read_bytes(), *files]))
    for corpus in corpora.values():
        print(f"{corpus}: {len(list(corpus.iterdir()))} inputs")


if __name__ == "__main__":
    main()
