"""ONNX files without the library for them: of the format the few fields that are read or changed are declared here, with the numbers of onnx.proto3.

ONNX Runtime brings protobuf and no package onnx. What is not declared passes through as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MESSAGES: dict[str, dict[str, tuple[int, str]]] = {  # {message: {field: (its number, its type)}}; a star is any number of them
    "Model": {"graph": (7, "Graph")},
    "Graph": {"node": (1, "*Node"), "initializer": (5, "*Tensor")},
    "Node": {"input": (1, "*string"), "output": (2, "*string"), "op_type": (4, "string"), "attribute": (5, "*Attribute")},
    "Attribute": {"name": (1, "string"), "s": (4, "bytes"), "ints": (8, "*int64"), "type": (20, "int32")},
    "Tensor": {
        "dims": (1, "*int64"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "external_data": (13, "*Entry"),
        "data_location": (14, "int32"),
    },
    "Entry": {"key": (1, "string"), "value": (2, "string")},
}
FLOAT, INT64, STRING = 1, 7, 3  # types of tensors, and of an attribute


@cache
def schema() -> dict[str, Any]:
    """{message: its class}, in a pool of its own: where the package onnx is loaded too, the names are not taken twice."""
    file = descriptor_pb2.FileDescriptorProto(name="fewstep-onnx.proto", package="fewstep.onnx")
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            bare = kind.lstrip("*")
            field = declared.field.add(name=name, number=number, label=3 if bare != kind else 1)
            if bare in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".fewstep.onnx.{bare}"
            else:
                field.type = getattr(field, f"TYPE_{bare.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"fewstep.onnx.{name}")) for name in MESSAGES}


def filled(content: bytes, weights: Mapping[str, np.ndarray]) -> bytes:
    """The ONNX file ``content`` with ``weights``, float32, inside, which it has as lying elsewhere. Raises ValueError beyond protobuf's 2 GB."""
    model = schema()["Model"].FromString(content)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = weights[tensor.name].astype("<f4", copy=False).tobytes()
    return bytes(model.SerializeToString())
