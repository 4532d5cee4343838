"""PyTorch as it comes, network by network: the reference that every other backend is compared to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.engine.backends import BackendError
from fewstep.engine.backends.decoder import Decoder
from fewstep.engine.backends.names import EIGHT_BITS
from fewstep.engine.backends.quantized import eight_bits, quantize
from fewstep.engine.decode import check_scaling, decode
from fewstep.engine.decode import encode as encode_pixels
from fewstep.engine.device import cores, free
from fewstep.engine.memory import decoding
from fewstep.engine.model import Model
from fewstep.engine.request import MOST_BATCH, TILED
from fewstep.engine.steering import Steering
from fewstep.models.adapters import TEXT, UNET
from fewstep.models.attention import take_negatives
from fewstep.models.bundle import load_bundle
from fewstep.models.chunks import Words, count
from fewstep.models.controlnet import Nets, Reader, residuals
from fewstep.models.guidance import denoiser
from fewstep.models.lora import Worn, shapes_of
from fewstep.models.prompt import Prompt, Spoken, cat, encode_words
from fewstep.models.single_file import read_single_file
from fewstep.models.stack import Stack, changes_of, key_of
from fewstep.models.students import Unets
from fewstep.models.tiny_decoder import load_tiny
from fewstep.models.wrap import wrapping


def open(  # noqa: A001 - every backend has one
    model: Model, device: str = "cpu", threads: int | None = None, strict: bool = False, precision: str = "auto"
) -> Eager:
    """The backend for ``model`` on ``device``. Raises WeightsError on a model that cannot be used, BackendError on a device that is not there or
    does not compute in ``precision``.
    """
    check_device(device)
    return Eager(model, device, threads, torch.float32, precision)


def check_device(device: str) -> None:
    """Raises BackendError unless torch can compute on ``device``."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # what follows is a list of all that torch may be built with
        raise BackendError(f"torch cannot compute on a device {device!r:.40} here ({reason}): use --device cpu") from None


class Eager:
    """A backend (see fewstep.engine.backends.Backend) whose arrays are torch's. Students are loaded when they are first asked for."""

    name = "eager"
    no_control = no_images = ""
    apart = False  # whether a UNet that was made quick is good for nothing else

    home: str | None = None  # where the networks lie; None: where it computes

    def __init__(self, model: Model, device: str, threads: int | None, dtype: torch.dtype = torch.float32, precision: str = "auto") -> None:
        """``dtype`` is what numbers are where ``precision`` does not say."""
        self.model, self.device, self.precision = model, device, precision
        self._dtype = dtype = dtype if precision in ("auto", *EIGHT_BITS) else getattr(torch, precision)
        self._eight_bits = eight_bits(precision, device) if precision in EIGHT_BITS else None
        self.apart = self.apart or self._eight_bits is not None
        self.threads = threads or cores()
        where = self.home or device
        self.bundle = read_single_file(model.file, model.folder, where, dtype) if model.file else load_bundle(model.folder, where, dtype)
        check_scaling(self.bundle.vae.config, model.channels, model.folder / "vae" / "config.json")
        self._unets = Unets(self.bundle, len(set(model.students.values())) + model.limits.teacher, self._quick_unet, self.apart, worn=self._worn)
        vae = self._quick(self.bundle.vae)
        self._decoders: dict[str, Any] = {"full": Decoder(vae, False, self._plain, self.home), TILED: Decoder(vae, True, self._plain, self.home)}
        self._levels = len(self.bundle.unet.config.block_out_channels)
        self._stack: Stack = ()
        self._nets = Nets(where, dtype, self._plain)
        self._texts = {part: Worn(self.bundle.models[part]) for part in TEXT}
        self._shapes = {part: shapes_of(network) for part, network in self.bundle.models.items() if part in (UNET, *TEXT)}

    def adapt(self, stack: Stack) -> bool:
        """Wear these LoRAs from the next call on: in place, so that nothing is loaded or compiled again."""
        changed, self._stack = stack != self._stack, stack
        return changed

    def prepare(self, steps: int, decoder: str, attends: bool = False, tile: str | None = None) -> None:
        """Load the student for these steps, which takes a negative prompt and wraps around anyway, and, if it is asked for, the reduced decoder."""
        _ = self._unet(steps, self._stack), self._decoder(decoder)

    def count(self, words: Words) -> int:
        """The chunks of tokens that ``words`` take, of the tokenizer that makes more of them."""
        return max(count(words, Spoken(tokenizer)) for tokenizer in (self.bundle.tokenizer, self.bundle.tokenizer_2))

    @torch.inference_mode()
    def encode(self, words: tuple[Words, Words], chunks: int = 1) -> Prompt:
        """One prompt, encoded; without words it is zeros."""
        self._ours()
        for part, worn in self._texts.items():
            worn.wear(key_of(self._stack, part), partial(changes_of, self._stack, part, self._shapes))
        return encode_words(self.bundle, words, chunks)

    @torch.inference_mode()
    def encode_image(self, pixels: np.ndarray, tile: str | None = None) -> np.ndarray:
        """One picture as unit-variance latents."""
        self._ours()
        with wrapping(tile):
            return encode_pixels(self.bundle.vae, pixels, self.device)

    def array(self, values: np.ndarray) -> Tensor:
        """``values`` on the device. A card copies them from memory that is pinned, while the processor goes on."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.startswith("cuda") else tensor.to(self.device)

    def denoiser(self, steps: int, prompts: Sequence[Prompt], steering: Steering) -> Callable[[Tensor, int], Tensor]:
        """``denoise(x, t)``; see fewstep.models.guidance.denoiser for what guidance does."""
        self._ours()
        null, away = (None if them is None else cat(*them) for them in (steering.null, steering.away))
        ids = self.array(steering.ids)
        stack, added = self._stack, residuals(self._guides(steering))
        denoise = denoiser(self._unet(steps, stack), cat(*prompts), ids, steering.guidance_scale, null, away, steering.nag_scale or 1.0, added)

        @torch.inference_mode()
        def worn(x: Tensor, t: int) -> Tensor:
            self._unet(steps, stack)  # between two evaluations the network may have served pictures of other steps or LoRAs
            levels = steering.wrapped(x, t, self._levels)
            with wrapping(steering.tile if levels else None, min(x.shape[2:]) >> max(levels - 1, 0)):
                return denoise(x.to(self._dtype), t).float()

        return worn

    def _guides(self, steering: Steering) -> list[Reader]:
        """The ControlNets that read the hints of a batch."""
        nets = self._nets.get([(guide.net.hash, guide.net.path, guide.net.config) for guide in steering.guides])
        pairs = zip(nets, steering.guides, strict=True)
        return [Reader(net, self.array(guide.hints).to(self._dtype), guide.weights) for net, guide in pairs]

    @torch.inference_mode()
    def decode(self, latents: Tensor, decoder: str, tile: str | None = None) -> np.ndarray:
        """Pictures of unit-variance ``latents``."""
        self._ours()
        network = self._decoder(decoder)
        with wrapping(tile):
            return decode(self.bundle.vae, latents, network, self._at_once(latents.shape[2:]) if decoder == "full" else 1 if decoder == TILED else MOST_BATCH)

    def crowded(self, width: int, height: int) -> bool:
        """Whether the decoder's tensors for a whole picture would take more than is free, and it has more than one part."""
        there = free(self.device)
        return there is not None and self._decoding(width, height) > there and max(width, height) > self._decoders[TILED].side

    def _at_once(self, sides: Sequence[int]) -> int:
        """How many pictures of latents of this height and width the memory that is free has room to decode at once."""
        if self.device == "cpu":
            return 1
        height, width = (side * self.bundle.factor for side in sides)
        return min(MOST_BATCH, max(1, (free(self.device) or 0) // self._decoding(width, height)))

    def _decoding(self, width: int, height: int) -> int:
        return decoding(self.bundle.vae.config, width, height, self._dtype.itemsize)

    def wait(self) -> None:
        """Return when the device has done all that it was given."""
        if self.device.startswith("cuda"):
            torch.cuda.current_stream(torch.device(self.device)).synchronize()  # another engine's work on the card is not waited for
        elif self.device.startswith("mps"):
            torch.mps.synchronize()

    def _ours(self) -> None:
        """Threads are torch's, one number for the process: another engine may have changed it."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)

    def _unet(self, steps: int, stack: Stack = ()) -> Any:
        """The UNet for ``steps`` steps; a teacher's is the same for every number of steps. A large model has one, until the next is asked for."""
        path = self.model.weights(steps)
        return self._unets.get(None if path == self.model.unet else path, partial(self.model.stamp, steps), stack)

    def _quick_unet(self, network: Any) -> Any:
        network = take_negatives(self._quick(network))
        self._worn(network)
        return network

    def _worn(self, unet: Any) -> None:
        """``unet`` has other weights now."""
        if self._eight_bits is not None:
            quantize(unet, self._eight_bits)

    def _decoder(self, decoder: str) -> Any:
        if decoder not in self._decoders:
            self._decoders[decoder] = self._quick(load_tiny(self.model.folder, self.home or self.device, self._dtype))
        return self._decoders[decoder]

    def _quick(self, network: Any) -> Any:
        return self._plain(network)

    def _plain(self, network: Any) -> Any:
        """Ready to compute, and not compiled. On a CPU convolutions run faster with channels last, with the same results."""
        return network.to(memory_format=torch.channels_last) if self.device == "cpu" else network
