import numpy as np
import pytest

from pipeline.artifacts.jpeg import decode, encode


def picture(size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Frames (3, H, W, 3) with soft edges, as those of a video."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(x / 6 + n) + np.cos(y / 5 - n) for n in range(3)]
    return np.stack([np.stack([120 + 50 * wave, 90 + 30 * wave, 200 - 25 * wave], -1) for wave in waves]).astype(
        np.uint8
    )


def test_frames_come_back_in_order_nearly_as_they_were() -> None:
    frames = picture()
    errors = {}
    for quality in (95, 75, 30):
        found = decode(encode(frames, quality))
        assert found.shape == frames.shape
        assert found.dtype == np.uint8
        errors[quality] = np.abs(found.astype(int) - frames).mean()
    assert errors[95] < 1.5 < 6 * errors[95]
    assert errors[95] < errors[75] < errors[30]


def test_equal_pixels_give_equal_bytes_and_say_nothing_else() -> None:
    frames = picture()
    images = encode(frames, 90)
    assert images == encode(frames.copy(), 90)
    assert images[:1] == encode(frames[:1], 90)
    assert len({*images}) == 3
    assert all(image[:2] == b"\xff\xd8" and b"Exif" not in image for image in images)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 8), (113, 67)])
def test_any_size_survives(size: tuple[int, int]) -> None:
    assert decode(encode(picture(size), 95)).shape == (3, *size, 3)


def test_a_grey_picture_stays_grey() -> None:
    """Half the resolution of colour must not bleed into where there is none."""
    grey = np.repeat(picture()[..., :1], 3, axis=-1)
    found = decode(encode(grey, 95)).astype(int)
    assert np.abs(found - found.mean(axis=-1, keepdims=True)).max() <= 1


def test_a_damaged_file_is_an_error() -> None:
    image = encode(picture(), 95)[0]
    with pytest.raises(OSError, match="truncated"):
        decode([image[: len(image) // 2]])
    with pytest.raises(OSError, match="cannot identify"):
        decode([b"no picture"])
