"""Networks with the memory for them, and their computation."""

from __future__ import annotations

import ctypes
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from functools import cache

import numpy as np

from fewstep.engine.backends.native.library import Operation
from fewstep.engine.backends.native.network import ATTENTION, GUIDE, PLANES, Floats, Layer
from fewstep.engine.recent import recent

LINE = 16  # numbers of a cache's line
SIZES = 4  # of pictures whose memory is kept


class Computed:
    """What the kernels make of a network's layers, for latents of any size."""

    def __init__(self, library: ctypes.CDLL, layers: tuple[Layer, ...], threads: int) -> None:
        self._library, self._threads = library, threads
        weights = [value for layer in layers for value in layer.weights if value is not None]
        views = iter(memory([value.size for value in weights]))  # one piece: the fewer pages, the better
        self._layers = [replace(layer, weights=tuple(None if value is None else next(views) for value in layer.weights)) for layer in layers]
        for view, value in zip((one for layer in self._layers for one in layer.weights if one is not None), weights, strict=True):
            view[:] = value.ravel()
        self._sizes: OrderedDict[Hashable, dict[tuple[int, int], Plan]] = OrderedDict()  # {(height, width): {(threads, worker): ...}}
        self._lock = threading.Lock()  # a plan's memory is one picture's

    def __call__(self, pictures: Floats) -> Floats:
        """What comes out for pictures [B, C, h, w]; see Plan."""
        return self.each(pictures.shape, lambda plan, number: plan(pictures[number]))

    def each(self, shape: tuple[int, ...], work: Callable[[Plan, int], Floats]) -> Floats:
        """What ``work`` makes of pictures of this ``shape``, [B, C, h, w], called with a plan and a picture's number.

        As many at once as there are threads, which share no work then and wait for none; those left over one after the other, on all.
        """
        count, _, height, width = shape
        workers = min(count, self._threads)
        together = count // workers * workers if workers > 1 else 0
        made: list[Floats] = []
        with self._lock:
            plans = recent(self._sizes, (height, width), dict[tuple[int, int], Plan], SIZES)

            def plan(threads: int, worker: int) -> Plan:
                if (threads, worker) not in plans:
                    plans[threads, worker] = Plan(self._library, self._layers, threads, height, width)
                return plans[threads, worker]

            if together:
                own = [plan(self._threads // workers, worker) for worker in range(workers)]
                for first in range(0, together, workers):
                    begun = [pool(self._threads).submit(work, one, first + worker) for worker, one in enumerate(own)]
                    wait(begun)  # for all: who fails must not leave others at work in what the next call uses
                    made += [one.result() for one in begun]
            made += [work(plan(self._threads, 0), number) for number in range(together, count)]
        return made[0][None] if count == 1 else np.stack(made)


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    """Threads that make a picture each."""
    return ThreadPoolExecutor(threads, "fewstep-native")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.cache_clear)  # a child has none of them


class Plan:
    """The layers for pictures of one size, with the memory for them: one that nobody will read gives its place to a later one."""

    def __init__(self, library: ctypes.CDLL, layers: Sequence[Layer], threads: int, height: int, width: int) -> None:
        """``height`` and ``width`` are those of what comes in."""
        self._library, self._threads = library, threads
        operations = [_operation(layer, layers, height, width) for layer in layers]
        sizes = [height * width * layers[0].cin, *(one.height * one.width * one.cout for one in operations)]
        last = {picture: number for number, layer in enumerate(layers) for picture in layer.reads}
        rooms, places, spare = [sizes[0]], [0], list[int]()
        for number, layer in enumerate(layers):
            if not spare:
                spare.append(len(rooms))
                rooms.append(0)
            places.append(max(spare, key=rooms.__getitem__))
            spare.remove(places[-1])
            rooms[places[-1]] = max(rooms[places[-1]], sizes[number + 1])
            spare += {places[picture] for picture in layer.reads if last[picture] == number}
        memories = memory(rooms)
        pictures = [memories[place] for place in places]
        counted = sorted({layer.source - 1 for layer in layers if layer.groups})
        statistics = memory([library.stats_of(ctypes.byref(operations[number])) for number in counted])
        for number, stats in zip(counted, statistics, strict=True):
            operations[number].stats = stats.ctypes.data
        for number, (one, layer) in enumerate(zip(operations, layers, strict=True)):
            one.input, one.out = pictures[layer.source].ctypes.data, pictures[number + 1].ctypes.data
            one.residual = None if layer.residual is None else pictures[layer.residual].ctypes.data
            if layer.other is not None:
                one.other = pictures[layer.other].ctypes.data
            elif one.heads:
                one.other, one.apart, one.tokens = one.input + one.cout * 4, one.cin, one.height * one.width
        self._outside = [(number, layer.outside, layer.away) for number, layer in enumerate(layers) if layer.outside is not None]
        self._guided = [number for number, layer in enumerate(layers) if layer.kind == GUIDE]
        timed = [(number, layer.timed, layer.cout) for number, layer in enumerate(layers) if layer.timed is not None]
        self.biases = memory([max((begin + count for _, begin, count in timed), default=0)])[0]
        for number, begin, _ in timed:
            operations[number].bias = self.biases[begin:].ctypes.data
        self._operations = (Operation * len(operations))(*operations)
        self._memory = memories, statistics
        self._each, self._scratch, self._tokens = 0, memory([0])[0], list[int]()
        self._incoming = pictures[0][: sizes[0]].reshape(height, width, layers[0].cin)
        self._outgoing = pictures[-1][: sizes[-1]]
        shape = operations[-1].height, operations[-1].width
        self._shape = (-1, *shape) if layers[-1].kind == PLANES else (*shape, -1)
        self._reserve()

    def __call__(self, picture: Floats, keys: Sequence[Floats] = (), further: float = 0.0) -> Floats:
        """What comes out, float32 [C', H, W] of PLANES and else [H, W, C'], for one picture, float32 [C, h, w].

        ``keys`` are those that come from outside, values behind them, [tokens, channels of all layers]: a prompt's, and then a negative
        one's, that GUIDE leads away from, ``further`` the more.
        """
        self._incoming[:] = 0
        self._incoming[:, :, : len(picture)] = picture.transpose(1, 2, 0)
        for number, begin, away in self._outside:
            one, own = self._operations[number], keys[away]
            one.other, one.apart, one.tokens = own.ctypes.data + 4 * begin, own.shape[1], len(own)
        for number in self._guided:
            self._operations[number].further = further
        if (tokens := [len(own) for own in keys]) != self._tokens:
            self._reserve()
            self._tokens = tokens
        self._library.compute(self._operations, len(self._operations), ctypes.c_void_p(self._scratch.ctypes.data), ctypes.c_size_t(self._each), self._threads)
        return self._outgoing.reshape(self._shape).copy()

    def _reserve(self) -> None:
        """Have as much memory for the threads as the operations need."""
        each = line(max(self._library.scratch_of(ctypes.byref(one)) for one in self._operations))
        if each > self._each:
            self._scratch, self._each = memory([each * self._threads])[0], each


def _operation(layer: Layer, layers: Sequence[Layer], height: int, width: int) -> Operation:
    before = layers[layer.source - 1].scale if layer.source else None
    sizes = [scale.of(side) if scale else side for scale in (layer.scale, before) for side in (height, width)]
    addresses = (None if value is None else value.ctypes.data for value in layer.weights)
    heads = layer.heads if layer.kind == ATTENTION else 0
    form = layer.stride, layer.activation, layer.factor, layer.groups, layer.source - 1, layer.layered
    own = heads, 0, 0, layer.causal, layer.late, layer.around, layer.epsilon, 0.0
    return Operation(layer.kind, layer.cin, layer.cout, *sizes, *form, *own, None, None, None, None, None, *addresses)


def line(count: int) -> int:
    """So many numbers, and the rest of a cache's line."""
    return -(-count // LINE) * LINE


def memory(sizes: Sequence[int]) -> list[Floats]:
    """Arrays of zeros in one piece, each beginning with a cache's line."""
    whole = np.zeros(sum(map(line, sizes)) + LINE, np.float32)
    at = -whole.ctypes.data // whole.itemsize % LINE
    views = []
    for size in sizes:
        views.append(whole[at : at + size])
        at += line(size)
    return views
