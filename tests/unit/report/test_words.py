import pytest

from pipeline.report import words


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.percent, 0.9287, "92.9 %"),
        (words.percent, None, "–"),
        (words.points, -0.0271, "−2.7"),
        (words.points, 0.042, "+4.2"),
        (words.count, 12_004, "12.0 k"),
        (words.count, 999_900, "1.00 M"),
        (words.count, 840, "840"),
        (words.count, 0, "0"),
        (words.count, None, "–"),
        (words.whole, 1234567, "1\u202f234\u202f567"),
        (words.milliseconds, 1.4159, "1.42"),
        (words.milliseconds, 123.4, "123"),
        (words.seconds, 8.44, "8.4 s"),
        (words.seconds, 59.96, "1 min 00 s"),
        (words.seconds, 3785, "1 h 03 min"),
        (words.cell, True, "yes"),
        (words.cell, 0.93041, "0.9304"),
        (words.cell, None, "–"),
    ],
)
def test_as_a_reader_likes_it(function, value, text):
    assert function(value) == text


def test_ratio_and_interval():
    assert words.ratio(412e6, 10.4e6) == "39.6×"
    assert words.ratio(5000, 10) == "500×"
    assert words.ratio(None, 3) == "–"
    assert words.interval(0.912, 0.94) == "91.2–94.0 %"


def test_short_keeps_both_ends():
    assert words.short("train/a_long_folder/video_0001.mp4", 15) == "train/a…001.mp4"
    assert len(words.short("x" * 50, 15)) == 15
    assert words.short("short", 15) == "short"
