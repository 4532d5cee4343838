"""Ranks: the only module that knows there may be more than one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from fewstep.distill.recipe import RecipeError

LONGEST = 2048  # bytes of what ranks tell each other


def start() -> None:
    """Join the process group that torchrun describes in the environment; without one this process is the only rank."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or distributed.is_initialized():
        return
    patience = timedelta(hours=12)  # rank 0 alone measures students and makes LoRAs of them, while the others wait for it
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
        distributed.init_process_group("nccl", timeout=patience, device_id=device())
    else:
        distributed.init_process_group("gloo", timeout=patience)


def rank() -> int:
    """This process's number, 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device() -> torch.device:
    """Where this rank computes: an accelerator of its own, else the processor."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else torch.device("cpu")


def share(indices: range) -> range:
    """The global sample indices that fall to this rank, by stride: together the ranks see exactly ``indices``."""
    return indices[rank() :: world()]


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over ranks, in one flat message. What lies in shares has been averaged on its way back."""
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if world() == 1 or not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world()
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean(value: Tensor) -> Tensor:
    """The mean of a tensor over ranks, on the processor."""
    if world() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
        value /= world()
    return value.cpu()


def agreed(flag: bool) -> bool:
    """Whether any rank's flag is set: the same answer on all of them."""
    if world() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device())
    distributed.all_reduce(votes)
    return bool(votes > 0)


def first(text: str) -> str:
    """The first rank's ``text`` that is not empty, on all of them; of a long one the beginning."""
    if world() == 1:
        return text
    said = text.encode()[:LONGEST]
    own = torch.zeros(LONGEST, dtype=torch.uint8, device=device())
    own[: len(said)] = torch.tensor(list(said), dtype=torch.uint8)
    every = [torch.zeros_like(own) for _ in range(world())]
    distributed.all_gather(every, own)
    texts = (bytes(one.tolist()).rstrip(b"\0").decode(errors="ignore") for one in every)
    return next(filter(None, texts), "")


def alike(number: int) -> bool:
    """Whether every rank has the same whole ``number``, of up to 63 bits."""
    if world() == 1:
        return True
    ends = torch.tensor([number, -number], dtype=torch.int64, device=device())
    distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
    return bool(ends[0] == -ends[1])


def check(recipe: str, batches: Mapping[str, int]) -> None:
    """Raises RecipeError unless all ranks have the same ``recipe``, by its hash, and share its ``batches``, by their keys, out evenly."""
    for key, size in batches.items():
        if size % world():
            raise RecipeError(f"{key} = {size}: {world()} ranks do not divide it")
    if not alike(int(recipe, 16)):
        raise RecipeError("the ranks have different recipes: start all of them with the same file and the same --set")


def wait() -> None:
    """Wait for every rank."""
    if world() > 1:
        distributed.barrier()
