"""Students beside a bundle: whole UNets or LoRAs, found by the step count in their stamps, and the UNets in memory that wear them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from fewstep.models.adapters import TEXT, UNET, Change, Shapes, read_changes
from fewstep.models.bundle import Bundle, read_stamp
from fewstep.models.keys import in_diffusers_names
from fewstep.models.lora import shapes_of
from fewstep.models.single_file import read_unet
from fewstep.models.stack import Stack, changes_of, key_of, total
from fewstep.models.weights import WeightsError, check_fit, find_weights, read_weights
from fewstep.stamp import Stamp, StepMismatch

ROOM = 2 << 30  # bytes of UNets that are kept side by side; where they need more there is one, whose weights are exchanged


def read_student(bundle: Bundle, path: Path, stamp: Stamp | None = None) -> tuple[UNet2DConditionModel, Stamp]:
    """(UNet, stamp) of a file: a whole UNet, or a LoRA merged into a copy of the bundle's. ``stamp`` is for files that have none.

    Raises WeightsError on a file that cannot be read, carries no stamp where none is given, does not fit, or is a LoRA for other weights.
    """
    stamp = stamp or read_stamp(path)
    if stamp is None:
        raise WeightsError(f"{path} does not say how many steps it was trained for: give a file that fewstep wrote")
    unet = copy.deepcopy(bundle.unet).requires_grad_(False)
    Wardrobe(unet, bundle).wear(path, lambda: stamp)
    return unet.eval(), stamp


def student(bundle: Bundle, steps: int) -> tuple[UNet2DConditionModel, Stamp]:
    """The student of a bundle's folder for ``steps`` steps. Raises StepMismatch if there is none, WeightsError if it cannot be used."""
    return read_student(bundle, student_file(bundle.folder, steps)[0])


def student_file(folder: Path | None, steps: int) -> tuple[Path, Stamp]:
    """(path, stamp) of the student for ``steps`` steps in a model's ``folder``. Raises StepMismatch if there is none, WeightsError on a broken file."""
    paths = sorted((folder / "students").glob("*.safetensors")) if folder else []
    stamps = {stamp.steps: (path, stamp) for path in reversed(paths) if (stamp := read_stamp(path)) is not None}  # of two, the first by name
    if steps not in stamps:
        there = ", ".join(map(str, sorted(stamps))) or "none"
        raise StepMismatch(f"{folder} has no student for {steps} steps; it has {there}")
    return stamps[steps]


class Wardrobe:
    """A UNet that wears students, and stacks of LoRAs over them, in its own weights, in place: the tensors stay where they are, and with them
    whatever was compiled over them.

    What one student changed is read from the base's file again for the next, never subtracted, so that nothing is left of it and no second
    copy is kept.
    """

    def __init__(self, unet: Any, bundle: Bundle) -> None:
        self.unet = unet
        self._bundle = bundle
        self._own: dict[str, Tensor] = dict(unet.named_parameters())  # before anything is fused
        self._worn: tuple[Path | None, Hashable] = (None, ())
        self._changed: set[str] = set()  # from the base's weights

    @torch.no_grad()
    def wear(self, path: Path | None, stamp: Callable[[], Stamp], stack: Stack = ()) -> bool:
        """Wear the student in ``path``, None being the base itself, with ``stack`` and no other. Returns whether that changes anything.

        Raises WeightsError, before any weight is changed, on a file that cannot be used. A student's sums are rounded to float16 as an
        exported file holds them, so that both make the same picture; a stack's are not.
        """
        wanted = path, key_of(stack, UNET)
        if wanted == self._worn:
            return False
        whole, changes = ({}, {}) if path is None else self._read(path, stamp())
        added = changes_of(stack, UNET, self._shapes)
        before, self._worn = self._changed, (None, None)
        self._changed = self._changed | whole.keys() | changes.keys() | added.keys()
        for name, value in whole.items():
            self._own[name].copy_(_sum(value, added.get(name), self._own[name].device))
        for name, value in self._base((before | changes.keys() | added.keys()) - whole.keys()):
            weight = self._own[name]
            own = _student(value.to(weight.device), changes[name].to(weight.device)) if name in changes else value
            weight.copy_(_sum(own, added.get(name), weight.device))
        self._worn, self._changed = wanted, set(whole or changes) | added.keys()
        return True

    def _read(self, path: Path, stamp: Stamp) -> tuple[Mapping[str, Tensor], Mapping[str, Change]]:
        """(a whole UNet's tensors, a LoRA's changes) by name: one of them is empty."""
        shapes = dict(self._shapes[UNET])
        if stamp.kind != "lora":
            tensors = in_diffusers_names(read_weights(path), shapes)
            check_fit(path, tensors, shapes)
            return tensors, {}
        if stamp.base and stamp.base != self._bundle.hash:
            raise WeightsError(f"{path} is a LoRA for the weights {stamp.base}, and these are {self._bundle.hash}: give the model it was made for")
        return {}, read_changes(path, {UNET: shapes}).get(UNET, {})

    @cached_property
    def _shapes(self) -> Shapes:
        """Of the whole model: a LoRA of the stack may change more than the UNet."""
        texts = {part: shapes_of(network) for part, network in self._bundle.models.items() if part in TEXT}
        return {UNET: {name: tuple(weight.shape) for name, weight in self._own.items()}, **texts}

    def _base(self, names: Collection[str]) -> Iterable[tuple[str, Tensor]]:
        """The base's own weights of these ``names``: from its file, or, for a bundle that was never saved, its UNet."""
        if self._bundle.file:
            return read_unet(self._bundle.file, self._bundle.unet, names) if names else ()
        if not self._bundle.folder:
            return [(name, weight) for name, weight in self._bundle.unet.named_parameters() if name in names]
        return read_weights(find_weights(self._bundle.folder / "unet"), only=names).items() if names else ()


def _student(value: Tensor, change: Change) -> Tensor:
    return (value.float() + change.full(1.0)).half()


def _sum(value: Tensor, added: Sequence[tuple[float, Change]] | None, device: Any) -> Tensor:
    """``value`` with what a stack adds to it, float32; without that it is as it was."""
    if not added:
        return value
    summed: Tensor = value.to(device).float() + total([(strength, change.to(device)) for strength, change in added])
    return summed


class Unets:
    """A model's UNets: side by side where they are small, so that a change of students costs nothing; else one that wears them in turn.

    SDXL's is 5 GB in half precision, and a card that holds two holds little besides.
    """

    def __init__(
        self,
        bundle: Bundle,
        count: int,
        quick: Callable[[Any], Any],
        apart: bool = False,
        room: int | None = None,
        worn: Callable[[Any], Any] = lambda unet: None,
    ) -> None:
        """``quick`` makes a network fast, in place; ``apart``: so that nothing else can be made of it. ``count`` is how many there may be.
        ``worn`` is told of one whose weights have changed since.
        """
        self._bundle, self._quick, self._apart, self._told = bundle, quick, apart, worn
        size = sum(weight.nbytes for weight in bundle.unet.parameters())
        self._made: dict[Path | None, Wardrobe] = {}
        self.single = (count + apart) * size > (ROOM if room is None else room)  # whether there is but one network, whose weights are exchanged

    def get(self, path: Path | None, stamp: Callable[[], Stamp], stack: Stack = ()) -> Any:
        """The UNet that wears the student in ``path``, None for the base's own, and ``stack``; ``stamp`` is asked for when it is put on.

        Raises WeightsError on a file that cannot be used.
        """
        key = None if self.single else path
        if key not in self._made:
            self._made[key] = self._make(key)
        wardrobe = self._made[key]
        if wardrobe.wear(path, stamp, stack):
            self._told(wardrobe.unet)
        return wardrobe.unet

    def _make(self, path: Path | None) -> Wardrobe:
        """One more network, with the base's weights; the base's own for the base."""
        shared = path is None and (self.single or not self._apart)
        if None in self._made and self._made[None].wear(None, lambda: self._bundle.stamp):
            self._told(self._made[None].unet)
        unet = self._bundle.unet if shared else copy.deepcopy(self._bundle.unet).requires_grad_(False).eval()
        wardrobe = Wardrobe(unet, self._bundle)
        self._quick(unet)
        return wardrobe


def share_projections(unet: Any) -> None:
    """Make the single projections of attentions that diffusers has fused views of the fused ones: no weight is held twice, or gets out of step."""
    for layer in unet.modules():
        if getattr(layer, "fused_projections", False):
            cross = hasattr(layer, "to_kv")
            fused, singles = (layer.to_kv, (layer.to_k, layer.to_v)) if cross else (layer.to_qkv, (layer.to_q, layer.to_k, layer.to_v))
            parts = fused.weight.detach().split([len(single.weight) for single in singles])
            for single, part in zip(singles, parts, strict=True):
                single.weight.data = part
