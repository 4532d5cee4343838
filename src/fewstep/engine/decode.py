"""From latents to pictures and back: what every backend shares, in arithmetic that NumPy's and torch's arrays both know. Loads no torch by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.engine.request import MOST_BATCH
from fewstep.models.weights import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

SCALING_FACTOR = 0.18215  # of an autoencoder whose configuration does not say, as diffusers has it
NOT_FINITE = "the picture came out with values that are not finite: the weights are damaged or do not belong together"
ENCODED = 2  # pictures that an autoencoder encodes at once: the activations of more fall out of a processor's cache


def decode(vae: Any, latents: Tensor, decoder: Any = None, most: int = MOST_BATCH) -> np.ndarray:
    """Pictures of unit-variance ``latents`` [B, C, H/f, W/f]: uint8 [B, H, W, 3]. ``decoder`` stands in for that of the autoencoder ``vae``.

    At most ``most`` at once; on a CPU one by one, which keeps the activations in its cache: a batch of eight takes a quarter longer for each.
    Raises WeightsError if the decoder answers with values that are not finite.
    """
    import torch

    few = 1 if latents.device.type == "cpu" else most
    parts = torch.split(unscaled(vae.config, latents).to(vae.dtype), few)
    pixels = [vae.decode(part, return_dict=False)[0] if decoder in (None, vae) else decoder(part) for part in parts]
    return received(torch.cat(pixels))


def received(pixels: Tensor) -> np.ndarray:
    """What :func:`to_bytes` makes of values [B, 3, H, W], wherever they lie.

    A card rounds them itself and sends a quarter of the bytes into pinned memory; its event is waited for, and nothing else on the card.
    """
    if not pixels.is_cuda:
        return to_bytes(pixels.float().cpu().numpy())
    import torch

    values = rounded(pixels)
    whole, sure = (torch.empty(one.shape, dtype=one.dtype, pin_memory=True) for one in values)
    for there, here in zip(values, (whole, sure), strict=True):
        here.copy_(there, non_blocking=True)
    done = torch.cuda.current_stream(pixels.device).record_event()
    done.synchronize()
    if not bool(sure):
        raise WeightsError(NOT_FINITE)
    return whole.numpy().copy()  # pinned memory is scarce, and given back here


def rounded(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """(values [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3], whether all are finite), in the arithmetic of :func:`to_bytes`."""
    import torch

    values = (pixels.float() * 0.5 + 0.5).clamp(0, 1)
    return (values * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), pixels.isfinite().all()


def encode(vae: Any, pixels: np.ndarray, device: str | None = None) -> np.ndarray:
    """Unit-variance latents, float32 [1, C, H/f, W/f], of a picture, uint8 [H, W, 3]: the mean that the autoencoder ``vae`` gives, no draw.

    ``device`` is where it computes, where that is not where it lies.
    """
    import torch

    x = torch.from_numpy(to_values(pixels)).to(device or vae.device, vae.dtype)
    return scaled(vae.config, vae.encode(x).latent_dist.mean.float().cpu().numpy()).astype(np.float32)


def check_scaling(config: Mapping[str, Any], channels: int, where: Any) -> None:
    """Raises WeightsError unless ``unscaled`` can use an autoencoder's ``config``, which was read from ``where``, for latents of ``channels``."""
    numbers = {name: config.get(name) for name in ("scaling_factor", "shift_factor")}
    rows = {name: config.get(name) for name in ("latents_mean", "latents_std")}
    wrong = [name for name, value in numbers.items() if value is not None and type(value) not in (int, float)]
    wrong += ["scaling_factor"] * (numbers["scaling_factor"] == 0)
    wrong += [name for name, row in rows.items() if row is not None and not _numbers(row, channels)]
    if wrong:
        raise WeightsError(f"{where}: {wrong[0]} is {config[wrong[0]]!r:.60}, which is of no autoencoder with {channels} channels: fetch it again")


def _numbers(row: Any, count: int) -> bool:
    return isinstance(row, list | tuple) and len(row) == count and all(type(value) in (int, float) for value in row)


def unscaled(config: Mapping[str, Any], latents: Any) -> Any:
    """Latents as the autoencoder knows them, from the unit-variance ones that are denoised: per channel where its configuration says so."""
    mean, std = _moments(config, latents)
    return latents * std / config["scaling_factor"] + mean


def scaled(config: Mapping[str, Any], latents: Any) -> Any:
    """The other way: unit-variance latents from the autoencoder's own."""
    mean, std = _moments(config, latents)
    return (latents - mean) * config["scaling_factor"] / std


def _moments(config: Mapping[str, Any], latents: Any) -> tuple[Any, Any]:
    """(mean, standard deviation) of an autoencoder's latents, but for its factor: [1, C, 1, 1] where its configuration has them, else numbers."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        return config.get("shift_factor") or 0.0, 1.0
    mean, std = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (mean, std))
    return (mean, std) if isinstance(latents, np.ndarray) else (latents.new_tensor(mean), latents.new_tensor(std))


def to_values(pixels: np.ndarray) -> np.ndarray:
    """A picture, uint8 [H, W, 3], as an autoencoder takes it: float32 [1, 3, H, W] in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Values [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3], rounded as diffusers' VaeImageProcessor does. Raises WeightsError if one is not finite."""
    if not (np.isfinite(pixels.min()) and np.isfinite(pixels.max())):
        raise WeightsError(NOT_FINITE)
    values = pixels * np.float32(0.5)
    values += np.float32(0.5)  # in place and, at the end, channel by channel: at a few milliseconds a picture the plain way is a tenth
    np.clip(values, 0, 1, out=values)
    values *= np.float32(255)
    np.rint(values, out=values)
    made = np.empty((len(values), *values.shape[2:], values.shape[1]), np.uint8)
    for channel in range(values.shape[1]):
        made[..., channel] = values[:, channel]
    return made
