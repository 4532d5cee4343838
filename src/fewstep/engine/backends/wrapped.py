"""Graphs whose convolutions wrap around: an ONNX file is changed when it is opened, so that none lies on the disk for every way to tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.engine.backends.onnx_file import INT64, STRING, schema

Wrapped = tuple[str, int | None]  # along what, and on how many of a UNet's levels


def wrap(content: bytes, tile: str, levels: int | None = None) -> bytes:
    """The ONNX file ``content`` with pictures [B, C, H, W] wrapped around along "x", "y" or "xy" before each convolution that pads them.

    ``levels``: on so many of a UNet's levels, the finest first, where a convolution of stride 2 leads to the next coarser one and a
    resizing to the next finer one; None is everywhere.
    """
    message = schema()
    model = message["Model"].FromString(content)
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
                mode = message["Attribute"](name="mode", s=b"wrap", type=STRING)
                nodes.append(message["Node"](input=[source, _name(taken)], output=[made[source, taken]], op_type="Pad", attribute=[mode]))
            node.input[0] = made[source, taken]
        nodes.append(node)
        depth |= dict.fromkeys(node.output, level + _step(node))
    nodes = [message["Node"].FromString(node.SerializeToString()) for node in nodes]  # or emptying the list would empty them
    del graph.node[:]
    graph.node.extend(nodes)
    for top, left, bottom, right in sorted(pads):
        around = np.array([0, 0, top, left, 0, 0, bottom, right], "<i8")
        graph.initializer.append(message["Tensor"](dims=[8], data_type=INT64, name=_name((top, left, bottom, right)), raw_data=around.tobytes()))
    return bytes(model.SerializeToString())


def _step(node: Any) -> int:
    """How many levels a node leads to a coarser one."""
    strides = next((tuple(one.ints) for one in node.attribute if one.name == "strides"), ())
    return 1 if node.op_type == "Conv" and strides == (2, 2) else -1 if node.op_type == "Resize" else 0


def _name(taken: tuple[int, ...]) -> str:
    return f"wrap:{','.join(map(str, taken))}"
