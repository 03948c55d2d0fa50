import base64
import io

import numpy as np
import pytest
from matplotlib.image import imread

from pipeline.report import figures, panels
from pipeline.report.facts import Confusion, Majority, NetworkRow, PhaseSpan, ReportFacts, StepTime
from pipeline.report.film import film_strip, strip


def _rows() -> list[NetworkRow]:
    return [
        NetworkRow("teacher $x$ <&>", "teacher", top1=0.95, low=0.94, high=0.96, flops=400_000_000),
        NetworkRow("student", "student", top1=0.92, flops=10_000_000),
        NetworkRow("alone", "control", top1=0.91, flops=10_000_000),
        NetworkRow("never evaluated", "control", flops=10_000_000),
    ]


def _svg(uri: str) -> str:
    head, payload = uri.split(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(payload).decode()


def test_every_figure_is_an_svg_and_the_same_each_time():
    def draw() -> list[str | None]:
        lines = {"ce": (range(200), np.linspace(3, 1, 200)), "kd": ([0, 10], [1.0, 0.5])}
        phases = [PhaseSpan("1", 0, 10), PhaseSpan("2", 10, 200)]
        return [
            figures.accuracy_against_cost(_rows()),
            figures.accuracy_by_method(ReportFacts(networks=_rows(), majority=Majority("a", 0.1))),
            panels.curve_panel(lines, phases, title="Loss"),
            panels.confusion_matrix(Confusion("student", ["a", "b"], np.array([[3, 1], [0, 4]]))),
            panels.confusion_matrix(Confusion("many", [str(i) for i in range(40)], np.eye(40, dtype=int))),
            panels.flips_per_class({"a": (3, 1), "b": (0, 0)}),
            panels.timing_bars([StepTime("teacher", 3.0, 4.0), StepTime("old", skipped=True)]),
        ]

    first = draw()
    assert all("<svg" in _svg(uri) for uri in first if uri)
    assert None not in first
    assert draw() == first


def test_nothing_to_draw_is_none():
    assert figures.accuracy_against_cost([NetworkRow("a", "student", top1=0.5)]) is None
    assert panels.flips_per_class({"a": (0, 0)}) is None
    assert panels.timing_bars([StepTime("old", skipped=True)]) is None


def test_main_figure_is_a_png_of_readable_size(tmp_path):
    path = tmp_path / "main.png"
    assert figures.main_figure(path, ReportFacts(networks=_rows()))
    image = imread(path)
    assert image.shape[0] > 400
    assert image.shape[1] > 1000
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 20
    assert not figures.main_figure(tmp_path / "none.png", ReportFacts())
    assert not (tmp_path / "none.png").exists()


def test_labels_are_spread_around_where_they_want_to_be():
    assert figures.spread([0.0, 10.0, 5.0], 1.0) == [0.0, 10.0, 5.0]
    assert figures.spread([5.0, 5.0, 5.0], 2.0) == pytest.approx([3.0, 5.0, 7.0])
    found = figures.spread([0.0, 0.1, 1.5], 1.0)
    assert np.diff(found).min() >= 1.0 - 1e-9
    assert np.mean(found) == pytest.approx(np.mean([0.0, 0.1, 1.5]))


def test_round_values():
    assert figures.round_values(6.9, 8.1) == [1e7, 2e7, 5e7, 1e8]
    assert figures.round_values(5.5, 9.5) == [1e6, 1e7, 1e8, 1e9]


def test_running_mean_is_shorter_at_the_ends():
    assert panels.running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 1).tolist() == [1.5, 3.0, 3.0, 3.0]


def test_film_strip_shows_first_and_last_frame():
    frames = np.zeros((9, 32, 40, 3), np.uint8)
    frames[:] = (np.arange(9) * 28)[:, None, None, None]
    image = imread(io.BytesIO(base64.b64decode(film_strip(frames).split(",")[1])), format="jpeg")
    assert image.shape == (96, 6 * 122 - 2, 3)
    assert abs(int(image[50, 60, 0]) - 0) < 4
    assert abs(int(image[50, -60, 0]) - 224) < 4


def test_large_frames_are_thinned_and_one_frame_is_enough():
    assert strip(np.zeros((2, 224, 224, 3), np.uint8)).shape == (224, 450, 3)
    assert strip(np.zeros((1, 480, 640, 3), np.uint8)).shape == (240, 320, 3)
    assert film_strip(np.zeros((1, 16, 16, 3), np.uint8)).startswith("data:image/jpeg;base64,")
