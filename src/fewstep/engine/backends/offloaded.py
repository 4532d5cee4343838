"""A card with less memory than the model: networks lie in the machine's memory and are on the card while they work.

Written against the libraries that do the same for diffusers' pipelines (accelerate's hooks, diffusers' group offloading); on a processor
tests hold it to eager torch. It has not been run on a card.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from diffusers.hooks import apply_group_offloading

from fewstep.engine.backends import BackendError
from fewstep.engine.backends.compiled import half
from fewstep.engine.backends.eager import Eager, check_device
from fewstep.engine.model import Model

HOME = "cpu"  # where networks lie that do not work


def open(  # noqa: A001 - every backend has one
    model: Model, device: str = "cpu", threads: int | None = None, strict: bool = False, precision: str = "auto", way: str = "model"
) -> Offloaded:
    """The backend for ``model`` on the card ``device``. Raises BackendError on a processor, whose memory the networks lie in anyway."""
    check_device(device)
    if device.split(":")[0] == HOME:
        raise BackendError("the offloaded backend is for a card that is smaller than the model, and here a processor computes: use --backend eager")
    return Offloaded(model, device, threads, way, precision)


class Offloaded(Eager):
    """Eager's backend in half precision, whose networks visit the card: "model", one after the other, or "sequential", layer by layer."""

    name = "offloaded"
    home = HOME
    apart = True

    def __init__(self, model: Model, device: str, threads: int | None, way: str, precision: str = "auto") -> None:
        self.way = way
        self._guests = Guests(device)
        super().__init__(model, device, threads, half(device), precision)
        for part in self._texts:
            self._quick(self.bundle.models[part])

    def _plain(self, network: Any) -> Any:
        if self.way == "model":
            return add_hook_to_module(network, Visit(self._guests))
        apply_group_offloading(network, torch.device(self.device), torch.device(HOME), "leaf_level")
        return network

    def crowded(self, width: int, height: int) -> bool:
        """As everywhere, once the card is empty: who is there leaves before the decoder comes."""
        self._guests.leave()
        return super().crowded(width, height)


class Guests:
    """A card that one network at a time is on."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._here: Any = None

    def receive(self, network: Any) -> None:
        """Have ``network`` on the card, and no other."""
        if network is not self._here:
            self.leave()
            self._here = network.to(self.device)

    def leave(self) -> None:
        """Have no network on the card."""
        if self._here is not None:
            self._here.to(HOME)
            self._here = None


class Visit(ModelHook):  # type: ignore[misc]
    """Takes a network and what it is given to the card before it works."""

    no_grad = False

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Called by accelerate, and by diffusers before an autoencoder encodes or decodes."""
        self._guests.receive(module)
        return send_to_device(args, self._guests.device), send_to_device(kwargs, self._guests.device)
