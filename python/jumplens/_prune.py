"""Models of PyTorch with fewer blocks: see `jumplens.torch.prune`."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .torch import Model

Form = Literal["refit", "fold", "drop"]
#: Texts that choices are made on, of those that are given: one in so many, and no more than that.
HELD, MOST_HELD = 10, 100


def prune(
    m: Model, ids: Sequence[list[int]], blocks: int, form: Form, ridge: float, batch_tokens: int, said: Callable[[str], None]
) -> nn.Module:
    held = ids[-max(1, min(MOST_HELD, len(ids) // HELD)) :]
    fitted = _Texts(m, ids[: len(ids) - len(held)], batch_tokens)
    search = _Search(m, fitted, _Texts(m, held, batch_tokens), form != "drop", ridge)
    removed: set[int] = set()
    for at in range(blocks):
        kl, best = min((search.judge(removed | {block}), block) for block in range(1, m.n_layers) if block not in removed)
        removed.add(best)
        said(f"{at + 1} of {blocks}: block {best + 1} out, KL {kl:.4f}")
    return _Refit(m, fitted, form, ridge).make(_spans(m.n_layers, removed))


def _spans(n_layers: int, removed: set[int]) -> list[tuple[int, int]]:
    """The blocks that stay, each with the last one that it stands for."""
    spans: list[tuple[int, int]] = []
    for block in range(n_layers):
        if block in removed:
            spans[-1] = spans[-1][0], block
        else:
            spans.append((block, block))
    return spans


class _Texts:
    """Texts in batches of one length each, so that nothing is padded."""

    def __init__(self, m: Model, ids: Iterable[list[int]], batch_tokens: int) -> None:
        by_length: dict[int, list[list[int]]] = {}
        for one in ids:
            by_length.setdefault(len(one), []).append(one)
        device = m._embedding.weight.device
        self.batches: list[Tensor] = []
        for length, group in sorted(by_length.items()):
            step = max(1, batch_tokens // length)
            self.batches += [torch.tensor(group[at : at + step], device=device) for at in range(0, len(group), step)]


def output_layer(m: Model, block: int, batch: Tensor) -> nn.Module:
    """The layer that the feed-forward part of a block ends with: the last product of the block, proven to be an addend of its output."""
    last: list[nn.Module] = []

    def seen(module: nn.Module, _: Any, output: Any) -> None:
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() == 2 and isinstance(output, Tensor) and output.shape[-1] == m.d:
            last[:] = [module]

    with contextlib.ExitStack() as stack:
        for module in m.blocks[block].modules():
            stack.callback(module.register_forward_hook(seen).remove)
        before = m._states(batch)[block + 1]
    if not last:
        raise ValueError(f"block {block + 1} has no layer of {m.d} outputs: take `form='drop'`")
    shift = torch.randn(m.d, generator=torch.Generator().manual_seed(0)).to(before)
    scale = before.float().std()

    def shifted(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + (scale * shift).to(output)

    with contextlib.closing(_Removing(last[0].register_forward_hook(shifted))):
        after = m._states(batch)[block + 1]
    off = float((after.float() - before.float() - scale * shift.float()).abs().max() / scale)
    if off > (1e-3 if before.dtype == torch.float32 else 0.1):
        raise ValueError(
            f"what block {block + 1} puts out is not a sum that its feed-forward part adds to (a norm stands behind it): nothing can be folded "
            "into it; take `form='drop'`"
        )
    return last[0]


class _Removing:
    """A hook, to be closed."""

    def __init__(self, handle: Any) -> None:
        self.close = handle.remove


class _Solving:
    """Weighted sums of rows x and of what is missing t, in f64 where the device has it: `Δ = argmin Σ w·‖t − Δ·x‖² + λ·‖Δ‖²`."""

    def __init__(self, d_in: int, d_out: int, bias: bool, device: torch.device) -> None:
        width = d_in + bias
        try:
            self.gram = torch.zeros(width, width, dtype=torch.float64, device=device)
        except (TypeError, RuntimeError):
            device = torch.device("cpu")
            self.gram = torch.zeros(width, width, dtype=torch.float64)
        self.cross = torch.zeros(width, d_out, dtype=torch.float64, device=device)
        self.bias = bias

    def add(self, x: Tensor, missing: Tensor, wanted: Tensor) -> None:
        # By the length of what is to be met: to first order the cosine distance.
        root = wanted.double().norm(dim=-1, keepdim=True).clamp_min(1e-30).reciprocal() * wanted.shape[-1] ** 0.5
        x, missing = x.double(), missing.double()
        if self.bias:
            x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        x, missing = (x * root).to(self.gram.device), (missing * root).to(self.gram.device)
        self.gram += x.T @ x
        self.cross += x.T @ missing

    def solve(self, ridge: float) -> tuple[Tensor, Tensor | None]:
        """Δ `[out, in]`, and the change of the bias."""
        gram = self.gram + ridge * self.gram.diagonal().mean() * torch.eye(len(self.gram), dtype=torch.float64, device=self.gram.device)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed) == 0:
            change = torch.cholesky_solve(self.cross, factor).T
        else:
            change = torch.linalg.lstsq(gram.cpu(), self.cross.cpu(), driver="gelsd").solution.T
        return (change[:, :-1], change[:, -1]) if self.bias else (change, None)


def _is_out_in(layer: nn.Module) -> bool:
    """Whether a weight is `[out, in]`, as all but `Conv1D` have it."""
    return type(layer).__name__ != "Conv1D"


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


class _Seen:
    """What a layer read and put out in the last pass."""

    def __init__(self, layer: nn.Module) -> None:
        self.read = self.output = torch.empty(0)
        self._handle = layer.register_forward_hook(self._take)

    def _take(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.read, self.output = args[0], output

    def close(self) -> None:
        self._handle.remove()


class _Search:
    """How much leaving blocks out costs, by KL on texts that are not fitted on."""

    def __init__(self, m: Model, fitted: _Texts, held: _Texts, folds: bool, ridge: float) -> None:
        self.m, self.held, self.ridge = m, held, ridge
        self.layers = [output_layer(m, block, held.batches[0]) for block in range(m.n_layers)] if folds else None
        self.states: list[list[Tensor]] = []
        self.outputs: list[list[Tensor]] = []
        self._changes: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        if self.layers is not None:
            rows, most = 0, max(16 * m.d, 4096)
            for batch in fitted.batches:
                with contextlib.ExitStack() as stack:
                    seen = [stack.enter_context(contextlib.closing(_Seen(layer))) for layer in self.layers]
                    self.states.append([_rows(h) for h in m._states(batch)])
                    self.outputs.append([_rows(one.output) for one in seen])
                rows += batch.numel()
                if rows >= most:
                    break
        self.own = [m.logits(m._states(batch)[-1]).float().log_softmax(-1) for batch in held.batches]

    def _change(self, block: int, until: int) -> tuple[Tensor, Tensor | None]:
        if (block, until) not in self._changes:
            first = self.outputs[0][block]
            assert self.layers is not None
            bias = getattr(self.layers[block], "bias", None) is not None
            sums = _Solving(self.m.d, self.m.d, bias, first.device)
            for states, outputs in zip(self.states, self.outputs):
                wanted = states[until + 1].to(first.device)
                sums.add(outputs[block], wanted - states[block + 1].to(wanted), wanted)
            self._changes[block, until] = sums.solve(max(self.ridge, 1e-4))
        return self._changes[block, until]

    def judge(self, removed: set[int]) -> float:
        """Mean KL(whole ‖ shorter), nats, with the blocks `removed` left out and the output before each gap mapped."""
        m = self.m
        total, count = 0.0, 0
        with contextlib.ExitStack() as stack:
            for block, until in _spans(m.n_layers, removed):
                if until > block and self.layers is not None:
                    change, shift = self._change(block, until)
                    stack.callback(self.layers[block].register_forward_hook(_mapping(change, shift)).remove)
            stack.enter_context(m._replaced({block: lambda state: state for block in removed}))
            with torch.no_grad():
                logits = [m._run(batch).logits.float().log_softmax(-1) for batch in self.held.batches]
        for own, other in zip(self.own, logits):
            other = other.to(own.device)
            total += float((own.exp() * (own - other)).sum())
            count += own.shape[0] * own.shape[1]
        return total / count


def _mapping(change: Tensor, shift: Tensor | None) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        added = output @ change.T.to(output)
        return output + (added if shift is None else added + shift.to(output))

    return hook


class _Refit:
    """The smaller model: a copy with the blocks that stay, their output layers changed."""

    def __init__(self, m: Model, fitted: _Texts, form: Form, ridge: float) -> None:
        self.m, self.fitted, self.form, self.ridge = m, fitted, form, ridge

    def make(self, spans: list[tuple[int, int]]) -> nn.Module:
        from .torch import wrap

        m = self.m
        shorter = _shorter(m, [block for block, _ in spans])
        if self.form == "drop":
            return shorter
        s = wrap(shorter, m.tokenizer)
        apart = False
        for at, (block, until) in enumerate(spans):
            if not (until > block or apart and self.form == "refit"):
                continue
            layer = output_layer(s, at, self.fitted.batches[0])
            weight, bias = layer.weight, getattr(layer, "bias", None)
            assert isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
            d_in = m.d if self.form == "fold" else (weight.shape[1] if _is_out_in(layer) else weight.shape[0])
            sums = _Solving(int(d_in), m.d, bias is not None, weight.device)
            for batch in self.fitted.batches:
                wanted = _rows(m._states(batch)[until + 1])
                with contextlib.closing(_Seen(layer)) as seen:
                    own = _rows(s._states(batch)[at + 1])
                source = seen.read if self.form == "refit" else seen.output
                sums.add(_rows(source), wanted.to(own).float() - own.float(), wanted)
            change, shift = sums.solve(self.ridge)
            with torch.no_grad():
                before = weight.detach().double() if _is_out_in(layer) else weight.detach().double().T
                added = change.to(before) if self.form == "refit" else change.to(before) @ before
                weight += (added if _is_out_in(layer) else added.T).to(weight)
                if bias is not None and shift is not None:
                    moved = shift.to(weight.device)
                    if self.form == "fold":
                        moved = moved + change.to(weight.device) @ bias.double()
                    bias += moved.to(bias)
            apart = True
        return shorter


def _shorter(m: Model, kept: list[int]) -> nn.Module:
    """A copy of the model with these of its blocks, numbered anew, and a configuration that says so."""
    model = copy.deepcopy(m.model)
    blocks = model.get_submodule(m.blocks_name)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"`{m.blocks_name}` is no ModuleList, and blocks can be taken out of no other")
    left = [blocks[index] for index in kept]
    for number, (index, block) in enumerate(zip(kept, left)):
        for module in block.modules():
            # By its number a block finds its entries in the cache.
            for name in ("layer_idx", "layer_id", "layer_number"):
                if module.__dict__.get(name) == index:
                    setattr(module, name, number)
    parent, _, name = m.blocks_name.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(left))
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if getattr(config, name, None) == m.n_layers:
            setattr(config, name, len(kept))
    for name in ("layer_types", "attention_layers"):
        types = getattr(config, name, None)
        if isinstance(types, list) and len(types) == m.n_layers:
            setattr(config, name, [types[index] for index in kept])
    return model.eval()
