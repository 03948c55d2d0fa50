"""Numbers as a reader likes them. A missing value is a dash, never a zero."""

from typing import Any

DASH = "–"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def percent(value: float | None, digits: int = 1) -> str:
    """Fraction of 1 → '92.9 %'."""
    return DASH if value is None else f"{100 * value:.{digits}f} %"


def points(value: float | None) -> str:
    """Difference of fractions → '+4.0' (percentage points)."""
    return DASH if value is None else f"{100 * value:+.1f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """Two fractions → '91.2–94.0 %'."""
    return "" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"


def change(low: float | None, high: float | None) -> str:
    """Bounds of a difference of fractions → '+1.2 to +4.0' (percentage points)."""
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def top1(value: float | None, sd: float | None) -> str:
    """'92.9 %', with replicates '92.9 ± 0.6 %' (standard deviation)."""
    return percent(value) if value is None or sd is None else f"{100 * value:.1f} ± {100 * sd:.1f} %"


def count(value: float | None) -> str:
    """Count with three significant digits: 1.23 M, 12.3 k, 840."""
    if value is None:
        return DASH
    for size, unit in _UNITS:
        if value >= 0.9995 * size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f}"


def whole(value: int | None) -> str:
    """Whole number with thin spaces between thousands."""
    return DASH if value is None else f"{value:,}".replace(",", "\u202f")


def decimal(value: float | None, digits: int = 3) -> str:
    """Plain decimal."""
    return DASH if value is None else f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds with three significant digits."""
    return DASH if value is None else _three_digits(value)


def seconds(value: float | None) -> str:
    """'8.4 s', '2 min 05 s', '1 h 03 min'."""
    if value is None:
        return DASH
    if value < 59.95:
        return f"{value:.1f} s"
    whole_seconds = round(value)
    if whole_seconds < 3600:
        return f"{whole_seconds // 60} min {whole_seconds % 60:02d} s"
    return f"{whole_seconds // 3600} h {whole_seconds % 3600 // 60:02d} min"


def ratio(larger: float | None, smaller: float | None) -> str:
    """How many times smaller: '38×'; a dash where one is missing."""
    if not larger or not smaller:
        return DASH
    return f"{_three_digits(larger / smaller) if larger < 100 * smaller else f'{larger / smaller:.0f}'}×"


def cell(value: Any) -> str:
    """Any value of a free table."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(text: str, length: int) -> str:
    """Text cut in its middle to at most `length` characters, both ends kept."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _three_digits(value: float) -> str:
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
