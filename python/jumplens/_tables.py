"""Tables of whichever library is there."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LIBRARIES = ("pandas", "polars", "pyarrow")


def _library(names: Sequence[str] = LIBRARIES) -> tuple[str, Any] | None:
    for name in names:
        try:
            return name, importlib.import_module(name)
        except ImportError:
            continue
    return None


def of_columns(columns: Mapping[str, Sequence[Any]]) -> Any:
    """A table of `columns`: a DataFrame of pandas or polars, else a table of pyarrow, else a dictionary of NumPy arrays."""
    match _library():
        case ("pandas" | "polars", library):
            return library.DataFrame(dict(columns))
        case ("pyarrow", library):
            return library.table(dict(columns))
        case _:
            return {name: np.array(values) for name, values in columns.items()}


def of_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """As `of_columns`, of rows that all have the same fields. What is `None` among numbers is no number."""
    names = list(rows[0]) if rows else []
    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in names}
    for name, values in columns.items():
        if any(isinstance(value, float) for value in values):
            columns[name] = [float("nan") if value is None else value for value in values]
    return of_columns(columns)


def of_parquet(path: str | os.PathLike[str]) -> Any:
    """The table in a Parquet file. `ImportError` where no library is there that reads one."""
    for name in LIBRARIES:
        try:
            library = importlib.import_module("pyarrow.parquet" if name == "pyarrow" else name)
            return library.read_table(path) if name == "pyarrow" else library.read_parquet(path)
        except ImportError:
            continue
    raise ImportError(f"`{os.fspath(path)}` is a Parquet file: `pip install pyarrow` or `pip install polars`")
