"""Networks that lie in shares on all ranks (torch's FSDP2): each rank holds its part of the weights that learn, of their gradients and of their
moments, and a block is whole on a rank only while it computes. Tensors of such a network are DTensors; these functions take plain ones as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fewstep.distill import dist


def spread(network: Any, precision: torch.dtype) -> None:
    """Leave on each rank its share of ``network``, which is whole and the same on all of them. What computes is of dtype ``precision``.

    Once is enough: a network that is spread already stays as it is. Where there is one rank, all do.
    """
    if dist.world() == 1 or in_shares(network):
        return
    network.to(memory_format=torch.contiguous_format)  # no other can be shared out
    mesh = init_device_mesh(dist.device().type, (dist.world(),))
    # what comes in stays as it is: sizes and crops of pictures are numbers that bfloat16 would round, and autocast casts what is multiplied
    policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in units(network):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # after a look or a critic's turn no backward pass would bring the rest into shares again
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # now, while all that learns does: a group keeps for good what it finds at its first forward pass, where another's turn may have it frozen
    network._get_fsdp_state()._lazy_init()


def units(network: nn.Module) -> Iterator[nn.Module]:
    """What becomes whole at once: the blocks' resnets and transformers, the rest with the network itself."""
    for unet in network.modules():
        if isinstance(unet, UNet2DConditionModel):
            for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
                yield from (*block.resnets, *getattr(block, "attentions", ()))


def in_shares(network: Any) -> bool:
    """Whether ``network`` computes only where all ranks take part."""
    return isinstance(network, FSDPModule)


def gathered(network: Any, fresh: Callable[[], Any]) -> Any:
    """``network`` where it is whole; else ``fresh()``, one like it, with its values. Every rank asks."""
    if not any(isinstance(value, DTensor) for value in network.parameters()):
        return network
    made = fresh()
    made.load_state_dict({key: whole(value) for key, value in network.state_dict().items()})
    return made


def local(tensor: Tensor) -> Tensor:
    """What of ``tensor`` lies on this rank."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``, on every rank; every rank asks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of every tensor, contiguous; of those that lie in shares rank 0 gets them in ordinary memory, and the others nothing. Every rank asks."""
    found = {}
    for key, value in tensors.items():
        content = whole(value.detach())
        if not isinstance(value, DTensor):
            found[key] = content.contiguous()
        elif dist.rank() == 0:
            found[key] = content.cpu().contiguous()
    return found


@torch.no_grad()
def fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give ``network`` the values of ``tensors``, which every rank has whole, or laid out as its own."""
    if not any(isinstance(value, DTensor) for value in network.state_dict().values()):
        network.load_state_dict(dict(tensors))
        return
    for key, own in network.state_dict().items():
        own.copy_(share(tensors[key], own))


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """``tensor``, which every rank has whole or laid out as ``like``, laid out as ``like``."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def save_shares(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write a checkpoint of tensors of which some lie in shares: each rank writes its own, as safetensors. Every rank takes part."""
    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(path=str(folder), save_distributed=True))


def read_shares(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`save_shares` wrote, on however many ranks: those named as one of ``like`` laid out as that one, the others whole."""
    reader = HuggingFaceStorageReader(path=str(folder))
    entries: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Any] = {}
    for key, entry in entries.items():
        if isinstance(entry, TensorStorageMetadata):
            tensors[key] = torch.zeros_like(like[key]) if key in like else torch.zeros(entry.size, dtype=entry.properties.dtype)
    load(tensors, storage_reader=reader, no_dist=dist.world() == 1)
    return tensors
