"""The program, and what it leaves, with NumPy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jumplens as jl
import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> jl.Run:
    folder = tmp_path_factory.mktemp("run") / "tiny-gpt2"
    jumplens("run", "--train", "400", "--val", "50", "--intercept", "--out", str(folder))
    return jl.Run(folder)


def jumplens(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "jumplens", *args], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def test_the_program_is_that_of_the_crate() -> None:
    assert jumplens("--version").stdout.split() == ["jumplens", jl.__version__]
    assert "nowhere" in jumplens("info", "./nowhere", code=1).stderr


def test_tables_are_those_of_the_run(run: jl.Run) -> None:
    layers = run.layers()
    assert sorted(set(layers["mapping"])) == ["id", "mat", "mat+b", "mat_attn", "mat_ffn", "mat_ln1_ln2"]
    assert len(layers["layer"]) == 6 * 13 and set(layers["precision_1"][layers["layer"] == 12]) == {1.0}
    assert len(run.early_exit()["lambda"]) > 10 and len(run.ranks()["median"]) > 10 and len(run.spectra()["index"]) > 10
    assert run.manifest["seed"] == 0


def test_maps_give_the_r2_of_the_run(run: jl.Run) -> None:
    maps, table = run.maps(), run.r2()
    assert maps.casts == ["mat", "mat+b"] and len(maps) == 78
    for mapping in maps.casts:
        chosen = [row for row in zip(table["mapping"], table["from"], table["to"], table["r2"]) if row[0] == mapping]
        for _, i, j, r2 in chosen[::7]:
            assert maps.cast(mapping)[i, j].r2(run.states(i), run.states(j)) == pytest.approx(r2, abs=1e-12)
    assert maps.info()["origin"]["model"] == "tiny-gpt2"
    fitted = jl.fit(run.states(3, "train"), run.states(12, "train"))
    np.testing.assert_array_equal(fitted.weight, maps[3, 12].weight)


def test_what_was_changed_is_refused(run: jl.Run, tmp_path: Path) -> None:
    path = run.folder / "results" / "r2.csv"
    text = path.read_text()
    try:
        path.write_text(text.replace("0.9", "0.8"))
        with pytest.raises(ValueError, match=r"r2\.csv"):
            run.r2()
    finally:
        path.write_text(text)
    with pytest.raises(FileNotFoundError, match="no run"):
        jl.Run(tmp_path)


def test_nothing_is_written_into_a_run(run: jl.Run) -> None:
    for place in (run.folder, run.folder / "shortcuts" / "00.safetensors"):
        with pytest.raises(ValueError, match="tiny-gpt2"):
            run.maps().save(place, overwrite=True)


def test_what_is_bundled_is_what_the_program_brings(tmp_path: Path) -> None:
    for name in ("tiny-gpt2", "tiny-bert"):
        folder = jl.bundled(name, tmp_path)
        assert folder == tmp_path / name
        files = [jumplens("info", model).stdout.partition("sha256")[2].split() for model in (name, str(folder))]
        assert len(files[0]) == 9 and files[0] == files[1][:9]
    sentences = jl.bundled("wikipedia-sample", tmp_path)
    for corpus, out in (("wikipedia-sample", "named"), (str(sentences), "written")):
        jumplens("samples", "--corpus", corpus, "--train", "40", "--val", "9", "--out", str(tmp_path / out))
    for split in ("train", "val"):
        assert (tmp_path / "named/samples" / f"{split}.jsonl").read_bytes() == (tmp_path / "written/samples" / f"{split}.jsonl").read_bytes()
    with pytest.raises(ValueError, match='"tiny-bert"'):
        jl.bundled("gpt2", tmp_path)


def test_what_is_written_out_is_mended_and_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = jl.bundled("tiny-bert") / "config.json"
    written, text = config.stat().st_mtime_ns, config.read_text()
    assert jl.bundled("tiny-bert") / "config.json" == config and config.stat().st_mtime_ns == written
    config.write_text("{")
    jl.bundled("tiny-bert")
    assert config.read_text() == text and tmp_path in config.parents and len(list(config.parent.iterdir())) == 4


def test_predictions_need_a_library_that_reads_parquet(run: jl.Run) -> None:
    try:
        predictions = run.predictions()
    except ImportError as error:
        assert "pip install pyarrow" in str(error)
        return
    assert len(predictions["sample"]) == 50 * 6 * 13
