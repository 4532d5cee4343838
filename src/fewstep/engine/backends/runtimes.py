"""Runtimes that compute ONNX graphs on a CPU, each behind the same call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends import BackendError
from fewstep.engine.backends.names import NATIVE
from fewstep.engine.backends.onnx_file import filled
from fewstep.engine.backends.wrapped import Wrapped, wrap
from fewstep.engine.measured import cache
from fewstep.models.adapters import TEXT, UNET

DECODERS = {"full": "decoder", "tiny": "decoder_tiny"}  # the graph of each
ENCODER = "encoder"
NEGATABLE = "unet_negative"  # the UNet whose attentions take a negative prompt
Session = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[np.float32]]]  # inputs by name to outputs in the graph's order


@dataclass(frozen=True)
class Graph:
    """One of a model's graphs, and its weights."""

    name: str
    file: bytes  # ONNX, without weights and with zeros around pictures
    weights: Mapping[str, np.ndarray]  # float32 by name
    wrapped: Wrapped | None = None  # along what pictures wrap around instead

    @property
    def content(self) -> bytes:
        """The file as it is to be computed, still without weights."""
        return wrap(self.file, *self.wrapped) if self.wrapped else self.file


class Runtime(Protocol):
    """Makes sessions of graphs."""

    name: str
    several: bool  # whether several pictures are decoded sooner at once; else one by one, which keeps the activations in the processor's cache
    wraps: bool  # whether it computes convolutions whose padding wraps around

    def __call__(self, graph: Graph, threads: int, keep: bool) -> Session:
        """A session of ``graph``; ``keep``: what is compiled is kept on disk, if anything is.

        Raises what the library raises.
        """


def open_runtime(name: str, precision: str = "auto", configs: Mapping[str, Mapping[str, Any]] | None = None) -> Runtime:
    """The runtime ``name``, computing in ``precision``; ``configs`` are the networks' configurations by part.

    Raises ImportError if it is not installed, BackendError if it cannot be used here or has no such numbers.
    """
    if name == NATIVE:
        return Native(precision, configs or {})
    return OpenVino(precision) if name == "openvino" else OnnxRuntime(precision)


def check_float32(name: str, precision: str) -> None:
    """Raises BackendError if another ``precision`` is asked for than the one that the runtime ``name`` has."""
    if precision not in ("auto", "float32"):
        raise BackendError(f"the {name} backend computes in float32, not in {precision}: leave --backend or --precision at auto")


class OnnxRuntime:
    """Microsoft's ONNX Runtime, which the plain install brings."""

    name, several, wraps = "onnxruntime", False, True

    def __init__(self, precision: str = "auto") -> None:
        check_float32(self.name, precision)

    def __call__(self, graph: Graph, threads: int, keep: bool) -> Session:
        """See Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves its core to others
        options.log_severity_level = 3
        options.add_external_initializers(list(graph.weights), [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in graph.weights.values()])
        session = onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
            return session.run(None, dict(inputs))

        return run


class OpenVino:
    """Intel's OpenVINO, an extra. What it compiled is found again by a second process, which reads it in a quarter of the time."""

    name, several, wraps = "openvino", False, False

    def __init__(self, precision: str = "auto") -> None:
        import openvino

        self._core = openvino.Core()
        self._numbers = {"auto": "f32", "float32": "f32", "bfloat16": "bf16"}.get(precision)
        if self._numbers is None or (self._numbers == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            raise BackendError(f"openvino does not compute in {precision} on this processor: leave --precision at auto")

    def __call__(self, graph: Graph, threads: int, keep: bool) -> Session:
        """See Runtime."""
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self._numbers, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if keep and (folder := cache("openvino")) is not None and os.access(folder, os.W_OK):
            config["CACHE_DIR"] = str(folder)
        model = self._core.read_model(filled(graph.content, graph.weights))
        request = self._core.compile_model(model, "CPU", config).create_infer_request()

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
            return list(request.infer(dict(inputs)).values())

        return run


class Native:
    """Kernels of our own (fewstep.engine.backends.native), where there is a compiler for C. They read no graph."""

    name, several, wraps = NATIVE, True, True

    def __init__(self, precision: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
        from fewstep.engine.backends.native import library

        check_float32(self.name, precision)
        self._library, self._configs = library.load(), configs

    def __call__(self, graph: Graph, threads: int, keep: bool) -> Session:
        """See Runtime."""
        from fewstep.engine.backends.native import autoencoders
        from fewstep.engine.backends.native.network import around
        from fewstep.engine.backends.native.plan import Computed
        from fewstep.engine.backends.native.texts import Texts
        from fewstep.engine.backends.native.unet import Unet

        if graph.name == "text":
            return Texts(self._library, graph.weights, [self._configs[one] for one in TEXT], threads)
        if graph.name in (UNET, NEGATABLE):
            unet = Unet(self._library, graph.weights, self._configs[UNET], threads, graph.name == NEGATABLE, graph.wrapped)
            return lambda inputs: [unet(inputs)]
        given, layers = autoencoders.network(graph.weights, self._configs["vae"])
        network = Computed(self._library, around(layers, *graph.wrapped) if graph.wrapped else layers, threads)
        return lambda inputs: [network(inputs[given])]
