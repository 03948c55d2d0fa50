"""Frames to the bytes of an H.264 file in an mp4 container. Equal frames give equal bytes, with the same libraries."""

import io
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

# One thread each, and no macroblock tree: with it x264 gave other bytes for equal frames, now and then.
PRESET, SETTINGS = "superfast", "threads=1:mbtree=0:rc-lookahead=0"
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def encode_mp4(frames: np.ndarray, *, fps: float, crf: int, gop: int) -> bytes:
    """`frames` uint8 (T, H, W, 3) with even H and W; `gop` is the largest distance of key frames. Returns the file."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": str(crf), "preset": PRESET, "x264-params": f"keyint={gop}:{SETTINGS}"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", interpolation=_EXACT, threads=1)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def versions() -> dict[str, str]:
    """What the bytes of a file depend on beside its frames."""
    libraries = {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}
    return {"av": av.__version__, "numpy": np.__version__, **libraries}
