"""What tensors cost, counted without having any: bytes alive and floating-point operations, on fake tensors that have a shape and no content.

Inside a :class:`Ledger` the run's own code builds its own networks and computes its own losses. What is counted is what torch's dispatcher sees:
not the scratch memory inside one operation, and not what an allocator rounds up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
Formula = Callable[..., float]
_forwards: Formula = sdpa_flop_count
_backwards: Formula = sdpa_backward_flop_count
FUSED: dict[Any, Formula] = {  # attention on a processor, which torch's own table lacks
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: _forwards(q.shape, k.shape, v.shape),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda d, q, k, v, *_, **__: _backwards(d.shape, q.shape, k.shape, v.shape),
}
COPIES = (aten.detach.default, aten.clone.default, aten._to_copy.default)  # what networks that are built, copied and recast are made by
PROBES = (2, 4)  # batches at which a module's cost is taken; it is a straight line in the batch


class _Fake(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A mode that a copy of its tensors shares: a copied network belongs to the same world."""

    def __deepcopy__(self, memo: Any) -> _Fake:
        return self


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, while it is entered, the bytes of all storages alive, the most there were since :meth:`mark`, and operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.flops = 0.0
        self.gradients: list[Tensor] = []  # of black boxes' weights, one lump each, until they are taken away
        self._known: set[int] = set()
        self._fake = _Fake(allow_non_fake_inputs=True)
        self._stack = ExitStack()

    def __enter__(self) -> Ledger:
        self._stack.enter_context(self._fake)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:  # float(), bool() and the like of a tensor that has no content
            return {torch.bool: False, torch.int64: 0}.get(args[0].dtype, 1.0)
        out = self._answer(func, args, kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in FUSED:
            self.flops += FUSED[packet](*args, **kwargs)
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor):
                self._enter(value)
        return out

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What ``func`` gives. Of what networks are built and copied by it is made here: fake tensors' own way looks each of them up at length."""
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        if func not in COPIES or not isinstance(args[0], FakeTensor) or "device" in kwargs:
            return func(*args, **kwargs)
        with in_kernel_invocation_manager(self._fake):
            made = func(*args, **kwargs)
        return FakeTensor(self._fake, made, args[0].fake_device)

    def mark(self) -> None:
        """Forget the peak so far."""
        self.peak = self.live

    def reached(self, extra: float) -> None:
        """Take note that so many bytes more than now were alive for a moment."""
        self.peak = max(self.peak, self.live + int(extra))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context whose peak and operations do not count."""
        peak, flops = self.peak, self.flops
        try:
            yield
        finally:
            self.peak, self.flops = max(peak, self.live), flops

    def _enter(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes()
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Passes:
    """What one call of a module costs: operations, and bytes beyond those alive when it begins."""

    forward: float  # operations
    forward_peak: float  # bytes, with the output
    kept: float  # bytes that going backwards will need, without the inputs
    backward: float  # operations
    backward_peak: float  # bytes, with the gradients

    def at(self, other: Passes, batch: float) -> Passes:
        """On the straight line through this one, at PROBES[0], and ``other``, at PROBES[1]."""
        share = (batch - PROBES[0]) / (PROBES[1] - PROBES[0])
        values = {f.name: getattr(self, f.name) + share * (getattr(other, f.name) - getattr(self, f.name)) for f in fields(self)}
        return Passes(**{name: max(value, 0.0) for name, value in values.items()})


@dataclass(frozen=True)
class _Known:
    """A module's cost at both batches, and what its output looks like."""

    passes: tuple[Passes, Passes]
    output: Any  # a tree of (shape without the batch, dtype) where tensors stand
    retained: tuple[bool, ...]  # which of the input tensors going backwards needs


class Gauge:
    """Remembers what a call of a module costs, so that calls alike are counted and not traced again: deep networks are a few blocks many times."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    @contextmanager
    def covering(self, *kinds: type[nn.Module]) -> Iterator[None]:
        """A context in which all modules of these classes, copies included, answer with empty tensors and their cost; and none is moved, for
        there is nothing to move.
        """
        originals, move = {kind: kind.forward for kind in kinds}, nn.Module.to
        try:
            nn.Module.to = lambda module, *_, **__: module  # type: ignore[assignment, method-assign]
            for kind, original in originals.items():
                kind.forward = self._stand_in(original)
            yield
        finally:
            nn.Module.to = move  # type: ignore[method-assign]
            for kind, original in originals.items():
                kind.forward = original

    def _stand_in(self, original: Any) -> Any:
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            leaves, tree = tree_flatten((args, kwargs))
            places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
            inputs = [leaves[place] for place in places]
            batch = inputs[0].shape[0]
            key, learnt = _signature(module, leaves, batch)
            if key not in _COSTS:
                with self.ledger.aside():
                    _COSTS[key] = self._measure(original, module, leaves, tree, batch)
            known = _COSTS[key]
            passes = known.passes[0].at(known.passes[1], batch)
            shapes, outline = tree_flatten(known.output, is_leaf=lambda leaf: isinstance(leaf, _Shape))
            self.ledger.reached(passes.forward_peak)
            self.ledger.flops += passes.forward
            outlines = [(shape.at(batch), shape.dtype) for shape in shapes]
            token = torch.empty(0, requires_grad=bool(learnt))  # stands for the weights: their gradients are one lump
            outputs = _Block.apply(self.ledger, passes, known.retained, outlines, learnt, token, *inputs)  # type: ignore[no-untyped-call]
            return tree_unflatten(list(outputs), outline)

        return forward

    def _measure(self, original: Any, module: nn.Module, leaves: Sequence[Any], tree: Any, batch: int) -> _Known:
        found: list[Passes] = []
        output: Any = None
        retained: tuple[bool, ...] = ()
        # what a checkpoint around the caller would do with what is saved is not this module's affair
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x), _uncached():
            for probe in PROBES:
                passes, output, retained = self._once(original, module, [_resized(leaf, batch, probe) for leaf in leaves], tree, probe)
                found.append(passes)
        return _Known((found[0], found[1]), output, retained)

    def _once(self, original: Any, module: nn.Module, leaves: list[Any], tree: Any, batch: int) -> tuple[Passes, Any, tuple[bool, ...]]:
        ledger = self.ledger
        grads, lumps = [parameter.grad for parameter in module.parameters()], len(ledger.gradients)
        before, ledger.flops = ledger.live, 0.0
        ledger.mark()
        args, kwargs = tree_unflatten(leaves, tree)
        out = original(module, *args, **kwargs)
        forward, forward_peak = ledger.flops, ledger.peak - before
        watched = [weakref.ref(leaf.untyped_storage()) for leaf in leaves if isinstance(leaf, Tensor)]
        sizes = [leaf.untyped_storage().nbytes() for leaf in leaves if isinstance(leaf, Tensor)]
        output = tree_map(lambda value: _Shape.of(value, batch), out)
        made = [value for value in tree_flatten(out)[0] if isinstance(value, Tensor)]
        learns = [value for value in made if value.requires_grad]
        given = sum(value.untyped_storage().nbytes() for value in made)
        del args, kwargs, out
        inputs_before = sum(sizes)
        leaves.clear()
        retained = tuple(ref() is not None for ref in watched)
        held = sum(size for size, kept in zip(sizes, retained, strict=True) if kept)
        # the probe's inputs were alive before; those that nothing holds are gone now
        kept = ledger.live - (before - inputs_before) - given - held
        if not learns:
            return Passes(forward, forward_peak, 0.0, 0.0, 0.0), output, retained
        gradients = [torch.empty_like(value) for value in learns]
        ledger.flops, start = 0.0, ledger.live
        ledger.mark()
        torch.autograd.backward(learns, gradients)
        passes = Passes(forward, forward_peak, float(kept), ledger.flops, float(ledger.peak - start))
        for parameter, grad in zip(module.parameters(), grads, strict=True):
            parameter.grad = grad
        del ledger.gradients[lumps:]
        return passes, output, retained


class _Block(torch.autograd.Function):
    """A module as a black box: it keeps as many bytes as the module would, and returns gradients of the right shapes."""

    @staticmethod
    def forward(ctx: Any, ledger: Ledger, passes: Passes, retained: Any, outlines: Any, learnt: int, token: Tensor, *inputs: Tensor) -> Any:
        blob = torch.empty(int(passes.kept) if any(ctx.needs_input_grad) else 0, dtype=torch.uint8)
        ctx.save_for_backward(blob, *(tensor for tensor, kept in zip(inputs, retained, strict=True) if kept))
        ctx.ledger, ctx.passes, ctx.learnt = ledger, passes, learnt
        ctx.wanted = [(tensor.shape, tensor.dtype) for tensor in inputs]
        return tuple(torch.empty(shape, dtype=dtype) for shape, dtype in outlines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        saved = ctx.saved_tensors  # what a checkpoint has dropped is computed again here
        ctx.ledger.reached(ctx.passes.backward_peak)
        ctx.ledger.flops += ctx.passes.backward
        del saved
        if ctx.learnt:
            ctx.ledger.gradients.append(torch.empty(ctx.learnt, dtype=torch.uint8))
        wanted = zip(ctx.needs_input_grad[6:], ctx.wanted, strict=True)
        return (None,) * 6 + tuple(torch.empty(shape, dtype=dtype) if needed else None for needed, (shape, dtype) in wanted)


@dataclass(frozen=True)
class _Shape:
    """A tensor's outline: its shape behind the batch."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: float  # a batch's rows over its samples

    @classmethod
    def of(cls, value: Tensor, batch: int) -> _Shape:
        return cls(tuple(value.shape[1:]), value.dtype, value.shape[0] / batch)

    def at(self, batch: int) -> tuple[int, ...]:
        return (round(self.rows * batch), *self.shape)


_COSTS: dict[Any, _Known] = {}  # of a process: costs depend on nothing but their key


def _signature(module: nn.Module, leaves: Sequence[Any], batch: int) -> tuple[Any, int]:
    """What a call's cost depends on, and the bytes of the gradients of the module's weights."""
    parts = list(module.modules())
    own = [(name, parameter) for part in parts for name, parameter in part._parameters.items() if parameter is not None]
    weights = tuple((name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in own)
    learnt = sum(4 * p.numel() for p in {id(p): p for _, p in own if p.requires_grad}.values())
    spared = any(getattr(part, "gradient_checkpointing", False) for part in parts)
    attention = tuple(sorted({type(part.processor).__name__ for part in parts if hasattr(part, "processor")}))
    given = tuple(
        (tuple(leaf.shape[1:]), leaf.shape[:1] == (batch,), leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else repr(leaf) for leaf in leaves
    )
    mode = (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), module.training)
    return (type(module), weights, spared, attention, given, mode), learnt


def _resized(leaf: Any, batch: int, probe: int) -> Any:
    if not isinstance(leaf, Tensor) or leaf.shape[:1] != (batch,):
        return leaf
    return torch.empty((probe, *leaf.shape[1:]), dtype=leaf.dtype, requires_grad=leaf.requires_grad)


def _uncached() -> AbstractContextManager[Any]:
    """Autocast as it is here, without its memory of weights already cast: each module casts its own."""
    return torch.autocast("cpu", dtype=torch.get_autocast_dtype("cpu"), enabled=torch.is_autocast_enabled("cpu"), cache_enabled=False)
