#!/usr/bin/env python3
"""How fast jumplens is beside its peers, at the sizes of real models, in one run on one machine.

    tools/bench_peers.py [--quick] [--only SECTION,…] [--isa SET,…] [--jumplens PROGRAM] [--json FILE]

Makes a virtual environment with PyTorch, transformers and scikit-learn (Python 3.11 or later; 5.8 GB, most of it the
CUDA libraries that PyTorch's wheel for Linux does not load without), checkpoints of random weights at the sizes of
GPT-2 small, BERT base and SmolLM2-135M, and samples as long as the bundled sentences. Then it measures, by section:

    rate        products of matrices: PyTorch's, and those of `cargo bench --bench matmul`: ours, gemm's and faer's
    forward     hidden states: `jumplens states` and transformers
    experiment  `jumplens run` at GPT-2 small's size with 9,000 and 3,000 samples: time by stage, peak memory
    fit         the 78 maps between GPT-2 small's layers: `cargo bench --bench fit` and scikit-learn
    reference   the experiment as a script does it that takes one sentence at a time, from a slice of it

Prints a Markdown table and writes it with all that it was made from to target/peers/bench.json. `--quick` takes small
counts, to try the script; its figures mean little.

`--isa avx2,avx512` measures all of it with each of these sets of vector instructions, one after another, and prints a table a
set and one of both. PyTorch, its MKL and oneDNN, numpy and scikit-learn are held to the same set. gemm and faer choose for
themselves: they are measured where the set is the CPU's best. Their files are named by the set (bench-avx2.json).
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# numpy and scipy are named because they carry the BLAS that scikit-learn computes with.
REQUIREMENTS = ["torch==2.15.0", "transformers==5.23.0", "scikit-learn==1.9.1", "safetensors==0.8.0",
                "threadpoolctl==3.8.0", "numpy==2.4.6", "scipy==1.17.1"]
SECTIONS = ["rate", "forward", "experiment", "fit", "reference"]
SEED = 0
# What holds the peers to a set of instructions: ATen's own kernels, MKL's, oneDNN's, OpenBLAS's.
HELD = {
    "portable": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41",
                 "OPENBLAS_CORETYPE": "Nehalem"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
             "OPENBLAS_CORETYPE": "Haswell"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "neon": {},
}


def cpu_fields():
    """What the system says of the CPU."""
    cpu = pathlib.Path("/proc/cpuinfo")
    return dict(re.findall(r"^(.+?)\s*: (.*)$", cpu.read_text() if cpu.exists() else "", re.M))


def best_isa():
    """The set that jumplens takes by itself on this CPU."""
    flags = set(cpu_fields().get("flags", "").split())
    if platform.machine() in ("arm64", "aarch64"):
        return "neon"
    return "avx512" if "avx512dq" in flags else "avx2" if {"avx2", "fma"} <= flags else "portable"


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=SECTIONS, metavar="SECTION,…",
                        help="sections to measure, whatever order they are named in (default: all)")
    parser.add_argument("--quick", action="store_true", help="small counts, to try the script")
    parser.add_argument("--isa", type=lambda text: text.split(","), default=[], metavar="SET,…",
                        help=f"sets of instructions to hold both sides to, one after another: {', '.join(HELD)} (default: "
                             "both take the best they find)")
    parser.add_argument("--jumplens", type=pathlib.Path, metavar="PROGRAM",
                        help="program to measure (default: built here with `cargo build --release`)")
    parser.add_argument("--json", type=pathlib.Path, default=TARGET / "peers/bench.json", metavar="FILE")
    parser.add_argument("--venv", type=pathlib.Path, default=TARGET / "peers-venv", metavar="DIR")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--reference-train", type=int, metavar="N", help="sentences of `reference` (default: 100)")
    parser.add_argument("--reference-val", type=int, metavar="N", help="validation sentences of it (default: 3)")
    args = parser.parse_args()
    if unknown := set(args.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    if unknown := set(args.isa) - set(HELD):
        parser.error(f"no set of instructions {', '.join(sorted(unknown))}: there are {', '.join(HELD)}")
    return args


def enter_venv(args):
    """Goes on in the virtual environment, with the threads asked for and no setting that slows OpenBLAS."""
    held = {"JUMPLENS_ISA", "OPENBLAS_L2_SIZE", *HELD["avx2"]}
    environment = {key: value for key, value in os.environ.items() if key not in held}
    if len(args.isa) == 1:
        environment |= {"JUMPLENS_ISA": args.isa[0], **HELD[args.isa[0]]}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads))
    environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    folder = args.venv.resolve()
    installed, wanted = folder / "installed.txt", "\n".join(REQUIREMENTS)
    if not installed.exists() or installed.read_text() != wanted:
        print("installing " + ", ".join(REQUIREMENTS), file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
        installed.write_text(wanted)
    if pathlib.Path(sys.prefix) != folder or environment != dict(os.environ):
        os.execve(folder / "bin/python", [str(folder / "bin/python"), *sys.argv], environment)


ARGS = parse_args()
enter_venv(ARGS)

# Only the virtual environment is sure to have these.
import numpy as np  # noqa: E402
import sklearn  # noqa: E402
import threadpoolctl  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from sklearn.linear_model import LinearRegression  # noqa: E402
from sklearn.metrics import r2_score  # noqa: E402

torch.set_num_threads(ARGS.threads)
transformers.utils.logging.disable_progress_bar()
WORK = TARGET / "peers"
JUMPLENS = (ARGS.jumplens or TARGET / "release/jumplens").resolve()

# Samples of the experiment; sentences and repeats of `forward`, and sentences that the peer's batch is chosen by.
TRAIN, VAL, SENTENCES, REPEATS, TRIED = (800, 40, 24, 1, 24) if ARGS.quick else (9000, 3000, 512, 3, 128)
PAIRS = [(5, 12), (0, 12), (10, 11), (3, 6), (7, 8)][:1 if ARGS.quick else 5]  # that scikit-learn fits
REFERENCE_TRAIN = ARGS.reference_train or (5 if ARGS.quick else 100)
REFERENCE_VAL = ARGS.reference_val or (1 if ARGS.quick else 3)
BENCH_ROWS = 9000  # of `cargo bench --bench fit`, whatever the counts above
PRODUCT = 2 * 2048 * 768 * 3072 / 1e9  # GFLOP of the product that machines are told apart by
FORMATS = {"f32": torch.float32, "bf16": torch.bfloat16}

# As the models' own config.json have them, as far as it matters here.
CONFIGS = {
    "gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new", "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257, "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02, "bos_token_id": 50256, "eos_token_id": 50256},
    "bert-base-uncased": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_act": "gelu", "hidden_size": 768,
        "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072, "max_position_embeddings": 512,
        "vocab_size": 30522, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "initializer_range": 0.02,
        "pad_token_id": 0},
    "SmolLM2-135M": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 576,
        "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30, "intermediate_size": 1536,
        "max_position_embeddings": 8192, "vocab_size": 49152, "rms_norm_eps": 1e-5, "rope_theta": 100000,
        "tie_word_embeddings": True, "initializer_range": 0.04, "bos_token_id": 0, "eos_token_id": 0},
}
BERT_MASK = 103
# Makes the random GPT-2 about as sure of its predictions as a trained one, on which early exit depends.
FINAL_NORM_SCALE = 10.0

Row = collections.namedtuple("Row", "what ours peer unit gflop")  # gflop: of a token, or of what takes the seconds
ROWS, NOTES, RATES = [], [], []
EXPERIMENT = {}  # seconds of `jumplens run` by number format and stage


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def clock(times):
    """Appends the seconds that the block takes."""
    started = time.perf_counter()
    yield
    times.append(time.perf_counter() - started)


# The material: checkpoints, samples, the program


def checkpoint(name):
    """Folder of the model with random weights, made where it is not there."""
    folder, config = WORK / name, json.dumps(CONFIGS[name], indent=2)
    recipe = json.dumps([config, SEED, FINAL_NORM_SCALE, torch.__version__])
    if (folder / "recipe.json").exists() and (folder / "recipe.json").read_text() == recipe:
        return folder
    say(f"making {folder.name}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config)
    torch.manual_seed(SEED)
    architecture = getattr(transformers, CONFIGS[name]["architectures"][0])
    model = architecture(transformers.AutoConfig.from_pretrained(folder))
    for path, weight in model.named_parameters():
        if weight.ndim == 1:  # initialised to 0 and 1, which would hide a bias or scale left out
            noise = torch.randn(weight.shape)
            weight.data = 0.1 * noise if path.endswith("bias") else 1 + 0.2 * noise
        if path == "transformer.ln_f.weight":
            weight.data *= FINAL_NORM_SCALE
    model.save_pretrained(folder)
    (folder / "config.json").write_text(config)  # transformers' own is of its newest layout
    (folder / "recipe.json").write_text(recipe)
    return folder


def sentences(name, count, seed):
    """[(ids, position)] as long as the bundled sentences, ids distributed by Zipf's law."""
    lines = (ROOT / "crates/jumplens-assets/assets/wikipedia_sentences.txt").read_text(encoding="utf-8").splitlines()
    random = np.random.default_rng([SEED, seed])
    cumulative = np.cumsum(1 / (np.arange(CONFIGS[name]["vocab_size"]) + 2.7))
    samples = []
    for line in random.choice(lines, count, replace=False):
        # Of English, subword tokenizers make about 1.2 tokens of a word or mark.
        length = min(max(round(1.2 * len(re.findall(r"\w+|[^\w\s]", line))), 5), 60)
        ids = np.searchsorted(cumulative, random.random(length) * cumulative[-1]).tolist()
        position = int(random.integers(length))
        if name == "bert-base-uncased":
            ids[position] = BERT_MASK
        samples.append((ids, position))
    return samples


def to_run(name, sample):
    """The tokens that both sides run: of a causal model those up to the position."""
    ids, position = sample
    return ids if name == "bert-base-uncased" else ids[:position + 1]


def sample_files(name, train, val, label):
    """The options with which jumplens takes them."""
    options = ["--model", str(checkpoint(name))]
    for split, samples in ("train", train), ("val", val):
        path = WORK / f"{name}-{label}-{split}.jsonl"
        path.write_text("".join(json.dumps({"ids": ids, "position": position}) + "\n" for ids, position in samples))
        options += [f"--{split}-samples", str(path)]
    return options


# On Linux a process begins with its parent's peak of memory: the program is started by a small one, not by this.
MEASURED = """import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)"""


def jumplens(command, folder, *options):
    """Runs the program; (seconds of the wall clock, bytes of memory at the peak, manifest)."""
    seconds = []
    line = [sys.executable, "-c", MEASURED, JUMPLENS, command, "--out", folder, "--threads", str(ARGS.threads), "-q"]
    with clock(seconds):
        done = subprocess.run([*line, *options], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"`jumplens {command}` failed")
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    return seconds[0], peak, json.loads((folder / "manifest.json").read_text())


def dtypes():
    """Options for each number format that the program computes in."""
    text = subprocess.run([JUMPLENS, "states", "--help"], capture_output=True, text=True, check=True).stdout
    return {"f32": ["--dtype", "f32"], "bf16": ["--dtype", "bf16"]} if "--dtype" in text else {"f32": []}


def criterion(bench, name):
    """Median seconds of one of the project's own benches, None where it is not there."""
    estimates = TARGET / "criterion" / bench / name / "new/estimates.json"
    estimates.unlink(missing_ok=True)  # of an earlier run
    say(f"cargo bench {name}")
    command = ["cargo", "bench", "--quiet", "--workspace", "--bench", bench, "--", name]
    done = subprocess.run(command + ["--quick"] * ARGS.quick, cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not estimates.exists():
        reason = next((line for line in done.stderr.splitlines() if line.startswith("error")), "no such benchmark")
        NOTES.append(f"`cargo bench --bench {bench} -- {name}` gave nothing: {reason}.")
        say(NOTES[-1])
        return None
    return json.loads(estimates.read_text())["median"]["point_estimate"] / 1e9


# The sections


def torch_rate(dtype=torch.float32, times=60):
    """Median GFLOP/s of products like those of a feed-forward layer."""
    a, b, seconds = torch.randn(2048, 768).to(dtype), torch.randn(768, 3072).to(dtype), []
    for _ in range(times):
        with clock(seconds):
            a @ b
        if sum(seconds) > 10:
            break
    return PRODUCT / statistics.median(seconds[min(len(seconds) - 1, times // 6):])


def rate():
    product = "2048x768x3072"
    for label, dtype in FORMATS.items():
        seconds = criterion("matmul", f"matmul_{label}_{product}")
        ours = seconds and PRODUCT / seconds
        peers = {"PyTorch": torch_rate(dtype)}
        if label == "f32" and ARGS.isa in ([], [best_isa()]):
            peers |= {library: PRODUCT / seconds for library, bench in (("gemm", "gemm_crate"), ("faer", "faer"))
                      if (seconds := criterion("matmul", f"{bench}_f32_{product}"))}
        for peer, speed in peers.items():
            ROWS.append(Row(f"product {product.replace('x', '×')}, {label} ({peer})", ours, speed, "GFLOP/s", 1))
        if label == "f32":
            RATES.extend(speed for speed in (ours, *peers.values()) if speed)


def load(name, dtype):
    """The model without its head, so that the peer computes no logits, which ours does not compute here either."""
    options = {"add_pooling_layer": False} if name == "bert-base-uncased" else {}
    return transformers.AutoModel.from_pretrained(
        checkpoint(name), dtype=dtype, attn_implementation="sdpa", **options).eval()


@torch.inference_mode()
def transformers_states(model, runs, positions, size):
    """([layers, samples, d] in f32 at the positions, tokens per second) in padded batches of like lengths."""
    states, seconds = [None] * len(runs), []
    cache = {} if model.config.model_type == "bert" else {"use_cache": False}
    with clock(seconds):
        order = sorted(range(len(runs)), key=lambda i: len(runs[i]))
        for batch in (order[at:at + size] for at in range(0, len(order), size)):
            longest = len(runs[batch[-1]])
            ids = torch.tensor([runs[i] + [0] * (longest - len(runs[i])) for i in batch])
            mask = torch.tensor([[1] * len(runs[i]) + [0] * (longest - len(runs[i])) for i in batch])
            hidden = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, **cache).hidden_states
            chosen = torch.arange(len(batch)), torch.tensor([positions[i] for i in batch])
            for i, state in zip(batch, torch.stack([layer[chosen] for layer in hidden], 1).float()):
                states[i] = state
        states = torch.stack(states, 1)
    return states, sum(map(len, runs)) / seconds[0]


def multiplied_by_peer():
    """The number formats that PyTorch multiplies at a rate worth timing: without instructions for one it goes value by value."""
    rates = {label: torch_rate(FORMATS[label], 3) for label in dtypes()}
    slow = [label for label, speed in rates.items() if speed < rates["f32"] / 10]
    if slow:
        NOTES.append(f"PyTorch multiplies {', '.join(f'{label} at {rates[label]:.1f} GFLOP/s' for label in slow)} with these "
                     "instructions: transformers was not timed in it.")
    return [label for label in rates if label not in slow]


def forward():
    timed = multiplied_by_peer()
    for name in CONFIGS:
        samples = sentences(name, SENTENCES + 1, 1)
        options = sample_files(name, samples[:-1], samples[-1:], "forward")  # the program wants a sample in each file
        runs, positions = [to_run(name, sample) for sample in samples], [position for _, position in samples]
        few = slice(None, None, max(1, len(runs) // TRIED))
        peers, sizes, speeds, states = {}, {}, collections.defaultdict(list), {}
        for label in timed:
            peers[label] = load(name, FORMATS[label])
            transformers_states(peers[label], runs[:16], positions, 8)  # the first run is slower
            tried = {size: transformers_states(peers[label], runs[few], positions[few], size)[1]
                     for size in (4, 8, 16, 32, 64)}
            sizes[label] = max(tried, key=tried.get)
        for repeat in range(REPEATS):
            say(f"states of {name}, {repeat + 1} of {REPEATS}")
            for label, dtype in dtypes().items():
                _, _, manifest = jumplens("states", WORK / "forward", "--overwrite", *dtype, *options)
                speeds[f"ours {label}"].append(manifest["stages"]["states"]["tokens_per_second"])
                if label in timed:
                    states[f"peer {label}"], speed = transformers_states(peers[label], runs, positions, sizes[label])
                    speeds[f"peer {label}"].append(speed)
                files = sorted((WORK / "forward/states/train").glob("*.safetensors"))
                states[f"ours {label}"] = torch.stack([load_file(file)["states"].float() for file in files])
        weights = sum(weight.numel() for path, weight in peers["f32"].named_parameters()
                      if not re.search(r"embeddings\.|embed_tokens|wte|wpe", path))
        for label in dtypes():
            ours, peer = (statistics.median(measured) if (measured := speeds.get(f"{side} {label}")) else None
                          for side in ("ours", "peer"))
            ROWS.append(Row(f"states of {name}, {label}", ours, peer, "tok/s", 2 * weights / 1e9))
        # The last of transformers' hidden states is behind the final norm, and the last sample not in our files.
        exact = states.pop("peer f32")[:-1, :-1]
        off = {side: (h[:-1, :SENTENCES] - exact).norm() / exact.norm() for side, h in states.items()}
        NOTES.append(
            f"{name}: {sum(map(len, runs)):,} tokens of {len(runs)} sentences, {weights / 1e6:.1f} M weights beside the "
            "embeddings; fastest batches of the peer: " + ", ".join(f"{label} {size}" for label, size in sizes.items())
            + "; tokens/s: " + ", ".join(f"{side} {min(v):.0f} to {max(v):.0f}" for side, v in speeds.items())
            + "; states off from the peer's in f32 (2-norm, relative): "
            + ", ".join(f"{side} {value:.1e}" for side, value in off.items()) + ".")
    NOTES.append("Tokens are those before and at the chosen position (BERT: all of the sentence), padding not counted; "
                 "shares take 2 FLOP a weight and token. Ours writes the states to disk within its time.")


def experiment_options():
    samples = sentences("gpt2", TRAIN + VAL, 2)
    return sample_files("gpt2", samples[:TRAIN], samples[TRAIN:], "experiment")


def experiment():
    options = experiment_options()
    for label, dtype in dtypes().items():
        say(f"jumplens run, {label}")
        seconds, peak, manifest = jumplens("run", WORK / f"experiment-{label}", "--overwrite", *dtype, *options)
        EXPERIMENT[label] = {"all": seconds} | {name: stage["seconds"] for name, stage in manifest["stages"].items()}
        stages = ", ".join(f"{name} {stage:.1f} s" for name, stage in EXPERIMENT[label].items())
        NOTES.append(f"jumplens run, {label}, {TRAIN} and {VAL} samples: {stages}; peak memory {peak / 1e6:.0f} MB.")
        ROWS.append(Row(f"jumplens run at the size of gpt2, {label}", seconds, None, "s", None))


def sklearn_fit(x, y):
    return LinearRegression(fit_intercept=False).fit(x, y).coef_


def fit():
    folder = WORK / "experiment-f32"
    if "f32" not in EXPERIMENT:
        say("states and maps for `fit`")
        folder = WORK / "fit"
        jumplens("states", folder, "--overwrite", *dtypes()["f32"], *experiment_options())
        jumplens("fit", folder)

    def states(split, layer):
        return load_file(folder / f"states/{split}/{layer:02}.safetensors")["states"].numpy()

    # Quick runs have fewer rows: drawn again, for the time of as many as the bench has.
    drawn = np.random.default_rng(SEED).integers(TRAIN, size=BENCH_ROWS) if TRAIN < BENCH_ROWS else slice(None)
    seconds, differences = [], []
    for source, target in PAIRS:
        say(f"scikit-learn, layer {source} to {target}")
        x, y = states("train", source), states("train", target)
        with clock(seconds):
            sklearn_fit(x[drawn], y[drawn])
        u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
        kept = s > 1e-6 * s[0]
        maps = {"SVD": (u.T[kept] @ y / s[kept, None]).T @ vt[kept], "scikit-learn": sklearn_fit(x, y),
                "ours": load_file(folder / f"shortcuts/{source:02}.safetensors")[f"{source:02}_{target:02}"].numpy()}
        x, y = states("val", source).astype(np.float64), states("val", target).astype(np.float64)
        r2 = {side: r2_score(y, x @ a.T) for side, a in maps.items()}
        differences.append(f"{source} to {target} {r2['SVD']:.6f} (ours {r2['ours'] - r2['SVD']:+.1e}, "
                           f"scikit-learn {r2['scikit-learn'] - r2['SVD']:+.1e})")
    d, layers = CONFIGS["gpt2"]["n_embd"], CONFIGS["gpt2"]["n_layer"]
    pairs = layers * (layers + 1) // 2
    gflop = pairs * 2 * BENCH_ROWS * d * d / 1e9
    ours, bare = (criterion("fit", f"{name}_{BENCH_ROWS}x{d}") for name in ("fit_all_pairs", "fit_bare_products"))
    ROWS.append(Row(f"{pairs} maps from {BENCH_ROWS}×{d}", ours, pairs * statistics.median(seconds), "s", gflop))
    ROWS.append(Row("the same beside its bare products", ours, bare, "s", gflop))
    NOTES.append(f"scikit-learn's time is {pairs} times the median of {len(seconds)} fits ({min(seconds):.2f} to "
                 f"{max(seconds):.2f} s), `LinearRegression(fit_intercept=False)` on f32. Shares count one product "
                 f"{d}×{BENCH_ROWS}×{d} a map, which no method does without.")
    NOTES.append("r² on validation samples of maps by an SVD in f64, and the others' differences: "
                 + ", ".join(differences) + ".")


@torch.inference_mode()
def reference():
    """Re-creates what the method's first implementation does: plain PyTorch, one sentence at a time."""
    say("reference")
    model = load("gpt2", torch.float32)
    layers, d = len(model.h), model.config.n_embd
    final_norm, model.ln_f = model.ln_f, torch.nn.Identity()  # hidden states then end with the last block's output
    seconds = collections.defaultdict(list)

    def hidden_states(sample):
        ids = torch.tensor([to_run("gpt2", sample)])
        return [h[0] for h in model(ids, output_hidden_states=True, use_cache=False).hidden_states]  # [tokens, d] each

    outputs, hooks = collections.defaultdict(list), []
    for layer, block in enumerate(model.h):
        for part, module in ("ln1", block.ln_1), ("attn", block.attn), ("ln2", block.ln_2), ("ffn", block.mlp):
            def keep(_module, _inputs, output, key=(layer, part)):
                outputs[key].append((output[0] if isinstance(output, tuple) else output)[0, -1])
            hooks.append(module.register_forward_hook(keep))
    train = sentences("gpt2", REFERENCE_TRAIN, 3)
    hidden_states(train[0])  # the first run is slower
    outputs.clear()
    with clock(seconds["states"]):
        states = torch.stack([torch.stack([h[-1] for h in hidden_states(sample)]) for sample in train])
    for hook in hooks:
        hook.remove()
    parts = {key: torch.stack(rows) for key, rows in outputs.items()}
    maps, to_last = {}, {}
    for layer in range(layers):
        to_last[layer] = torch.tensor(sklearn_fit(states[:, layer].numpy(), states[:, layers].numpy()))
        sources = {"ln1": states[:, layer], "attn": parts[layer, "ln1"],
                   "ln2": states[:, layer] + parts[layer, "attn"], "ffn": parts[layer, "ln2"]}
        for part, source in sources.items():
            maps[layer, part] = torch.tensor(sklearn_fit(source.numpy(), parts[layer, part].numpy()))
    # The slice has too few rows to time a fit by. What is in them hardly matters to the time.
    random = np.random.default_rng(SEED)
    x, y = random.standard_normal((2, TRAIN, d), dtype=np.float32)
    with clock(seconds["fit"]):
        matrix = sklearn_fit(x, y)
    x, y = random.standard_normal((2, VAL, d), dtype=np.float32)
    with clock(seconds["r2"]):
        r2_score(y, x @ matrix.T), r2_score(y, x)

    def head(state):
        return torch.softmax(model.wte.weight @ final_norm(state), -1)

    def cast(name, states, layer):
        return to_last[layer] @ states[layer][-1] if name == "mat" and layer < layers else states[layer][-1]

    def run_blocks(hidden, first, replaced):
        def part(name, module, x):
            return x @ maps[layer, name].T if name in replaced else module(x)

        for layer in range(first, layers):
            block = model.h[layer]
            normed = part("ln1", block.ln_1, hidden)
            hidden = hidden + part("attn", lambda x: block.attn(x[None])[0][0], normed)
            hidden = hidden + part("ffn", block.mlp, part("ln2", block.ln_2, hidden))
        return hidden

    def measure(model_says, cast_says):
        top = cast_says.topk(10).indices
        return [int(top[0]) in model_says.topk(k).indices.tolist() for k in (1, 5, 10)], float(-model_says[top[0]].log())

    steps = [step / 10 for step in range(11)]
    lambdas = {"mat": [-1.112, *steps, 1.112], "id": [-1.112, *steps, *(1 + 0.0112 * i for i in range(1, 10)), 1.112]}
    val = sentences("gpt2", 1000, 4)
    mean_length = statistics.mean(position + 1 for _, position in val)
    # Spread evenly over the lengths, since what is run on a few has to stand for all.
    val = sorted(val, key=lambda sample: sample[1])[1000 // REFERENCE_VAL // 2::1000 // REFERENCE_VAL][:REFERENCE_VAL]
    exits = {"id": [], "mat": []}
    for sample in val:
        states, position = hidden_states(sample), sample[1]
        assert torch.allclose(run_blocks(states[0], 0, ()), states[-1], 1e-3, 1e-3), "the blocks by hand are wrong"
        with clock(seconds["casts id, mat"]):
            model_says = head(states[-1][-1])
            for name in "id", "mat":
                for layer in range(layers + 1):
                    measure(model_says, head(cast(name, states, layer)))
        with clock(seconds["casts that run blocks"]):
            for replaced in ("attn",), ("ffn",), ("ln1", "ln2"):
                for layer in range(layers):
                    measure(model_says, head(run_blocks(states[layer], layer, replaced)[-1]))
        with clock(seconds["early exit"]):
            for name, grid in lambdas.items():
                for value in grid:
                    threshold = 0.9 * value + 0.1 * np.exp(-4 * position / mean_length)
                    for layer in range(1, layers + 1):
                        cast_says = head(cast(name, states, layer))
                        best, second = cast_says.topk(2).values
                        if layer == layers or best - second > threshold:
                            break
                    measure(model_says, cast_says)
                    exits[name].append(layer)

    pairs, part_maps = layers * (layers + 1) // 2, 4 * layers
    mean = {work: statistics.mean(times) for work, times in seconds.items()}
    per_sentence = {work: mean[work] for work in ("casts id, mat", "casts that run blocks", "early exit")}
    whole = {"states": mean["states"] / len(train) * (TRAIN + VAL), "fit": mean["fit"] * (pairs + part_maps),
             "r2": mean["r2"] * pairs, "evaluate": sum(per_sentence.values()) * VAL}
    whole["all"] = sum(whole.values())
    for work, peer in whole.items():
        ROWS.append(Row(f"experiment, {work}", EXPERIMENT.get("f32", {}).get(work), peer, "s", None))
    NOTES.append("The peer of the rows `experiment` is a re-creation of what the method's first implementation does "
                 "(PyTorch in f32, one sentence at a time, scikit-learn), extrapolated from a slice that ran to its end: "
                 f"{len(train)} sentences ({mean['states']:.1f} s), one fit of {TRAIN}×{d} ({mean['fit']:.2f} s), r² of "
                 f"one pair ({mean['r2']:.3f} s), {len(val)} validation sentences; to {TRAIN} and {VAL} sentences, {pairs} "
                 f"maps between layers and {part_maps} of parts (ours: {6 * layers}), and r² on validation samples (ours: "
                 "on both).")
    NOTES.append("Seconds a validation sentence: " + ", ".join(f"{work} {value:.2f}" for work, value in per_sentence.items())
                 + "; mean layer of exit " + ", ".join(f"{name} {statistics.mean(at):.1f}" for name, at in exits.items())
                 + ", on random weights: the time of early exit goes with it.")


# The report


def facts():
    fields = cpu_fields()
    flags = set(fields.get("flags", "").split()) & {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"}
    blas = {f"{blas['internal_api']} {blas['version']} ({blas.get('architecture')})"
            for blas in threadpoolctl.threadpool_info() if blas["user_api"] == "blas"}
    program = subprocess.run([JUMPLENS, "--version"], capture_output=True, text=True, check=True)
    return {
        "CPU": fields.get("model name", platform.processor()), "cores": os.cpu_count(), "threads": ARGS.threads,
        "flags": " ".join(sorted(flags)), "instructions": ARGS.isa[0] if ARGS.isa else f"{best_isa()}, the best", "load before": round(os.getloadavg()[0], 1), "program": program.stdout.strip(),
        "python": platform.python_version(), "torch": f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()})",
        "transformers": transformers.__version__, "scikit-learn": sklearn.__version__, "numpy": np.__version__,
        "BLAS of numpy and scipy": ", ".join(sorted(blas)), "quick": ARGS.quick}


def finished(row):
    """The row with its ratio (above 1: ours is faster) and both sides' shares of the best f32 rate."""
    ours, peer = (value and (1 / value if row.unit == "s" else value) for value in (row.ours, row.peer))
    ours_share, peer_share = (value and row.gflop and value * row.gflop / max(RATES) for value in (ours, peer))
    return {**row._asdict(), "ratio": ours and peer and ours / peer, "ours_share": ours_share, "peer_share": peer_share}


def report(about):
    rows = [finished(row) for row in ROWS]
    everything = {"facts": about, "f32_rates": RATES, "rows": rows, "notes": NOTES, "experiment": EXPERIMENT}
    ARGS.json.parent.mkdir(parents=True, exist_ok=True)
    ARGS.json.write_text(json.dumps(everything, indent=1) + "\n")
    lines = ["| what | unit | ours | peer | times faster | ours, share of f32 rate | peer's share |",
             "|---|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        places = int(row["unit"] == "s")
        digits = {"ours": places, "peer": places, "ratio": 2, "ours_share": 2, "peer_share": 2}
        cells = ["-" if row[key] is None else f"{row[key]:,.{places}f}" for key, places in digits.items()]
        lines.append(f"| {' | '.join([row['what'], row['unit'], *cells])} |")
    notes = ["; ".join(f"{key}: {value}" for key, value in about.items()) + ".",
             f"f32 rates before and after each section, PyTorch's and the bench's: {min(RATES):.0f} to {max(RATES):.0f} "
             "GFLOP/s; shares are of the best.", *NOTES]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def each_isa():
    """Measures with each set of instructions in a process of its own, since the peers choose when they are loaded."""
    measured = {}
    for isa in ARGS.isa:
        arguments = {"only": ",".join(ARGS.only), "isa": isa, "json": ARGS.json.with_stem(f"{ARGS.json.stem}-{isa}"),
                     "jumplens": JUMPLENS, "venv": ARGS.venv, "threads": ARGS.threads,
                     "reference-train": ARGS.reference_train, "reference-val": ARGS.reference_val}
        given = [f"--{name}={value}" for name, value in arguments.items() if value is not None]
        print(f"\n## {isa}\n", flush=True)
        subprocess.run([sys.executable, __file__, *given, *["--quick"] * ARGS.quick], check=True)
        measured[isa] = {row["what"]: row for row in json.loads(arguments["json"].read_text())["rows"]}
    lines = ["| what | unit | " + " | ".join(f"{isa}, ours | peer | times faster" for isa in measured) + " |",
             "|---|---|" + "---:|" * 3 * len(measured)]
    for what in dict.fromkeys(what for rows in measured.values() for what in rows):
        row = {isa: rows.get(what) for isa, rows in measured.items()}
        unit = next(filter(None, row.values()))["unit"]
        digits = {"ours": int(unit == "s"), "peer": int(unit == "s"), "ratio": 2}
        cells = ["-" if row[isa] is None or row[isa][key] is None else f"{row[isa][key]:,.{places}f}"
                 for isa in measured for key, places in digits.items()]
        lines.append(f"| {' | '.join([what, unit, *cells])} |")
    print("\n## All of them\n\n" + "\n".join(lines))


def main():
    if not ARGS.jumplens:
        subprocess.run(["cargo", "build", "--release", "--quiet", "--workspace", "--bins"], cwd=ROOT, check=True)
    if len(ARGS.isa) > 1:
        return each_isa()
    WORK.mkdir(parents=True, exist_ok=True)
    about = facts()
    if about["load before"] > ARGS.threads / 4:
        NOTES.append("Something else was running: the figures are not to be trusted, least of all the peers', whose threads "
                     "wait for each other at every product.")
        say(NOTES[-1])
    sections = {"rate": rate, "forward": forward, "experiment": experiment, "fit": fit, "reference": reference}
    for name in SECTIONS:
        if name in ARGS.only:
            RATES.append(torch_rate())
            sections[name]()
            report(about)  # what is measured is kept, should a later section break
    RATES.append(torch_rate())
    print(report(about))


if __name__ == "__main__":
    main()
