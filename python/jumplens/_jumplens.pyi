"""The extension module: what `jumplens` re-exports."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

__version__: str

class _Tensor(Protocol):
    """A tensor of PyTorch."""

    def detach(self) -> Any: ...

_Rows = NDArray[np.float32] | NDArray[np.float64] | _Tensor
_States = Mapping[int, _Rows] | Sequence[_Rows]
_Ridge = Literal["auto"] | float | None
_Pairs = Literal["to-final", "all"]
_Path = str | PathLike[str]

def fit(x: _Rows, y: _Rows, *, intercept: bool = False, ridge: _Ridge = None, rank: int | None = None) -> Map:
    """The linear map with the least ``‖x·Aᵀ + b − y‖²``.

    Parameters
    ----------
    x : array, ``[n, d_in]``
        Source states: NumPy, or a tensor of PyTorch on the CPU; float32 or float64. Contiguous float32 is not copied, anything else
        once.
    y : array, ``[n, d_out]``
        Target states, as `x`.
    intercept : bool
        With a bias, which takes the mean of `x` to that of `y`.
    ridge : None, "auto" or float
        λ of ``‖x·Aᵀ − y‖² + λ‖A‖²``, as scikit-learn's ``Ridge(alpha=λ)`` has it; ``"auto"`` finds it by generalised
        cross-validation.
    rank : int, optional
        The best map of that rank on these states (reduced-rank regression).

    Returns
    -------
    Map

    Raises
    ------
    TypeError
        Where `x` or `y` is neither float32 nor float64.
    ValueError
        Where they have no two dimensions, are empty, of different lengths, or not finite; where both `ridge` and `rank` are given.

    Notes
    -----
    Least squares as if by f64 SVD of `x`: singular values at or below 1e-6 of the largest count as zero, and of several maps the one of
    minimum norm is taken. Products are in f32. The same bits on any number of threads (``RAYON_NUM_THREADS``). The GIL is released;
    Ctrl-C ends the call at once, and what it computes a moment later, at the end of a product or of a decomposition. Do not write into
    the arrays meanwhile.

    The method is that of arXiv 2303.09435, section 3.

    Examples
    --------
    >>> import numpy as np, jumplens as jl
    >>> x = np.eye(3, dtype="float32")
    >>> jl.fit(x, 2 * x).weight.round(3).tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    """

def fit_layers(
    states: _States, *, pairs: _Pairs = "to-final", intercept: bool = False, ridge: _Ridge = None, rank: int | None = None
) -> Maps:
    """All maps between the layers of a model, each source factored once.

    Parameters
    ----------
    states : dict of arrays by layer, or a list of them from layer 0 on
        ``[n, d]`` each, as in `fit`.
    pairs : "to-final" or "all"
        From every layer to the last, or to every later one.
    intercept, ridge, rank
        As in `fit`; what they ask for is fitted beside the plain maps, each a cast of its own: ``mat``, ``mat+b``, ``mat_ridge``,
        ``mat_r64``, ``mat+b_ridge`` …

    Returns
    -------
    Maps
    """

@final
class Map:
    """A linear map ``y = A·x + b``.

    Parameters
    ----------
    weight : array, ``[d_out, d_in]``
    bias : array, ``[d_out]``, optional
    """

    def __new__(cls, weight: _Rows, bias: _Rows | None = None) -> Map: ...
    @staticmethod
    def identity(d: int) -> Map:
        """The map that leaves states of width `d` as they are."""

    @property
    def weight(self) -> NDArray[np.float32]:
        """``A``, ``[d_out, d_in]``: rows are outputs. A view that cannot be written into."""

    @property
    def bias(self) -> NDArray[np.float32] | None:
        """``b``, ``[d_out]``, where there is one. A view that cannot be written into."""

    @property
    def d_in(self) -> int:
        """Width of what it maps."""

    @property
    def d_out(self) -> int:
        """Width of what it maps to."""

    def __call__(self, x: _Rows) -> NDArray[np.float32]:
        """``A·x + b`` of states ``[..., d_in]``: ``[..., d_out]``, in float32."""

    def r2(self, x: _Rows, y: _Rows) -> float:
        """r² on states `x` ``[n, d_in]`` and `y` ``[n, d_out]``: per coordinate, then the mean, as scikit-learn's ``r2_score`` has it."""

    def spectrum(self) -> NDArray[np.float64]:
        """The singular values of ``A``, largest first."""

    def inspect(self) -> dict[str, Any]:
        """Norms, the largest singular values, effective rank (Roy and Vetterli 2007), and the distance from the identity."""

    def then(self, next: Map) -> Map:
        """`next` after this map, as one."""

    def to_torch(self) -> Any:
        """A ``torch.nn.Linear`` with these weights, in float32 on the CPU. Needs PyTorch."""

@final
class Maps:
    """The maps between layers: of one cast (``mat``, ``mat+b``, ``tuned`` …), while `cast` gives those of another.

    Maps in files are read when they are asked for. Iterating gives the pairs of layers.
    """

    @staticmethod
    def load(path: _Path) -> Maps:
        """The maps of a run folder, a folder or file of maps (safetensors, ``.npz``, the reference's pickles), or a tuned lens.

        Raises
        ------
        FileNotFoundError
            Where nothing is there.
        ValueError
            Where there are no maps, or a file is not as it was written.
        """

    def __getitem__(self, layers: tuple[SupportsIndex, SupportsIndex], /) -> Map:
        """The map from one layer to another: ``maps[3, 12]``. `KeyError` where there is none."""

    def __contains__(self, layers: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[tuple[int, int]]: ...
    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The layers that the maps lead from and to."""

    @property
    def d(self) -> int:
        """Width of the states."""

    @property
    def casts(self) -> list[str]:
        """The casts that there are maps of."""

    def cast(self, name: str | None = None) -> Maps:
        """The maps of the cast `name`. `KeyError` where there are none."""

    def save(self, path: _Path, *, overwrite: bool = False) -> None:
        """Writes the maps: all casts to a folder, or those of this cast to one file that ends in ``.npz`` or ``.safetensors``.

        Raises
        ------
        FileExistsError
            Where something is there, and `overwrite` does not allow it to be replaced.
        """

    def info(self) -> dict[str, Any]:
        """What is known of them: casts, width, pairs of layers, origin (model, samples, seed …) and notes."""

    @property
    def r2(self) -> Any:
        """A table of r² on validation samples, with the columns of ``r2.csv``, where they come from a fit that had some; else `None`."""

    def _with(self, notes: str, model: str | None, r2: Any) -> Maps: ...

@final
class Sums:
    """Second-moment sums of the states of layers, in f64: all that the maps are made of.

    They add up over any split of the samples, and take the same memory whatever their number.

    Parameters
    ----------
    d : int
        Width of a state.
    layers : int or list of int
        How many layers there are (13: layers 0 to 12), or which.
    pairs : "to-final" or "all"
        From every layer to the last, or to every later one.

    Examples
    --------
    >>> import numpy as np, jumplens as jl
    >>> h = np.random.default_rng(0).normal(size=(3, 200, 4)).astype("float32")
    >>> sums = jl.Sums(4, layers=3)
    >>> for part in (slice(0, 50), slice(50, 200)):
    ...     sums.add([h_l[part] for h_l in h])
    >>> sums.n, sums.fit().pairs
    (200, [(0, 2), (1, 2)])
    """

    def __new__(cls, d: int, layers: int | Sequence[int], pairs: _Pairs = "to-final") -> Sums: ...
    @property
    def d(self) -> int:
        """Width of a state."""

    @property
    def layers(self) -> list[int]:
        """The layers."""

    @property
    def pairs(self) -> str:
        """Between which of them there are sums."""

    @property
    def n(self) -> int:
        """Samples so far."""

    def add(self, states: _States) -> None:
        """Takes in samples: their states of every layer, ``[n, d]`` each; other layers are passed over.

        Raises
        ------
        KeyError
            Where the states of a layer are missing.
        ValueError
            Where they are of another width, of different lengths, or not finite.
        RuntimeError
            Where an earlier call was interrupted half-way.
        """

    def _add_moments(
        self,
        n: int,
        sums: Mapping[int, NDArray[np.float64]],
        squares: Mapping[int, NDArray[np.float64]],
        grams: Mapping[int, NDArray[np.float64]],
        crosses: Mapping[tuple[int, int], NDArray[np.float64]],
    ) -> None: ...
    def __add__(self, other: Sums, /) -> Sums:
        """The sums of both. `ValueError` where they are of other layers."""

    def fit(self, *, intercept: bool = False, ridge: _Ridge = None, rank: int | None = None) -> Maps:
        """The maps, as `fit_layers` gives them. `ValueError` where there are no samples."""

    def r2(self, maps: Maps, *, train: Sums | None = None) -> Any:
        """A table of r² of `maps` and of ``id`` on these samples, in f64: ``mapping, from, to, r2, r2_train``, the last of them on the
        samples of `train`."""

    def save(self, path: _Path, *, overwrite: bool = False) -> None:
        """Writes them to a safetensors file. `FileExistsError` where one is there, and `overwrite` does not allow it to be replaced."""

    @staticmethod
    def load(path: _Path) -> Sums:
        """Those that `save` wrote. `ValueError` where the file is none."""

@final
class Run:
    """What `jumplens run`, or some of its stages, left in a folder.

    Tables are DataFrames of pandas or polars, whichever is there, or tables of pyarrow, or dictionaries of NumPy arrays; ``docs/files.md``
    describes their columns. Files that were changed since are an error.

    Raises
    ------
    FileNotFoundError
        Where there is no run.
    ValueError
        From its methods, where the stage that writes the table is not done, or a file was changed.
    """

    def __new__(cls, folder: _Path) -> Run: ...
    @property
    def folder(self) -> Any:
        """The folder, a ``pathlib.Path``."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run was made from, and how far it is."""

    def r2(self) -> Any:
        """``r2.csv``: r² of every cast between every pair of layers."""

    def layers(self) -> Any:
        """``layers.csv``: Precision@k, surprisal, KL and loss of every cast from every layer, with 95 % intervals."""

    def early_exit(self) -> Any:
        """``early_exit.csv``."""

    def exits(self) -> Any:
        """``exits.csv``: at which layers samples exit."""

    def ranks(self) -> Any:
        """``ranks.csv``: where the model's token stands in the casts' order."""

    def spectra(self) -> Any:
        """``spectra.csv``: singular values of the maps to the last layer."""

    def predictions(self) -> Any:
        """``predictions.parquet``. `ImportError` where no library is there that reads it."""

    def maps(self) -> Maps:
        """The run's maps."""

    def states(self, layer: int, split: Literal["train", "val"] = "val") -> NDArray[np.float32]:
        """The states of a layer at the chosen positions, ``[n, d]``, as a copy."""

@final
class Worker:
    """The model of a run, loaded to work on the run's shares: what `jumplens.ray` has on each node."""

    def __new__(cls, manifest: str) -> Worker:
        """Of the run whose ``manifest.json`` is `manifest`."""

    def sums(
        self,
        index: int,
        of: int,
        train: bytes,
        val: bytes,
        folder: _Path,
        out: _Path,
        advance: Callable[[int, str], object] | None = None,
    ) -> list[str]:
        """Runs the share's samples, lines of JSON, and writes their sums to `out`; calls `advance` with numbers and of what they are, tokens
        first. Gives what has to be said."""

    def evaluate(
        self,
        index: int,
        of: int,
        val: bytes,
        folder: _Path,
        maps: _Path,
        out: _Path,
        advance: Callable[[int, str], object] | None = None,
    ) -> list[str]:
        """Evaluates the share's validation samples with `maps`, and writes their predictions to `out`; calls `advance` as `sums` does."""

@final
class SumsFile:
    """A file of sums, looked through once."""

    def __new__(cls, path: _Path) -> SumsFile: ...
    def fit(self, manifest: str, first: int, end: int, folder: _Path) -> None:
        """Fits the maps that the run of `manifest` is for, from the layers `first` to before `end`, into `folder`."""

@final
class ShareNeeds:
    """What a run in shares is about, and what a share of it takes, in bytes."""

    n_layers: int
    d_model: int
    sums: int
    memory: int
    states: int
    tokens: int
    val_tokens: int
    has_head: bool
    casts: list[str]
    left_out: list[str]

def share_needs(manifest: str, folder: _Path, of: int, threads: int) -> ShareNeeds: ...
def samples_of_shares(manifest: str, of: int) -> list[tuple[tuple[int, int], tuple[int, int]]]: ...
def merge_sums(files: Sequence[_Path], out: _Path) -> None: ...
def join_fits(parts: Sequence[_Path], folder: _Path) -> None: ...
def is_whole(path: _Path) -> bool: ...
def isa() -> str: ...
def positions(tokens: int, index: int, seed: int, number: int | None, skip_first: int) -> list[int]: ...
def layer_table(
    casts: Sequence[
        tuple[str, NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    ],
    sentences: Sequence[int],
    seed: int,
) -> Any: ...
def bundled_files(name: str) -> dict[str, bytes]: ...
def main(args: Sequence[str]) -> int: ...
