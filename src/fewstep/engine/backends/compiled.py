"""torch.compile: whole graphs without breaks, half precision and CUDA graphs where there is a CUDA device.

Not yet run on an accelerator: on a processor tests hold it to eager torch, and bench/gpu.sh measures it where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from fewstep.engine.backends import BackendError, log
from fewstep.engine.backends.eager import Eager, check_device
from fewstep.engine.measured import cache
from fewstep.engine.model import Model
from fewstep.models.students import share_projections
from fewstep.models.wrap import wraps
from fewstep.schedule import TRAIN_TIMESTEPS

CUDA_GRAPHS = "reduce-overhead"  # one for each shape that comes by; the next call writes where the one before left its outputs
SHAPES = 512  # sizes and batches that a network is compiled for, before torch gives up; its own limit is 8


def open(  # noqa: A001 - every backend has one
    model: Model, device: str = "cpu", threads: int | None = None, strict: bool = False, precision: str = "auto"
) -> Compiled:
    """The backend for ``model`` on ``device``. ``strict``: a network that cannot be compiled is an error, not a warning."""
    if (folder := cache("inductor")) is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))  # a second start finds what the first compiled
    check_device(device)
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.accumulated_recompile_limit = max(8 * SHAPES, torch._dynamo.config.accumulated_recompile_limit)
    return Compiled(model, device, threads, strict, precision)


def half(device: str) -> torch.dtype:
    """bfloat16 where CUDA has it, float16 on older cards, float32 on a processor, whose half precision is many times slower."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


class Compiled(Eager):
    """Eager's backend with its networks compiled. Each size and batch is compiled once, and kept on disk."""

    name = "compiled"
    apart = True

    def __init__(self, model: Model, device: str, threads: int | None, strict: bool = False, precision: str = "auto") -> None:
        self._strict = strict
        self._options: dict[str, Any] = {"mode": CUDA_GRAPHS} if device.startswith("cuda") else {}
        self._times = torch.arange(TRAIN_TIMESTEPS, device=device)  # made before, so that no step waits for a copy
        super().__init__(model, device, threads, half(device), precision)

    def _quick(self, network: Any) -> Any:
        """``network`` compiled, in its own place: its weights may still be exchanged, and none is held twice."""
        network = network.to(memory_format=torch.channels_last)
        if hasattr(network, "encoder") and hasattr(network, "decoder"):  # of an autoencoder the decoder is what counts
            network.decoder.forward = _Compiling(network.decoder.forward, self._options, self._strict, "decoder")
            return network
        if unet := hasattr(network, "fuse_qkv_projections"):
            network.fuse_qkv_projections()
            share_projections(network)
        compiled = _Compiling(network.forward, self._options, self._strict, type(network).__name__)
        network.forward = self._timed(compiled) if unet else compiled
        return network

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A UNet's ``call`` whose timestep is on the device already."""
        return lambda x, t, *args, **kwargs: call(x, self._times[t] if isinstance(t, int) else t, *args, **kwargs)


class _Compiling:
    """A compiled function; one that turns out not to compile is called as it is from then on, and so is any while pictures wrap around."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], strict: bool, name: str) -> None:
        self._plain, self._strict, self._name = function, strict, name
        self._borrowed = options.get("mode") == CUDA_GRAPHS
        self._call: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False, **options)
        self._tried = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if wraps():
            return self._plain(*args, **kwargs)
        if not self._tried:
            log.warning("fewstep: compiling the %s; the first picture of each size takes minutes, later ones find it on disk", self._name)
        try:
            result = self._call(*args, **kwargs)
            result = tree_map_only(torch.Tensor, torch.clone, result) if self._borrowed else result
        except Exception as error:
            if self._call is self._plain or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if self._strict:
                raise BackendError(f"the {self._name} cannot be compiled here ({reason}): use --backend eager") from error
            log.warning("fewstep: the %s cannot be compiled here (%s); going on without", self._name, reason)
            self._call = self._plain
            result = self._plain(*args, **kwargs)
        self._tried = True
        return result
