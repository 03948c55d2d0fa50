import io

import av
import numpy as np
import pytest

from pipeline.manifest.encode import encode_mp4, versions
from tests.support.videos import numbered_frame

FRAMES = np.stack([numbered_frame(number, (48, 64)) for number in range(20)])


def decoded(data: bytes) -> tuple[list[av.VideoFrame], av.VideoStream]:
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        return list(container.decode(stream)), stream


def test_frames_come_back_in_order_at_their_times() -> None:
    frames, stream = decoded(encode_mp4(FRAMES, fps=12.5, crf=23, gop=8))
    assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 64, 48)
    assert [frame.time for frame in frames] == pytest.approx([number / 12.5 for number in range(20)])
    pixels = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).astype(float)
    assert np.abs(pixels - FRAMES).mean() < 6
    assert [frame.key_frame for frame in frames].count(True) == 3


def test_equal_frames_give_equal_bytes_and_quality_its_size() -> None:
    data = encode_mp4(FRAMES, fps=25, crf=23, gop=250)
    assert encode_mp4(FRAMES, fps=25, crf=23, gop=250) == data
    assert len(encode_mp4(FRAMES, fps=25, crf=45, gop=250)) < len(data)


def test_versions_name_what_the_bytes_depend_on() -> None:
    assert {"av", "numpy", "libavcodec"} <= set(versions())
