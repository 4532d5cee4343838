"""PyTorch as it comes, network by network: the reference that every other backend is compared to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.engine.backends import BackendError
from fewstep.engine.decode import check_scaling, decode
from fewstep.engine.decode import encode as encode_pixels
from fewstep.engine.device import cores
from fewstep.engine.model import UNET, Model
from fewstep.models.bundle import load_bundle
from fewstep.models.guidance import denoiser
from fewstep.models.prompt import Prompt, cat, encode, time_ids
from fewstep.models.students import read_student
from fewstep.models.tiny_decoder import load_tiny


def open(model: Model, device: str = "cpu", threads: int | None = None, strict: bool = False) -> Eager:  # noqa: A001 - every backend has one
    """The backend for ``model`` on ``device``. Raises WeightsError on a model that cannot be used, BackendError on a device that is not there."""
    check_device(device)
    return Eager(model, device, threads)


def check_device(device: str) -> None:
    """Raises BackendError unless torch can compute on ``device``."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(f"torch cannot compute on a device {device!r:.40} here ({reason}): use --device cpu") from None


class Eager:
    """A backend (see fewstep.engine.backends.Backend) whose arrays are torch's. Students are loaded when they are first asked for."""

    name = "eager"
    no_images = ""

    def __init__(self, model: Model, device: str, threads: int | None, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.device, self._dtype = model, device, dtype
        self.threads = threads or cores()
        self.bundle = load_bundle(model.folder, device, dtype)
        check_scaling(self.bundle.vae.config, model.channels, model.folder / "vae" / "config.json")
        self._unets: dict[Path, Any] = {}
        self._decoders: dict[str, Any] = {"full": self._quick(self.bundle.vae)}

    def prepare(self, steps: int, decoder: str) -> None:
        """Load the student for these steps and, if it is asked for, the reduced decoder."""
        _ = self._unet(steps), self._decoder(decoder)

    @torch.inference_mode()
    def encode(self, prompt: str) -> Prompt:
        """One prompt, encoded; an empty one is zeros."""
        self._ours()
        return encode(self.bundle, [prompt])

    @torch.inference_mode()
    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        """One picture as unit-variance latents."""
        self._ours()
        return encode_pixels(self.bundle.vae, pixels)

    def array(self, values: np.ndarray) -> Tensor:
        """``values`` on the device."""
        return torch.from_numpy(values).to(self.device)

    def denoiser(self, steps: int, prompts: Sequence[Prompt], width: int, height: int, guidance_scale: float) -> Callable[[Tensor, int], Tensor]:
        """``denoise(x, t)``; see fewstep.models.guidance.denoiser for what a guidance scale does."""
        self._ours()
        ids = time_ids(len(prompts), width, height, self.device)
        denoise = denoiser(self._unet(steps), cat(*prompts), ids, guidance_scale)
        return torch.inference_mode()(lambda x, t: denoise(x.to(self._dtype), t).float())

    @torch.inference_mode()
    def decode(self, latents: Tensor, decoder: str) -> np.ndarray:
        """Pictures of unit-variance ``latents``."""
        self._ours()
        network = self._decoder(decoder)
        return decode(network if decoder == "full" else self.bundle.vae, latents, None if decoder == "full" else network)

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device.startswith("mps"):
            torch.mps.synchronize()

    def _ours(self) -> None:
        """Threads are torch's, one number for the process: another engine may have changed it."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def _unet(self, steps: int) -> Any:
        """The UNet for ``steps`` steps; a teacher's is the same for every number of steps."""
        path = self.model.students.get(steps, self.model.folder / UNET)
        if path not in self._unets:
            own = path == self.model.folder / UNET
            self._unets[path] = self._quick(self.bundle.unet if own else read_student(self.bundle, path)[0])
        return self._unets[path]

    def _decoder(self, decoder: str) -> Any:
        if decoder not in self._decoders:
            self._decoders[decoder] = self._quick(load_tiny(self.model.folder, self.device, self._dtype))
        return self._decoders[decoder]

    def _quick(self, network: Any) -> Any:
        """On a CPU convolutions run faster with channels last, with the same results."""
        return network.to(memory_format=torch.channels_last) if self.device == "cpu" else network
