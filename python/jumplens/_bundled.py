"""The models and sentences that the package brings along, as files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ._jumplens import __version__, bundled_files


def bundled(name: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """A bundled model or corpus, written out for other programs to read.

    Parameters
    ----------
    name : str
        As ``jumplens run`` has it: ``"tiny-gpt2"`` (causal) or ``"tiny-bert"`` (masked), folders as `from_pretrained` of transformers takes
        them; or ``"wikipedia-sample"``, a text file with one sentence a line.
    folder : path, optional
        Where to put it, in a folder of its name; by default ``jumplens`` in the user's cache (``$XDG_CACHE_HOME``, or ``~/.cache``).

    Returns
    -------
    pathlib.Path
        The model's folder, or the file of sentences. What is there already is not written again.

    Raises
    ------
    ValueError
        Where nothing of that name is bundled.
    OSError
        Where the files cannot be written: give another `folder`.

    Examples
    --------
    >>> import jumplens as jl
    >>> sorted(file.name for file in jl.bundled("tiny-gpt2").iterdir())
    ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    >>> len(jl.bundled("wikipedia-sample").read_text(encoding="utf-8").splitlines())
    12975
    """
    files = bundled_files(name)
    if folder is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "jumplens" / __version__
    folder = Path(folder) / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        _write(folder / file, content)
    return folder if len(files) > 1 else folder / next(iter(files))


def _write(path: Path, content: bytes) -> None:
    """Has `path` hold `content`; whoever reads it meanwhile sees all of it or none."""
    if path.exists() and path.read_bytes() == content:
        return
    descriptor, part = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
