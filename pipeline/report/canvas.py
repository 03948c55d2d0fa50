"""The look of all figures, and how one becomes text in a page. No display, no global state."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {"teacher": "#4c3a8c", "assistant": "#3b7fc4", "student": "#0f9d78", "control": "#667283"}
LINES = ("#0f9d78", "#3b7fc4", "#4c3a8c", "#d98324", "#c2435b", "#6b7686", "#1b6f8f", "#a06cc0")
INK, SOFT = "#1d2733", "#52606d"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e9edf1",
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "svg.hashsalt": "stagedkd",
    "text.parse_math": False,  # names of the user may hold a dollar sign
}


@contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of width × height inches with one pair of axes, in the look of the report."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.add_subplot()


def data_uri(payload: bytes, mime: str) -> str:
    """`data:` URI of some bytes, so that a page needs no second file."""
    return f"data:{mime};base64,{base64.b64encode(payload).decode('ascii')}"


def svg(figure: Figure) -> str:
    """The figure as an SVG data URI, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    return data_uri(buffer.getvalue(), "image/svg+xml")
