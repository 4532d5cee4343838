"""Graphs whose convolutions wrap around: an ONNX file is changed when it is opened, so that none lies on the disk for every way to tile.

ONNX Runtime brings protobuf and no library for ONNX. Of the format the few fields that are changed are declared here, with the numbers of
onnx.proto3; what is not declared passes through as it is.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {  # {message: {field: (its number, its type)}}; a star is any number of them
    "Model": {"graph": (7, "Graph")},
    "Graph": {"node": (1, "*Node"), "initializer": (5, "*Tensor")},
    "Node": {"input": (1, "*string"), "output": (2, "*string"), "op_type": (4, "string"), "attribute": (5, "*Attribute")},
    "Attribute": {"name": (1, "string"), "s": (4, "bytes"), "ints": (8, "*int64"), "type": (20, "int32")},
    "Tensor": {"dims": (1, "*int64"), "data_type": (2, "int32"), "name": (8, "string"), "raw_data": (9, "bytes")},
}
INT64, STRING = 7, 3  # a tensor's type, and an attribute's


@cache
def _schema() -> dict[str, Any]:
    """{message: its class}, in a pool of its own: where the package onnx is loaded too, the names are not taken twice."""
    file = descriptor_pb2.FileDescriptorProto(name="fewstep-wrapped.proto", package="fewstep.wrapped")
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            bare = kind.lstrip("*")
            field = declared.field.add(name=name, number=number, label=3 if bare != kind else 1)
            if bare in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".fewstep.wrapped.{bare}"
            else:
                field.type = getattr(field, f"TYPE_{bare.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fewstep.wrapped.{name}")) for name in MESSAGES}


def wrap(content: bytes, tile: str, levels: int | None = None) -> bytes:
    """The ONNX file ``content`` with pictures [B, C, H, W] wrapped around along "x", "y" or "xy" before each convolution that pads them.

    ``levels``: on so many of a UNet's levels, the finest first, where a convolution of stride 2 leads to the next coarser one and a
    resizing to the next finer one; None is everywhere.
    """
    schema = _schema()
    model = schema["Model"].FromString(content)
    graph, made, pads = model.graph, dict[tuple[str, tuple[int, ...]], str](), set[tuple[int, ...]]()
    nodes, depth = [], dict[str, int]()
    for node in graph.node:
        level = next((depth[name] for name in node.input if name in depth), 0)
        own = next((one.ints for one in node.attribute if node.op_type == "Conv" and one.name == "pads"), None)
        taken = (
            (0, 0, 0, 0)
            if own is None or (levels is not None and level >= levels)
            else tuple(side * (axis in tile) for side, axis in zip(own, "yxyx", strict=True))
        )
        if own is not None and any(taken):
            own[:] = [side - gone for side, gone in zip(own, taken, strict=True)]
            source = node.input[0]
            if (source, taken) not in made:
                made[source, taken] = f"{source}:wrapped{len(made)}"
                pads.add(taken)
                mode = schema["Attribute"](name="mode", s=b"wrap", type=STRING)
                nodes.append(schema["Node"](input=[source, _name(taken)], output=[made[source, taken]], op_type="Pad", attribute=[mode]))
            node.input[0] = made[source, taken]
        nodes.append(node)
        depth |= dict.fromkeys(node.output, level + _step(node))
    nodes = [schema["Node"].FromString(node.SerializeToString()) for node in nodes]  # or emptying the list would empty them
    del graph.node[:]
    graph.node.extend(nodes)
    for top, left, bottom, right in sorted(pads):
        around = np.array([0, 0, top, left, 0, 0, bottom, right], "<i8")
        graph.initializer.append(schema["Tensor"](dims=[8], data_type=INT64, name=_name((top, left, bottom, right)), raw_data=around.tobytes()))
    return bytes(model.SerializeToString())


def _step(node: Any) -> int:
    """How many levels a node leads to a coarser one."""
    strides = next((tuple(one.ints) for one in node.attribute if one.name == "strides"), ())
    return 1 if node.op_type == "Conv" and strides == (2, 2) else -1 if node.op_type == "Resize" else 0


def _name(taken: tuple[int, ...]) -> str:
    return f"wrap:{','.join(map(str, taken))}"
