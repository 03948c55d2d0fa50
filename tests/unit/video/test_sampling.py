import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video.sampling import fold_overflow, frame_times, on_screen, span, window_start

THIRTY = np.arange(30) / 15


def test_a_window_that_fits_exactly_shows_every_frame():
    assert span(30, 1, 15.0) == 2.0
    start = window_start(0.7, 2.0, span(30, 1, 15.0))
    assert on_screen(frame_times(start, 30, 1, 15.0), THIRTY).tolist() == list(range(30))


def test_a_stride_skips_frames_and_needs_no_time_behind_the_last():
    assert span(8, 4, 15.0) == pytest.approx(29 / 15)
    start = window_start(1.0, 2.0, span(8, 4, 15.0))
    assert on_screen(frame_times(start, 8, 4, 15.0), THIRTY).tolist() == list(range(1, 30, 4))


@given(st.floats(0, 1), st.integers(1, 8), st.integers(1, 3))
def test_every_sample_of_a_window_that_fits_lies_in_the_video(position: float, num_frames: int, stride: int):
    window = span(num_frames, stride, 15.0)
    times = frame_times(window_start(position, 2.0, window), num_frames, stride, 15.0)
    assert times[0] >= 0
    assert times[-1] < 2.0
    assert (np.diff(on_screen(times, THIRTY)) == stride).all()


def test_overflow_holds_wraps_or_is_an_error():
    times = frame_times(0.0, 40, 1, 15.0)
    assert on_screen(fold_overflow(times, 2.0, "repeat_last"), THIRTY).tolist() == [*range(30), *[29] * 10]
    assert on_screen(fold_overflow(times, 2.0, "wrap"), THIRTY).tolist() == [*range(30), *range(10)]
    with pytest.raises(ValueError, match=r"0\.600 s behind the end"):
        fold_overflow(times, 2.0, "error")
    assert fold_overflow(times[:30], 2.0, "error") is not times
    np.testing.assert_array_equal(fold_overflow(times[:30], 2.0, "error"), times[:30])


def test_rounded_times_still_find_their_frame():
    milliseconds = np.round(THIRTY, 3)
    assert on_screen(THIRTY, milliseconds).tolist() == list(range(30))
    assert on_screen(THIRTY.astype(np.float32).astype(float), THIRTY).tolist() == list(range(30))


def test_a_long_frame_stays_on_screen_until_the_next():
    shown = np.array([0.0, 1.0, 1.1])
    assert on_screen(np.array([-1.0, 0.0, 0.5, 0.86, 0.88, 1.05, 9.0]), shown).tolist() == [0, 0, 0, 0, 1, 1, 2]


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=50))
def test_the_time_of_a_frame_always_gives_that_frame(gaps: list[float]):
    shown = np.concatenate([[0.0], np.cumsum(gaps)])
    assert on_screen(shown, shown).tolist() == list(range(len(shown)))
