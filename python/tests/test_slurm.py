"""The script for Slurm, by a stand-in for `sbatch` that does each job at once, an array's last task first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jumplens as jl
import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "slurm" / "jumplens.sh"
if not SCRIPT.exists() or sys.platform == "win32":
    pytest.skip("needs the repository, and bash", allow_module_level=True)

SBATCH = """#!/bin/bash
set -euo pipefail
jobs=$(dirname "$0")/jobs
mkdir -p "$jobs"
job=$(($(ls "$jobs" | wc -l) + 1))
tasks=""
while [ "${1#--}" != "$1" ]; do
    case $1 in
    --parsable) ;;
    --array=1-*) tasks=${1#--array=1-} ;;
    --dependency=afterok:*) [ "$(cat "$jobs/${1#--dependency=afterok:}")" = 0 ] || { echo "$job"; echo 1 > "$jobs/$job"; exit; } ;;
    *) echo "sbatch: $1 is not known to the stand-in" >&2; exit 2 ;;
    esac
    shift
done
# Slurm runs a copy of the script, with the options that stand in it.
script=$jobs/../script
cp "$1" "$script"
shift
export SLURM_JOB_ID=$job SLURM_CPUS_PER_TASK=$(sed -n 's/^#SBATCH --cpus-per-task=//p' "$script")
code=0
if [ -z "$tasks" ]; then
    bash "$script" "$@" >&2 || code=1
else
    for task in $(seq "$tasks" -1 1); do
        SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$tasks bash "$script" "$@" >&2 || code=1
    done
fi
echo "$code" > "$jobs/$job"
echo "$job"
"""


def submit(at: Path, *options: str) -> tuple[list[str], str]:
    """Submits the script, and gives how its jobs ended, and what they said."""
    bin = at / "bin"
    bin.mkdir(exist_ok=True)
    for name, text in [("sbatch", SBATCH), ("jumplens", f'#!/bin/bash\nexec "{sys.executable}" -m jumplens -q "$@"\n')]:
        (bin / name).write_text(text)
        (bin / name).chmod(0o755)
    jobs = bin / "jobs"
    for job in jobs.iterdir() if jobs.exists() else []:
        job.unlink()
    environment = {
        **os.environ, "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "OUT": str(at / "out"), "SHARES": "3", "CASTS": "id,mat,mat_ridge",
        "PYTHONPATH": os.pathsep.join([str(Path(jl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    done = subprocess.run([str(SCRIPT), *options], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(jobs / str(job)).read_text().strip() for job in range(1, 5)], done.stderr


def jumplens(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-m", "jumplens", "-q", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_array_job_gives_the_bytes_of_one_machine(tmp_path: Path) -> None:
    options = ["--train", "400", "--val", "90", "--pairs", "to-final"]
    casts = ["--casts", "id,mat,mat_ridge"]
    # A share that fails ends the rest; what is done stays done, and the same command goes on.
    part = tmp_path / "out" / "share-2" / "states"
    part.parent.mkdir(parents=True)
    part.touch()
    ended, _ = submit(tmp_path, *options)
    assert ended == ["1", "1", "1", "1"]
    sums = tmp_path / "out" / "share-1" / "moments.safetensors"
    before = sums.stat().st_mtime_ns
    part.unlink()
    part.parent.rmdir()
    ended, said = submit(tmp_path, *options)
    assert ended == ["0", "0", "0", "0"], said
    assert sums.stat().st_mtime_ns == before

    one, fitted, result = tmp_path / "one", tmp_path / "fitted", tmp_path / "out" / "result"
    jumplens("moments", *options, *casts, "--out", one)
    jumplens("fit", "--moments", one / "moments.safetensors", *casts, "--out", fitted)
    jumplens("evaluate", *casts, "--shortcuts", fitted, "--out", one)
    for table in ["layers.csv", "early_exit.csv", "predictions.parquet"]:
        assert (one / "results" / table).read_bytes() == (result / "results" / table).read_bytes(), table
    assert (fitted / "results" / "r2.csv").read_bytes() == (result / "results" / "r2.csv").read_bytes()
    maps = sorted(path.relative_to(fitted) for path in fitted.glob("shortcuts/**/*.safetensors"))
    assert maps and all((fitted / path).read_bytes() == (result / path).read_bytes() for path in maps)
    assert (result / "report.html").exists()
