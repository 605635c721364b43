"""Any model of PyTorch that is a stack of blocks with a head behind it: its states, its maps, how good they are, the lens.

Nothing here knows a family of models or a device. The stack is found by a forward pass, and a model's own code stands behind the blocks:
`Model.logits` runs the model with the blocks left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import inspect
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

try:
    import torch
except ImportError as error:
    raise ImportError("jumplens.torch needs PyTorch: `pip install jumplens[torch]`") from error

from torch import Tensor, nn

from . import _jumplens, _tables
from ._jumplens import Map, Maps, Sums

__all__ = ["Lens", "Model", "linear", "prune", "wrap"]

#: Rows whose products are added up at one time.
ROWS = 1024
#: Texts that are sorted by length and batched together.
WINDOW = 512
#: Tokens of a model's own that are looked through for a cast's.
TOP_K = 10
#: Casts that run the blocks with some of their parts replaced: `jumplens run` evaluates those.
BLOCK_CASTS = ("mat_attn", "mat_ffn", "mat_ln1_ln2")

Text = str | Sequence[int]


def linear(map: Map) -> nn.Linear:
    """`map` as a module, in float32 on the CPU: what `Map.to_torch` gives."""
    module = nn.Linear(map.d_in, map.d_out, bias=map.bias is not None)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(map.weight))
        if map.bias is not None:
            module.bias.copy_(torch.tensor(map.bias))
    return module


def wrap(model: nn.Module, tokenizer: Any = None, *, mask_token_id: int | None = None) -> Model:
    """A model with its stack of blocks found, and its head proven.

    Parameters
    ----------
    model : torch.nn.Module
        One of transformers, or any other that takes token ids and gives logits. In evaluation mode, on whatever devices.
    tokenizer : optional
        What makes ids of texts, as transformers' tokenizers do. Needed where texts are given, not ids.
    mask_token_id : int, optional
        For masked models: the token in the place of the one that is to be guessed; the tokenizer's by default.

    Returns
    -------
    Model

    Raises
    ------
    TypeError
        Where `model` is wrapped already, or is no module.
    ValueError
        Where there is no stack of blocks, or more than one, or what is behind it does not give the model's own logits; the message
        says what is off.
    """
    if isinstance(model, Model):
        raise TypeError("this model is wrapped already: use it as it is")
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(model).__name__} is no torch.nn.Module: pass the model itself, not its name")
    _check_evaluating(model)
    return Model(model, tokenizer, mask_token_id)


def prune(
    model: Model | nn.Module,
    texts: Iterable[Text],
    blocks: int,
    *,
    tokenizer: Any = None,
    form: Literal["refit", "fold", "drop"] = "refit",
    ridge: float = 1e-4,
    batch_tokens: int = 4096,
    progress: bool = True,
) -> nn.Module:
    """A model with fewer blocks: those that its predictions miss least are taken out, and what they added is folded into the others.

    Everything is computed where the model is, and what comes back is one of the same class, that saves, generates and trains as any other:
    ``jl.torch.prune(model, texts, 4).save_pretrained("smaller")``. The last tenth of the texts (100 at most) is kept from the fit, to
    choose on: blocks go one by one, each time the one whose loss costs the least KL. The first stays.

    Parameters
    ----------
    model : Model or torch.nn.Module
        A causal model with a head, wrapped or not; it is left as it is.
    texts : iterable of str, or of lists of token ids
        Some hundred to some thousand sentences: every token of them is fitted on.
    blocks : int
        How many to take out, from 1 to L − 1.
    tokenizer : optional
        Where texts are strings and the model is not wrapped.
    form : "refit", "fold" or "drop"
        ``"refit"`` fits the layers anew that the feed-forward parts end with, before each gap and behind it, on the states that the
        smaller model gives them, towards those of the whole one; ``"fold"`` maps the output before each gap (ReplaceMe, arXiv
        2505.02819); ``"drop"`` leaves blocks out.
    ridge : float
        λ of the least squares as a share of the mean square of a coordinate.
    batch_tokens : int
        Tokens of a batch.
    progress : bool
        Print which block goes.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        Where the model has no head or is no causal one, there are too few texts, no such number of blocks can go, or what a block puts
        out is no sum that its feed-forward part adds to (a norm stands behind it, as in Gemma 2), so that only ``"drop"`` is left.
    """
    from ._prune import prune as pruned

    m = model if isinstance(model, Model) else wrap(model, tokenizer)
    m._needs_head()
    if not m.is_causal:
        raise ValueError("this model sees tokens on both sides, and causal ones are pruned here: `jumplens prune` takes BERT")
    if form not in ("refit", "fold", "drop"):
        raise ValueError(f"form is {form!r}: give 'refit', 'fold' or 'drop'")
    if not 1 <= blocks < m.n_layers:
        raise ValueError(f"{blocks} blocks cannot be taken out of {m.n_layers}: from 1 to {m.n_layers - 1} can, since the first stays")
    if isinstance(texts, str):
        raise TypeError("texts is one text, where a list of them is expected")
    ids = [ids for ids in (m._encode(text) for text in texts) if len(ids) > 1]
    if len(ids) < 2:
        raise ValueError(f"there are {len(ids)} texts of two tokens and more: give some hundred")
    with torch.no_grad(), _exact_products():
        return pruned(m, ids, blocks, form, ridge, batch_tokens, print if progress else lambda _: None)


class Model:
    """A model with its blocks found; made by `wrap`.

    Attributes
    ----------
    n_layers : int
        Blocks, L.
    d : int
        Width of a state.
    blocks_name : str
        Where the blocks are: ``transformer.h``.
    is_causal : bool
        True where no state depends on tokens behind it.
    has_head : bool
        True where the model gives logits over its vocabulary.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, mask_token_id: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._parameters = inspect.signature(model.forward).parameters
        self._active: tuple[int, int] | None = None
        if mask_token_id is None:
            mask_token_id = getattr(tokenizer, "mask_token_id", None)
        self.mask_token_id = mask_token_id

        embedding = _input_embedding(model)
        self.vocab_size = int(embedding.weight.shape[0])
        self._embedding = embedding
        config = getattr(model, "config", None)
        if config is not None and hasattr(config, "get_text_config"):
            config = config.get_text_config()
        most = getattr(config, "max_position_embeddings", None)
        self.max_positions: int | None = most if isinstance(most, int) and most > 0 else None

        probe = self._probe(getattr(config, "pad_token_id", None))
        with torch.no_grad(), _exact_products():
            self.blocks_name, self.blocks, calls = _find_blocks(model, lambda: self._run(probe))
            self._tuples = [call.tuple for call in calls]
            states, output = self._states_and_output(probe)
            self.n_layers, self.d = len(self.blocks), int(states[0].shape[-1])
            changed = probe.clone()
            changed[0, -1] = probe[0, 0]
            other = self._states(changed)
            before, changed_before = (state[:, :-1].float() for state in (states[-1], other[-1]))
            self.is_causal = float((before - changed_before).abs().max()) <= 1e-3 * float(before.abs().max())
            logits = _logits_of(output)
            self.has_head = logits is not None and logits.dim() == 3 and _is_over_vocabulary(model, logits, self.vocab_size)
            if self.has_head and logits is not None:
                self._prove(states[-1], logits)

    def _probe(self, pad_token_id: int | None) -> Tensor:
        """One sequence of few tokens, none of them the one for padding."""
        length = min(8, self.max_positions or 8)
        step = max(1, self.vocab_size // 11)
        ids = [i for i in range(1, self.vocab_size, step) if i != pad_token_id]
        return torch.tensor([(ids * length)[:length]], device=self._embedding.weight.device)

    def _prove(self, last: Tensor, logits: Tensor) -> None:
        """Sees that what is behind the blocks makes the model's logits of the last block's output."""
        ours = self.logits(last)
        own = logits.to(ours.device).float()
        off = float((ours.float() - own).abs().max())
        scale = float(own.abs().max())
        most = (1e-4 if logits.dtype == torch.float32 else 2e-2) * scale + 1e-6
        if not off <= most:
            raise ValueError(
                f"what is behind `{self.blocks_name}` does not make the model's logits of the last block's output: they are off by "
                f"{off:.3g}, where the largest is {scale:.3g}. The head takes something else too, or the blocks are not all there is"
            )

    def __repr__(self) -> str:
        kind = "causal" if self.is_causal else "masked"
        head = "" if self.has_head else ", without a head"
        return (
            f"<jumplens.torch.Model {type(self.model).__name__}: {self.n_layers} blocks `{self.blocks_name}` of width {self.d}, "
            f"{kind}{head}>"
        )

    def states(self, input_ids: Any, attention_mask: Any = None) -> list[Tensor]:
        """The states h_0 … h_L at every position.

        Parameters
        ----------
        input_ids : integer tensor, array or nested list, ``[batch, tokens]``
        attention_mask : as `input_ids`, optional
            0 where there is padding, which may be on the left or on the right. The states there mean nothing.

        Returns
        -------
        list of Tensor, ``[batch, tokens, d]``
            L + 1 of them, in the model's dtype: the embedding's output, then each block's; the last before the final norm.

        Raises
        ------
        ValueError
            Where an id is no token's, a sequence is longer than the model takes, or the mask has holes.
        TypeError
            Where the ids are no integers.
        """
        ids = self._ids(input_ids)
        if attention_mask is None:
            return self._states(ids)
        mask = torch.as_tensor(attention_mask).to(ids.device).bool()
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, where {tuple(ids.shape)} is expected, that of input_ids")
        # Real tokens first: with padding behind them every model counts their positions from its first one.
        lengths = mask.sum(1)
        starts = mask.int().argmax(1)
        place = torch.arange(ids.shape[1], device=ids.device)
        inside = (place >= starts[:, None]) & (place < (starts + lengths)[:, None])
        if not torch.equal(inside, mask) or not bool((lengths > 0).all()):
            raise ValueError("attention_mask has holes, or a row without any token: padding is on the left or on the right of a text")
        order = (place + starts[:, None]) % ids.shape[1]
        states = self._states(ids.gather(1, order), mask.gather(1, order))
        back = (place - starts[:, None]) % ids.shape[1]
        return [state.gather(1, back.to(state.device)[:, :, None].expand_as(state)) for state in states]

    def logits(self, h: Tensor) -> Tensor:
        """What the model's final norm and head, and whatever else is behind the blocks, make of states of the last layer.

        Parameters
        ----------
        h : Tensor, ``[..., d]``

        Returns
        -------
        Tensor, ``[..., vocabulary]``

        Raises
        ------
        ValueError
            Where the model has no head, or the states are of another width.
        """
        self._needs_head()
        if h.shape[-1] != self.d:
            raise ValueError(f"the states are {h.shape[-1]} wide, where {self.d} is expected")
        rows = h.reshape(-1, 1, self.d)
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=self._embedding.weight.device)

        def given(index: int) -> Callable[[Tensor], Tensor]:
            return lambda state: rows.to(state) if index == 0 else state

        with self._replaced({index: given(index) for index in range(self.n_layers)}):
            logits = _logits_of(self._run(ids))
        assert logits is not None
        return logits.reshape(*h.shape[:-1], logits.shape[-1])

    def fit(
        self,
        texts: Iterable[Text],
        train: int | None = None,
        val: int = 0,
        *,
        seed: int = 0,
        pairs: Literal["to-final", "all"] = "to-final",
        positions: int | Literal["all"] = 1,
        skip_first: int = 0,
        intercept: bool = True,
        ridge: float | Literal["auto"] | None = None,
        rank: int | None = None,
        batch_tokens: int = 4096,
        progress: bool = True,
    ) -> Maps:
        """Fits the maps between layers on the states of texts.

        States never leave the device that they are on: the sums that maps are made of are added up there, in f64 (a device that has no
        f64 hands its rows to the CPU). Memory does not grow with the number of texts.

        Parameters
        ----------
        texts : iterable of str, or of lists of token ids
            The first `train` of them are fitted on, the `val` after them give r². Those that are too short for any position are passed
            over.
        train, val : int
            How many; by default all that are not for `val`.
        seed, positions, skip_first
            Which positions of a text are chosen: `positions` at random, or ``"all"``, behind the first `skip_first`. They are those that
            ``jumplens run`` chooses of the same texts with the same seed. Masked models see the mask token there.
        pairs : "to-final" or "all"
            From every layer to the last, or to every later one.
        intercept, ridge, rank
            What to fit beside the cast ``mat``; see `jumplens.fit_layers`. Maps with a bias are ``mat+b``.
        batch_tokens : int
            Tokens of a batch, padding included.
        progress : bool
            Show a bar (tqdm).

        Returns
        -------
        Maps
            With the table `Maps.r2` where there are validation texts. They remember what they were fitted on.

        Raises
        ------
        ValueError
            Where there are too few texts, or a state is not finite.
        """
        _check_number("val", val, 0)
        _check_number("batch_tokens", batch_tokens, 1)
        if train is None and val:
            texts = list(texts)
            train = len(texts) - val
        if train is not None:
            _check_number("train", train, 1)
        samples = self._samples(texts, _Choice(seed, positions, skip_first))

        def sums_of(number: int | None, name: str) -> tuple[Sums, _Counted]:
            taken, moments = _Counted(itertools.islice(samples, number)), _Moments(self.d, self.n_layers, pairs)
            for batch in self._batches(taken, batch_tokens, number, name, progress):
                moments.add(self._chosen_states(batch))
            if taken.number < (1 if number is None else number):
                raise ValueError(
                    f"there are {taken.number} texts with positions to choose for `{name}`, and {number or 'some'} were asked for: give "
                    "more, or ask for fewer"
                )
            return moments.sums(), taken

        sums, fitted_on = sums_of(train, "train")
        of_val = sums_of(val, "val")[0] if val else None
        maps = sums.fit(intercept=intercept, ridge=ridge, rank=rank)
        table = of_val.r2(maps, train=sums) if of_val is not None else None
        notes = {
            "fit": {
                "train": fitted_on.number, "val": val, "seed": seed, "positions": positions, "skip_first": skip_first,
                "texts": fitted_on.said(), "embedding": self._fingerprint(),
            }
        }  # fmt: skip
        name = getattr(getattr(self.model, "config", None), "_name_or_path", "") or type(self.model).__name__
        return maps._with(json.dumps(notes), name, table)

    def evaluate(
        self,
        maps: Maps,
        texts: Iterable[Text],
        casts: Sequence[str] | None = None,
        *,
        seed: int | None = None,
        positions: int | Literal["all"] | None = None,
        skip_first: int | None = None,
        batch_tokens: int = 4096,
        progress: bool = True,
    ) -> Any:
        """Measures what the model's head makes of cast states, on texts that the maps were not fitted on.

        Parameters
        ----------
        maps : Maps
            To the last layer.
        texts : iterable of str, or of lists of token ids
            Where they begin with the texts that `fit` made the maps from, those are left out, and as many as `fit` had for ``val`` (all
            that are left, if it had none) are taken; otherwise all of them are.
        casts : list of str
            ``id`` and casts of `maps`; all by default.
        seed, positions, skip_first
            As in `fit`, which they are by default taken from. The seed is that of the bootstrap too.

        Returns
        -------
        table
            One row a cast and layer, with the columns of ``layers.csv``: ``precision_1``, ``_5``, ``_10``, ``surprisal``, ``kl`` (nats),
            ``loss``, and the bounds ``_lo`` and ``_hi`` of their 95 % bootstrap intervals by text.

        Raises
        ------
        ValueError
            Where the model has no head, the maps are for another one, or there is nothing to measure on.
        KeyError
            Where there are no maps of a cast, or none from some layer to the last.
        """
        self._needs_head()
        casts = ["id", *maps.casts] if casts is None else list(casts)
        made = self._check_maps(maps)
        by_cast = {cast: self._maps_to_last(maps, cast) for cast in casts if cast != "id"}
        choice = _Choice(
            made.get("seed", 0) if seed is None else seed,
            made.get("positions", 1) if positions is None else positions,
            made.get("skip_first", 0) if skip_first is None else skip_first,
        )
        samples = _without(self._samples(texts, choice), made)
        predictions = _Predictions(casts, self.n_layers)
        for batch in self._batches(samples, batch_tokens, None, "evaluate", progress):
            predictions.begin(batch)
            states = self._chosen_states(batch)
            with torch.no_grad(), _exact_products():
                own = _Own(self._logits_of_rows(states[-1]), batch.targets)
                for layer, cast in itertools.product(range(self.n_layers), casts):
                    h = states[layer]
                    cast_state = h if cast == "id" else by_cast[cast][layer](h)
                    predictions.take(cast, layer, own.compare(self._logits_of_rows(cast_state)))
                of_itself = own.compare(own.logits)
                for cast in casts:
                    predictions.take(cast, self.n_layers, of_itself)
        return predictions.table(choice.seed)

    def lens(self, text: Text, maps: Maps | None = None, *, cast: str | None = None, k: int = 10) -> Lens:
        """What each layer predicts at each position of a text.

        Parameters
        ----------
        text : str or list of token ids
        maps : Maps, optional
            Whose maps to the last layer cast the states; without any, the states are used as they are (the logit lens).
        cast : str, optional
            A cast of `maps`, the first by default, or ``"id"``.
        k : int
            Tokens to keep.

        Returns
        -------
        Lens
        """
        self._needs_head()
        ids = self._encode(text)
        if not ids:
            raise ValueError("the text has no tokens: give some")
        _check_number("k", k, 1)
        name = "id" if maps is None else cast or maps.casts[0]
        if maps is not None:
            self._check_maps(maps)
        to_last = None if maps is None or name == "id" else self._maps_to_last(maps, name)
        with torch.no_grad(), _exact_products():
            states = self.states([ids])
            tops, probabilities = [], []
            for layer, h in enumerate(states):
                h = h[0].float()
                rows = h if to_last is None or layer == self.n_layers else to_last[layer](h)
                top = self._logits_of_rows(rows).softmax(-1).topk(min(k, self.vocab_size))
                tops.append(top.indices.cpu().numpy())
                probabilities.append(top.values.cpu().numpy())
        return Lens(name, ids, [self._token(i) for i in ids], np.stack(tops), np.stack(probabilities), self._token)

    @contextlib.contextmanager
    def shortcut(self, from_: int, to: int, maps: Maps | Map) -> Iterator[Model]:
        """Within it the model jumps from layer `from_` to layer `to`: blocks ``from_ + 1`` … `to` are replaced by the map.

        Generation works, with the cache too: replaced blocks put empty entries of the right length into it, so that positions and masks
        of the others are right. A cache that was made inside is of no use outside.

        Parameters
        ----------
        from_, to : int
            Layers, ``0 <= from_ < to <= L``.
        maps : Maps or Map

        Raises
        ------
        ValueError
            Where there are no such layers, or the map is of another width.
        RuntimeError
            Where a jump is being taken already; or, inside, where the model's cache cannot be kept right.
        """
        if not 0 <= from_ < to <= self.n_layers:
            raise ValueError(f"there is no jump from layer {from_} to {to}: the model has layers 0 to {self.n_layers}")
        if isinstance(maps, Maps):
            self._check_maps(maps)
            maps = maps[from_, to]
        if (maps.d_in, maps.d_out) != (self.d, self.d):
            raise ValueError(f"the map is for states of width {maps.d_in}, and the model's are {self.d} wide")
        apply = _Apply(maps)

        def jump(index: int) -> Callable[[Tensor], Tensor]:
            return lambda state: apply(state).to(state.dtype) if index == from_ else state

        with self._replaced({index: jump(index) for index in range(from_, to)}):
            yield self

    def _needs_head(self) -> None:
        if not self.has_head:
            raise ValueError(
                f"{type(self.model).__name__} has no language-model head: load the model by `AutoModelForCausalLM` or `AutoModelForMaskedLM`"
            )

    def _logits_of_rows(self, rows: Tensor) -> Tensor:
        return self.logits(rows).to(rows.device).float()

    def _run(self, ids: Tensor, mask: Tensor | None = None, *, states_only: bool = False) -> Any:
        """A forward pass; without logits but for one position where only states are wanted and the model lets them be left out."""
        _check_evaluating(self.model)
        if mask is not None and not self._takes("attention_mask") and not self.is_causal:
            raise ValueError("the model takes no attention_mask, and padding would enter its states: give texts of one length")
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        given = {name: value for name, value in given.items() if value is not None and self._takes(name)}
        if "use_cache" in self._parameters:
            given["use_cache"] = False
        if states_only and "logits_to_keep" in self._parameters:
            given["logits_to_keep"] = 1
        return self.model(**given) if "input_ids" in given else self.model(ids, **given)

    def _takes(self, name: str) -> bool:
        kinds = (parameter.kind for parameter in self._parameters.values())
        return name in self._parameters or inspect.Parameter.VAR_KEYWORD in kinds

    def _states(self, ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        return self._states_and_output(ids, mask, states_only=True)[0]

    def _states_and_output(self, ids: Tensor, mask: Tensor | None = None, *, states_only: bool = False) -> tuple[list[Tensor], Any]:
        states: list[Tensor] = []

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states.append(_state_in(args, kwargs))

        def after(_: nn.Module, __: Any, output: Any) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)

        with contextlib.ExitStack() as stack:
            stack.callback(self.blocks[0].register_forward_pre_hook(before, with_kwargs=True).remove)
            for block in self.blocks:
                stack.callback(block.register_forward_hook(after).remove)
            output = self._run(ids, mask, states_only=states_only)
        if len(states) != len(self.blocks) + 1:
            raise RuntimeError(f"the model ran {len(states) - 1} of its {len(self.blocks)} blocks: it has changed since it was wrapped")
        return states, output

    @contextlib.contextmanager
    def _replaced(self, replacements: dict[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        """Within it the blocks of these numbers do to a state what they are given."""
        if self._active is not None:
            raise RuntimeError(
                f"the model jumps from layer {self._active[0]} to {self._active[1]} at present: leave that `with` block first"
            )
        self._active = (min(replacements), max(replacements) + 1)
        before: list[tuple[nn.Module, Any]] = []
        try:
            for index, replace in replacements.items():
                block = self.blocks[index]
                before.append((block, block.__dict__.get("forward")))
                # Not by an assignment, which modules that stand in for others hand on to these.
                block.__dict__["forward"] = self._forward(block, index, replace)
            yield
        finally:
            for block, forward in before:
                if forward is None:
                    del block.__dict__["forward"]
                else:
                    block.__dict__["forward"] = forward
            self._active = None

    def _forward(self, block: nn.Module, index: int, replace: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        length = self._tuples[index]

        def forward(*args: Any, **kwargs: Any) -> Any:
            state = _state_in(args, kwargs)
            _keep_length(block, index, state, itertools.chain(args, kwargs.values()))
            out = replace(state)
            return out if length is None else (out, *[None] * (length - 1))

        return forward

    def _ids(self, input_ids: Any) -> Tensor:
        ids = torch.as_tensor(input_ids)
        if ids.dtype.is_floating_point or ids.dtype in (torch.bool, torch.complex64):
            raise TypeError(f"input_ids are {ids.dtype}, where integers are expected")
        if ids.dim() != 2 or ids.numel() == 0:
            raise ValueError(f"input_ids have shape {tuple(ids.shape)}, where [batch, tokens] is expected, and one of each at least")
        if int(ids.min()) < 0 or int(ids.max()) >= self.vocab_size:
            raise ValueError(f"input_ids go from {int(ids.min())} to {int(ids.max())}, and the model has tokens 0 to {self.vocab_size - 1}")
        if self.max_positions is not None and ids.shape[1] > self.max_positions:
            raise ValueError(f"{ids.shape[1]} tokens, and the model takes {self.max_positions}: position {self.max_positions} is past the end")
        return ids.long().to(self._embedding.weight.device)

    def _encode(self, text: Text) -> list[int]:
        if not isinstance(text, str):
            ids = [int(i) for i in text]
            if ids:
                self._ids([ids])
            return ids
        if self.tokenizer is None:
            raise ValueError("there is no tokenizer to read texts with: `wrap(model, tokenizer)`, or give token ids")
        limits = [self.max_positions, getattr(self.tokenizer, "model_max_length", None)]
        longest = min((limit for limit in limits if limit is not None), default=None)
        cut = {} if longest is None or longest > 10**9 else {"truncation": True, "max_length": longest}
        return [int(i) for i in self.tokenizer(text, **cut)["input_ids"]]

    def _token(self, id: int) -> str:
        if self.tokenizer is None:
            return str(id)
        return str(self.tokenizer.decode([id]))

    def _samples(self, texts: Iterable[Text], choice: _Choice) -> Iterator[_Sample]:
        """One a text with positions to choose."""
        if isinstance(texts, str):
            raise TypeError("texts is one text, where a list of them is expected")
        for index, text in enumerate(texts):
            ids = self._encode(text)
            chosen = _jumplens.positions(len(ids), index, choice.seed, choice.number, choice.skip_first)
            if chosen:
                yield _Sample(index, ids, chosen)

    def _batches(
        self, samples: Iterable[_Sample], tokens: int, number: int | None, name: str, progress: bool
    ) -> Iterator[_Batch]:
        """What is run at one time: texts of about the same length, `tokens` of them with their padding."""
        samples = iter(samples)
        bar = _bar(number, name, progress)
        place = 0
        try:
            while window := list(itertools.islice(samples, WINDOW)):
                rows: list[_Row] = []
                for sample in window:
                    rows.extend(self._rows(sample, place))
                    place += len(sample.positions)
                rows.sort(key=lambda row: len(row.ids))
                batch: list[_Row] = []
                for row in rows:
                    if batch and len(row.ids) * (len(batch) + 1) > tokens:
                        yield _Batch(batch, window)
                        batch, window = [], []
                    batch.append(row)
                yield _Batch(batch, window)
                bar.update(len(rows) if self.is_causal else len({row.index for row in rows}))
        finally:
            bar.close()

    def _rows(self, sample: _Sample, place: int) -> Iterator[_Row]:
        """What has to be run for the states of a text: for masked models a sequence a position, for causal ones no more than is looked at."""
        ids, chosen = sample.ids, sample.positions
        if self.is_causal:
            targets = [ids[p + 1] if p + 1 < len(ids) else -1 for p in chosen]
            yield _Row(sample.index, ids[: chosen[-1] + 1], chosen, targets, list(range(place, place + len(chosen))))
            return
        if self.mask_token_id is None:
            raise ValueError("this model sees tokens on both sides: `wrap(model, mask_token_id=…)` says which token takes the place to guess")
        for at, p in enumerate(chosen):
            yield _Row(sample.index, [*ids[:p], self.mask_token_id, *ids[p + 1 :]], [p], [ids[p]], [place + at])

    def _chosen_states(self, batch: _Batch) -> list[Tensor]:
        """The states at the chosen positions, ``[rows, d]`` in f32, on the device of the last layer."""
        longest = max(len(row.ids) for row in batch.rows)
        device = self._embedding.weight.device
        ids = torch.tensor([row.ids + [row.ids[0]] * (longest - len(row.ids)) for row in batch.rows], device=device)
        lengths = torch.tensor([len(row.ids) for row in batch.rows], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        with torch.no_grad(), _exact_products():
            states = self._states(ids, None if bool(mask.all()) else mask)
        row = torch.tensor([at for at, row in enumerate(batch.rows) for _ in row.positions], device=device)
        position = torch.tensor([p for row in batch.rows for p in row.positions], device=device)
        last = states[-1].device
        return [state[row.to(state.device), position.to(state.device)].float().to(last) for state in states]

    def _maps_to_last(self, maps: Maps, cast: str) -> list[_Apply]:
        if cast in BLOCK_CASTS:
            raise ValueError(f"`{cast}` runs blocks with parts of them replaced: `jumplens run` evaluates it")
        of_cast = maps.cast(cast)
        return [_Apply(of_cast[layer, self.n_layers]) for layer in range(self.n_layers)]

    def _check_maps(self, maps: Maps) -> dict[str, Any]:
        """What a fit wrote of itself, once it is certain that nothing known of the maps speaks against this model."""
        if maps.d != self.d:
            raise ValueError(f"the maps are for states of width {maps.d}, and the model's are {self.d} wide: they are another model's")
        info = maps.info()
        layers = info["origin"].get("n_layers")
        if layers is not None and layers != self.n_layers:
            raise ValueError(f"the maps are for {layers} layers, and the model has {self.n_layers}: they are another model's")
        made: dict[str, Any] = info["notes"].get("fit", {})
        there, here = (np.array(values) for values in (made.get("embedding", []), self._fingerprint()))
        if len(there) and (len(there) != len(here) or not np.allclose(there, here, rtol=0.02, atol=0.01 * np.abs(here).max())):
            raise ValueError("the maps were fitted on a model with another embedding: they are another model's")
        return made

    def _fingerprint(self) -> list[float]:
        """Some values of the embedding, by which another model is told."""
        weight = self._embedding.weight.detach().flatten()
        step = max(1, weight.numel() // 64)
        return [round(float(value), 6) for value in weight[::step][:64].float().cpu()]


class Lens:
    """What each layer predicts at each position; made by `Model.lens`. A notebook shows it as a heat map.

    Attributes
    ----------
    cast : str
    ids, tokens : list
        Of the text.
    top_ids, probabilities : array, ``[L + 1, tokens, k]``
        The best tokens, best first, and their probabilities.
    """

    def __init__(
        self, cast: str, ids: list[int], tokens: list[str], top_ids: Any, probabilities: Any, name: Callable[[int], str]
    ) -> None:
        self.cast, self.ids, self.tokens = cast, ids, tokens
        self.top_ids, self.probabilities = top_ids, probabilities
        self._name = name

    def top(self, layer: int, position: int) -> list[tuple[str, float]]:
        """The best tokens at a position of a layer, with their probabilities. `IndexError` where there is none such."""
        for what, at, number in (("layer", layer, self.top_ids.shape[0]), ("position", position, len(self.ids))):
            if not 0 <= at < number:
                raise IndexError(f"{what} {at} is past the end: there are {what}s 0 to {number - 1}")
        both = zip(self.top_ids[layer, position], self.probabilities[layer, position])
        return [(self._name(int(id)), float(probability)) for id, probability in both]

    def to_frame(self) -> Any:
        """A table: ``layer, position, token, rank, id, top, probability``."""
        columns: dict[str, list[Any]] = {name: [] for name in ("layer", "position", "token", "rank", "id", "top", "probability")}
        for (layer, position, rank), id in np.ndenumerate(self.top_ids):
            values = (layer, position, self.tokens[position], rank + 1, int(id), self._name(int(id)))
            for name, value in zip(columns, (*values, float(self.probabilities[layer, position, rank]))):
                columns[name].append(value)
        return _tables.of_columns(columns)

    def to_json(self) -> str:
        """An object with ``cast``, ``ids``, ``tokens``, and by layer and position the best tokens: ``[[[[token, probability], …], …], …]``."""
        layers, positions = self.top_ids.shape[:2]
        top = [[self.top(layer, position) for position in range(positions)] for layer in range(layers)]
        return json.dumps({"cast": self.cast, "ids": self.ids, "tokens": self.tokens, "top": top}, ensure_ascii=False)

    def _repr_html_(self) -> str:
        def cell(layer: int, position: int) -> str:
            top = self.top(layer, position)
            best, probability = top[0]
            under_mouse = "\n".join(f"{token!r} {share:.3f}" for token, share in top)
            style = f"background:rgba(33,102,172,{probability:.2f});color:{'#fff' if probability > 0.55 else 'inherit'}"
            return f'<td style="{style}" title="{html.escape(under_mouse)}">{html.escape(_shown(best))}</td>'

        head = "".join(f"<th>{html.escape(_shown(token))}</th>" for token in self.tokens)
        rows = [
            f"<tr><th>{layer}</th>{''.join(cell(layer, position) for position in range(len(self.ids)))}</tr>"
            for layer in reversed(range(self.top_ids.shape[0]))
        ]
        caption = f"{html.escape(self.cast)}: most probable token by layer and position"
        return (
            f'<table style="border-collapse:collapse;font-size:12px"><caption>{caption}</caption>'
            f"<thead><tr><th>layer</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )

    def __repr__(self) -> str:
        return f"<jumplens.torch.Lens `{self.cast}`: {self.top_ids.shape[0]} layers × {len(self.ids)} tokens>"


def _shown(token: str) -> str:
    return token.replace(" ", "·").replace("\n", "⏎") or "∅"


@dataclass(frozen=True)
class _Choice:
    seed: int
    positions: int | str
    skip_first: int

    def __post_init__(self) -> None:
        _check_number("seed", self.seed, 0)
        _check_number("skip_first", self.skip_first, 0)
        if self.positions != "all":
            _check_number("positions", self.positions, 1)

    @property
    def number(self) -> int | None:
        """How many positions; `None` for all."""
        return None if isinstance(self.positions, str) else self.positions


@dataclass(frozen=True)
class _Sample:
    """A text: its number, its ids, and the positions that are chosen of it."""

    index: int
    ids: list[int]
    positions: list[int]


@dataclass(frozen=True)
class _Row:
    """A sequence to run; the states at `positions` are wanted, and have the `places` among all samples."""

    index: int
    ids: list[int]
    positions: list[int]
    targets: list[int]
    places: list[int]


@dataclass(frozen=True)
class _Batch:
    rows: list[_Row]
    #: Texts that are new with this batch, in order.
    texts: list[_Sample]

    @property
    def targets(self) -> Tensor:
        """The true tokens, −1 where they are not known."""
        return torch.tensor([target for row in self.rows for target in row.targets])

    @property
    def places(self) -> list[int]:
        return [place for row in self.rows for place in row.places]


class _Apply:
    """A map on states of whatever device, in f32."""

    def __init__(self, map: Map) -> None:
        self._map = map
        self._module: nn.Linear | None = None

    def __call__(self, state: Tensor) -> Tensor:
        if self._module is None or self._module.weight.device != state.device:
            self._module = linear(self._map).to(state.device).requires_grad_(False)
        with _exact_products():
            out: Tensor = self._module(state.float())
        return out


class _Moments:
    """Sums over rows of all layers' states, on the device that these are on."""

    def __init__(self, d: int, n_layers: int, pairs: Literal["to-final", "all"]) -> None:
        self._total = Sums(d, n_layers + 1, pairs)
        self._to = {i: list(range(i + 1, n_layers + 1)) if pairs == "all" else [n_layers] for i in range(n_layers)}
        self._waiting: list[list[Tensor]] = [[] for _ in range(n_layers + 1)]
        self._rows = self._n = 0
        self._sums: dict[str, dict[Any, Tensor]] = {"sums": {}, "squares": {}, "grams": {}, "crosses": {}}

    def add(self, states: Sequence[Tensor]) -> None:
        for waiting, rows in zip(self._waiting, states):
            waiting.append(rows)
        self._rows += len(states[0])
        if self._rows >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        states = []
        for layer, waiting in enumerate(self._waiting):
            rows = torch.cat(waiting)
            if not bool(torch.isfinite(rows).all()):
                raise ValueError(f"states of layer {layer} are not finite: load the model in another dtype, or leave such texts out")
            states.append(_in_f64(rows))
            waiting.clear()
        with torch.no_grad():
            for layer, x in enumerate(states):
                self._take("sums", layer, x.sum(0))
                self._take("squares", layer, x.square().sum(0))
                if layer in self._to:
                    self._take("grams", layer, x.T @ x)
                for to in self._to.get(layer, []):
                    self._take("crosses", (layer, to), x.T @ states[to])
        self._n += self._rows
        self._rows = 0

    def _take(self, what: str, key: Any, value: Tensor) -> None:
        sums = self._sums[what]
        if key in sums:
            sums[key] += value
        else:
            sums[key] = value

    def sums(self) -> Sums:
        """All of them, for the solver."""
        self._flush()
        parts = {what: {key: value.cpu().numpy() for key, value in sums.items()} for what, sums in self._sums.items()}
        self._total._add_moments(self._n, **parts)
        return self._total


def _in_f64(rows: Tensor) -> Tensor:
    try:
        return rows.double()
    except (TypeError, RuntimeError):
        # The device has none.
        return rows.cpu().double()


class _Own:
    """What the model itself predicts at some positions, which casts are held against."""

    def __init__(self, logits: Tensor, targets: Tensor) -> None:
        self.logits = logits
        self._log_p = logits.log_softmax(-1)
        self._p = self._log_p.exp()
        self._top = logits.topk(min(TOP_K, logits.shape[-1])).indices
        self._targets = targets.to(logits.device)

    def compare(self, logits: Tensor) -> tuple[Any, Any, Any, Any]:
        """Place of the token of `logits` among the model's ten best (−1: none of them), its surprisal, KL, and loss (NaN: not known)."""
        log_p = logits.log_softmax(-1)
        token = logits.argmax(-1, keepdim=True)
        is_at = self._top == token
        place = torch.where(is_at.any(-1), is_at.int().argmax(-1), -1)
        surprisal = -self._log_p.gather(-1, token)[:, 0]
        kl = (self._p * (self._log_p - log_p)).sum(-1)
        loss = -log_p.gather(-1, self._targets.clamp(min=0)[:, None])[:, 0]
        loss = torch.where(self._targets >= 0, loss, torch.nan)
        is_there = torch.isfinite(logits).all(-1)
        figures = [torch.where(is_there, figure, torch.nan) for figure in (surprisal, kl, loss)]
        place = torch.where(is_there, place, -1)
        return (place.cpu().numpy(), *(figure.double().cpu().numpy() for figure in figures))  # type: ignore[return-value]


@dataclass
class _Predictions:
    """The figures of every cast, layer and sample."""

    casts: list[str]
    n_layers: int
    _texts: list[_Sample] = field(default_factory=list)
    _figures: dict[tuple[str, int], list[tuple[Any, ...]]] = field(default_factory=dict)
    _places: list[list[int]] = field(default_factory=list)

    def begin(self, batch: _Batch) -> None:
        self._texts.extend(_Sample(sample.index, sample.ids, sample.positions) for sample in batch.texts)
        self._places.append(batch.places)

    def take(self, cast: str, layer: int, figures: tuple[Any, ...]) -> None:
        self._figures.setdefault((cast, layer), []).append(figures)

    def table(self, seed: int) -> Any:
        if not self._texts:
            raise ValueError("there are no texts with positions to choose: give some that the maps were not fitted on")
        order = np.argsort(np.concatenate(self._places))
        sentences: list[int] = []
        for before, sample in zip([None, *self._texts], self._texts):
            if before is not None and before.ids == sample.ids:
                sentences[-1] += len(sample.positions)
            else:
                sentences.append(len(sample.positions))
        casts = []
        for cast in self.casts:
            layers = [list(zip(*self._figures[cast, layer])) for layer in range(self.n_layers + 1)]
            stacked = [np.stack([np.concatenate(layer[figure])[order] for layer in layers]) for figure in range(4)]
            casts.append((cast, stacked[0].astype(np.int64), *stacked[1:]))
        return _jumplens.layer_table(casts, sentences, seed)  # type: ignore[arg-type]


class _Counted:
    """Samples, counted and digested as they pass."""

    def __init__(self, samples: Iterable[_Sample]) -> None:
        self._samples = iter(samples)
        self._hash = hashlib.sha256()
        self.number = 0

    def __iter__(self) -> Iterator[_Sample]:
        return self

    def __next__(self) -> _Sample:
        sample = next(self._samples)
        self._hash.update(np.array([len(sample.ids), *sample.ids], "<i8").tobytes())
        self.number += 1
        return sample

    def said(self) -> dict[str, Any]:
        return {"number": self.number, "sha256": self._hash.hexdigest()}


def _without(samples: Iterator[_Sample], made: dict[str, Any]) -> Iterator[_Sample]:
    """The samples that maps may be measured on: of those that begin with the ones that they were fitted on, the `val` behind these."""
    fitted_on = made.get("texts", {"number": 0})
    first = _Counted(itertools.islice(samples, fitted_on["number"]))
    kept = list(first)
    if kept and first.said() == fitted_on:
        return itertools.islice(samples, made.get("val") or None)
    return itertools.chain(kept, samples)


def _check_evaluating(model: nn.Module) -> None:
    if model.training:
        raise ValueError("the model is in training mode, where dropout makes every state a random one: call `model.eval()` first")


def _check_number(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} is {value!r}, where a whole number of {least} or more is expected")


def _bar(number: int | None, name: str, progress: bool) -> Any:
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        progress = False
    if not progress:
        return _NoBar()
    return tqdm(total=number, desc=name, unit=" texts")


class _NoBar:
    def update(self, _: int) -> None: ...
    def close(self) -> None: ...


@contextlib.contextmanager
def _exact_products() -> Iterator[None]:
    """Within it products in f32 are those of f32, not of a shorter format."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _input_embedding(model: nn.Module) -> Any:
    """What token ids are looked up in."""
    get: Any = getattr(model, "get_input_embeddings", None)
    embedding = None if get is None else get()
    if getattr(embedding, "weight", None) is None:
        embedding = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    if embedding is None:
        raise ValueError(f"{type(model).__name__} has no embedding of tokens: it is no language model")
    if embedding.weight.is_meta:
        raise ValueError(
            "the embedding of tokens is not in memory: it has no values yet, or `device_map` put it on a disk; blocks may be there, the "
            "embedding may not"
        )
    return embedding


def _logits_of(output: Any) -> Tensor | None:
    """The logits of a model's output, where it has some."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", getattr(output, "prediction_logits", None))
    return logits if isinstance(logits, Tensor) else None


def _is_over_vocabulary(model: nn.Module, logits: Tensor, vocab_size: int) -> bool:
    get: Any = getattr(model, "get_output_embeddings", None)
    return (get is not None and get() is not None) or abs(logits.shape[-1] - vocab_size) <= vocab_size // 4


def _state_in(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """The state that a block is given."""
    state = _found_state(args, kwargs)
    if state is None:
        raise RuntimeError("a block was given no state of [batch, tokens, d]")
    return state


def _found_state(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    named = kwargs.get("hidden_states")
    return named if _is_state(named) else next((value for value in (*args, *kwargs.values()) if _is_state(value)), None)


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3


@dataclass
class _Call:
    """A block's call: what goes in and comes out, and of how many values where that is a tuple."""

    given: Tensor | None
    made: Tensor | None
    tuple: int | None


def _find_blocks(model: nn.Module, run: Callable[[], Any]) -> tuple[str, list[nn.Module], list[_Call]]:
    """The one list of modules that hand states on to one another, in a forward pass."""
    lists = {name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)}
    calls: dict[nn.Module, list[_Call]] = {}

    def after(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        length = len(output) if isinstance(output, tuple) else None
        calls.setdefault(block, []).append(_Call(_found_state(args, kwargs), first if _is_state(first) else None, length))

    with contextlib.ExitStack() as stack:
        for block in {block: None for blocks in lists.values() for block in blocks}:
            stack.callback(block.register_forward_hook(after, with_kwargs=True).remove)
        try:
            run()
        except Exception as error:
            raise ValueError(f"a forward pass over token ids failed ({type(error).__name__}: {error}): the model takes something else") from error

    def is_stack(blocks: list[nn.Module]) -> bool:
        own = [calls.get(block, []) for block in blocks]
        if any(len(each) != 1 or each[0].given is None or each[0].made is None for each in own):
            return False
        states = [(each[0].given, each[0].made) for each in own]
        hand_on = all(made is given or torch.equal(made, given) for (_, made), (given, _) in zip(states, states[1:]))  # type: ignore[arg-type]
        return hand_on and len({state.shape for both in states for state in both if state is not None}) == 1

    stacks = [name for name, blocks in lists.items() if is_stack(blocks)]
    outermost = [name for name in stacks if not any(name.startswith(f"{other}.") for other in stacks)]
    if len(outermost) > 1:
        raise ValueError(f"the model has several stacks of blocks, {', '.join(f'`{name}`' for name in outermost)}: one is expected")
    if not outermost:
        called = {name: {len(calls.get(block, [])) for block in blocks} for name, blocks in lists.items()}
        repeated = [name for name, numbers in called.items() if min(numbers) > 1]
        why = f"; `{repeated[0]}` is run more than once" if repeated else ""
        raise ValueError(
            f"no list of modules in {type(model).__name__} hands states of [batch, tokens, d] on from one to the next{why}: there is no "
            "stack of blocks to look into"
        )
    (name,) = outermost
    return name, lists[name], [calls[block][0] for block in lists[name]]


def _keep_length(block: nn.Module, index: int, state: Tensor, values: Iterable[Any]) -> None:
    """Puts an empty entry for as many tokens into a cache that a replaced block was to put its own into."""
    for cache in values:
        if not (hasattr(cache, "update") and hasattr(cache, "get_seq_length")):
            continue
        layer = next((module.layer_idx for module in block.modules() if isinstance(getattr(module, "layer_idx", None), int)), index)
        empty = state.new_zeros(state.shape[0], 1, state.shape[1], 1)
        try:
            cache.update(empty, empty, layer)
        except Exception as error:
            raise RuntimeError(f"{type(cache).__name__} cannot be kept right in a jump ({error}): pass `use_cache=False`") from error
        return
