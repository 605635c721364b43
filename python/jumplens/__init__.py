"""Linear maps between the layers of transformer language models.

>>> import numpy as np, jumplens as jl
>>> x = np.random.default_rng(0).normal(size=(1000, 8)).astype("float32")
>>> A = jl.fit(x, x[:, ::-1])
>>> A
<jumplens.Map 8 → 8>
>>> A.r2(x, x[:, ::-1]) > 0.999
True

`jumplens.torch` works on any model of PyTorch that is a stack of blocks, `jumplens.ray` on the machines of a Ray cluster; each is imported
where it is first asked for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from ._bundled import bundled
from ._jumplens import Map, Maps, Run, Sums, __version__, fit, fit_layers

__all__ = ["Map", "Maps", "Run", "Sums", "__version__", "bundled", "fit", "fit_layers", "ray", "torch"]


def __getattr__(name: str) -> ModuleType:
    if name in ("ray", "torch"):
        return importlib.import_module(f"jumplens.{name}")
    raise AttributeError(f"module 'jumplens' has no attribute {name!r}")
