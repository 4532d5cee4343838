"""Runtimes that compute ONNX graphs on a CPU, each behind the same call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.engine.backends import BackendError
from fewstep.engine.backends.names import NATIVE
from fewstep.engine.backends.onnx_file import filled
from fewstep.engine.measured import cache
from fewstep.models.adapters import TEXT

DECODERS = {"full": "decoder", "tiny": "decoder_tiny"}  # the graph of each
ENCODER = "encoder"
Session = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[np.float32]]]  # inputs by name to outputs in the graph's order


class Runtime(Protocol):
    """Makes sessions of graphs."""

    name: str
    several: bool  # whether several pictures are decoded sooner at once; else one by one, which keeps the activations in the processor's cache

    def takes(self, graph: str, wrapped: bool) -> bool:
        """Whether it computes the graph of this name; ``wrapped``: with convolutions whose padding wraps around."""

    def __call__(self, content: bytes, weights: Mapping[str, np.ndarray], threads: int, keep: bool) -> Session:
        """A session of the ONNX file ``content`` with ``weights``, float32 by name; ``keep``: what is compiled is kept on disk, if anything is.

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

    name, several = "onnxruntime", False

    def __init__(self, precision: str = "auto") -> None:
        check_float32(self.name, precision)

    def takes(self, graph: str, wrapped: bool) -> bool:
        """Every one."""
        return True

    def __call__(self, content: bytes, weights: Mapping[str, np.ndarray], threads: int, keep: bool) -> Session:
        """See Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves its core to others
        options.log_severity_level = 3
        options.add_external_initializers(list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()])
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
            return session.run(None, dict(inputs))

        return run


class OpenVino:
    """Intel's OpenVINO, an extra. What it compiled is found again by a second process, which reads it in a quarter of the time."""

    name, several = "openvino", False

    def __init__(self, precision: str = "auto") -> None:
        import openvino

        self._core = openvino.Core()
        self._numbers = {"auto": "f32", "float32": "f32", "bfloat16": "bf16"}.get(precision)
        if self._numbers is None or (self._numbers == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            raise BackendError(f"openvino does not compute in {precision} on this processor: leave --precision at auto")

    def takes(self, graph: str, wrapped: bool) -> bool:
        """Those whose padding is zeros."""
        return not wrapped

    def __call__(self, content: bytes, weights: Mapping[str, np.ndarray], threads: int, keep: bool) -> Session:
        """See Runtime."""
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self._numbers, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        if keep and (folder := cache("openvino")) is not None and os.access(folder, os.W_OK):
            config["CACHE_DIR"] = str(folder)
        model = self._core.read_model(filled(content, weights))
        request = self._core.compile_model(model, "CPU", config).create_infer_request()

        def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
            return list(request.infer(dict(inputs)).values())

        return run


class Native:
    """Kernels of our own (fewstep.engine.backends.native), where there is a compiler for C. They read no graph."""

    name, several = NATIVE, True

    def __init__(self, precision: str, configs: Mapping[str, Mapping[str, Any]]) -> None:
        from fewstep.engine.backends.native import library

        check_float32(self.name, precision)
        self._library, self._configs = library.load(), configs

    def takes(self, graph: str, wrapped: bool) -> bool:
        """Neither padding that wraps around, nor a UNet with negative prompts in its attentions."""
        return graph in ("text", "unet", ENCODER, *DECODERS.values()) and not wrapped

    def __call__(self, content: bytes, weights: Mapping[str, np.ndarray], threads: int, keep: bool) -> Session:
        """See Runtime."""
        from fewstep.engine.backends.native import autoencoders
        from fewstep.engine.backends.native.plan import Computed
        from fewstep.engine.backends.native.texts import Texts
        from fewstep.engine.backends.native.unet import Unet

        part = next(iter(weights)).split(".")[0]
        if part in TEXT:
            return Texts(self._library, weights, [self._configs[one] for one in TEXT], threads)
        if part == "unet":
            unet = Unet(self._library, weights, self._configs[part], threads)
            return lambda inputs: [unet(inputs)]
        given, layers = autoencoders.network(weights, self._configs["vae"])
        network = Computed(self._library, layers, threads)
        return lambda inputs: [network(inputs[given])]
