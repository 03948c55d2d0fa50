"""Messages between a process and its decode child: two sizes, a JSON header, raw bytes. No pickle."""

import json
import os
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.video.raster import RasterView

_SIZES = struct.Struct("<QQ")

Message = tuple[dict[str, Any], bytearray]


def encode(header: dict[str, Any], payload: Sequence[memoryview] = ()) -> list[memoryview]:
    """The parts of a message, to be written one after the other."""
    text = json.dumps(header).encode()
    sizes = _SIZES.pack(len(text), sum(part.nbytes for part in payload))
    return [memoryview(sizes + text), *payload]


def receive(read: Callable[[int], bytearray]) -> Message:
    """One message; `read(n)` gives exactly n bytes."""
    header_size, payload_size = _SIZES.unpack(read(_SIZES.size))
    return json.loads(read(header_size)), read(payload_size)


def read_exactly(pipe: int, size: int) -> bytearray:
    """`size` bytes from a blocking pipe; EOFError where it ends before."""
    data = bytearray(size)
    done = 0
    while done < size:
        count = os.readv(pipe, [memoryview(data)[done:]])
        if not count:
            raise EOFError
        done += count
    return data


def write_all(pipe: int, parts: Sequence[memoryview]) -> None:
    """All parts to a blocking pipe."""
    for part in parts:
        flat = part.cast("B")
        while flat:
            flat = flat[os.write(pipe, flat) :]


def views_to_message(views: Sequence[RasterView]) -> tuple[list[dict[str, Any]], list[memoryview]]:
    """Headers and raw rasters; floats survive JSON exactly."""
    headers = [
        {
            "clip_id": view.clip_id,
            "view_id": view.view_id,
            "shape": view.frames.shape,
            "times": view.times.tolist(),
            "indices": view.indices.tolist(),
            "crop": view.crop.tolist(),
            "flip": view.flip,
            "reader": view.reader,
        }
        for view in views
    ]
    return headers, [np.ascontiguousarray(view.frames).data for view in views]


def views_from_message(headers: Sequence[dict[str, Any]], payload: bytearray) -> list[RasterView]:
    """The inverse of views_to_message; the rasters share the payload's memory."""
    views, offset = [], 0
    for header in headers:
        count = int(np.prod(header["shape"]))
        frames = np.frombuffer(payload, np.uint8, count, offset).reshape(header["shape"])
        offset += count
        times, indices = np.array(header["times"], np.float64), np.array(header["indices"], np.int64)
        crop = np.array(header["crop"], np.float32)
        named = {name: header[name] for name in ("clip_id", "view_id", "flip", "reader")}
        views.append(RasterView(frames=frames, times=times, indices=indices, crop=crop, **named))
    return views
