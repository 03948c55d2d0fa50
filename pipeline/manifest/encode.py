"""Frames to the bytes of an H.264 file in an mp4 container. One encoder thread: equal input gives equal bytes."""

import io
from fractions import Fraction

import av
import numpy as np


def encode_mp4(frames: np.ndarray, *, fps: float, crf: int, gop: int, preset: str = "veryfast") -> bytes:
    """`frames` uint8 (T, H, W, 3) with even H and W; `gop` is the largest distance of key frames. Returns the file."""
    buffer = io.BytesIO()
    count, height, width, _ = frames.shape
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": preset, "threads": "1", "x264-params": f"keyint={gop}:threads=1"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(frames[index], format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """What the bytes of a file depend on beside its frames."""
    libraries = {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    return {"av": av.__version__, "numpy": np.__version__, **libraries}
