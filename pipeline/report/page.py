"""One HTML page from ReportFacts: figures inline, nothing is fetched, everything of the user is escaped."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pipeline.report import panels, words
from pipeline.report.answers import answers, best_control, bounds, caveats, counted, first_of, room_sentences, verdict
from pipeline.report.facts import Confusion, NetworkRow, ReportFacts
from pipeline.report.figures import accuracy_against_cost, accuracy_by_method
from pipeline.report.film import film_strip

GALLERY = 24
CONFUSED_PAIRS = 8
SHOWN = ("better", "worse")


@dataclass(frozen=True)
class Tile:
    """A figure that is said large on top of the page; `small` where its value is words."""

    value: str
    label: str
    note: str = ""
    small: bool = False


def write_report(out_html: Path, facts: ReportFacts) -> Path:
    """Write the page to `out_html` (its folder is made), all at once: a reader never sees half a page."""
    out_html.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=out_html.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(render(facts))
    os.chmod(temporary, 0o644)
    os.replace(temporary, out_html)
    return out_html


def render(facts: ReportFacts) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_filters())
    return environment.get_template("report.html.j2").render(
        facts=facts,
        tiles=tiles(facts),
        verdict=verdict(facts),
        answers=answers(facts),
        caveats=caveats(facts),
        room=room_sentences(facts),
        counted=counted(facts),
        method_figure=accuracy_by_method(facts),
        cost_figure=accuracy_against_cost(facts.networks),
        curve_figures=_curve_figures(facts),
        confusion_figures=[(item, panels.confusion_matrix(item), confused(item)) for item in facts.confusion],
        flips_figure=panels.flips_per_class(facts.refinement.per_class) if facts.refinement else None,
        timing_figure=panels.timing_bars(facts.timings),
        flipped_total=(facts.refinement and facts.refinement.flipped) or len(facts.flipped),
        film=film_strip,
        gallery=GALLERY,
        configuration=json.dumps(facts.configuration, indent=2, ensure_ascii=False, default=str),
    )


def tiles(facts: ReportFacts) -> list[Tile]:
    """At most four: the student's accuracy, what its difference to the teacher and the best control is worth, its cost.

    A difference is shown as a number only where its interval leaves out 0; else the tile says the words.
    """
    student = first_of(facts, "student")
    if student is None or student.top1 is None:
        return []
    note = words.interval(student.low, student.high) or "no interval"
    found = [Tile(words.top1(student.top1, student.sd), f"student, top-1, {facts.split} split", note)]
    teacher, best = first_of(facts, "teacher"), best_control(facts)
    others = [(teacher, "against its teacher"), (best, "against the best control")]
    found += [difference_tile(facts, student, other, label) for other, label in others if other is not None]
    if teacher is not None and teacher.flops and student.flops:
        slower = words.ratio(teacher.latency_ms, student.latency_ms)
        note = "" if slower == words.DASH else f"{slower} shorter latency"
        found.append(Tile(words.ratio(teacher.flops, student.flops), "fewer FLOPs than the teacher", note))
    return found


def difference_tile(facts: ReportFacts, student: NetworkRow, other: NetworkRow, label: str) -> Tile:
    """A number with its word and interval, or the word alone where there is nothing to show."""
    item = facts.compared(student.name, other.name)
    name = f"{label}, {other.name}" if other.role == "control" else label
    if item is None:
        return Tile("not compared", name)
    if item.word in SHOWN:
        known = facts.gap_recovered is not None
        share = f"; {facts.gap_recovered:.0%} of the gap recovered" if known and other.role == "teacher" else ""
        return Tile(words.points(item.difference), f"points {name}: {item.word}", f"{bounds(item)}{share}")
    return Tile(item.word, name, bounds(item), small=True)


def confused(confusion: Confusion) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: given, predicted, videos, share of the class."""
    counts = np.asarray(confusion.counts)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    rows, columns = np.unravel_index(order, wrong.shape)
    names, totals = confusion.classes, counts.sum(axis=1)
    found = [(int(row), int(column)) for row, column in zip(rows, columns, strict=True) if wrong[row, column]]
    return [
        (names[row], names[column], int(wrong[row, column]), wrong[row, column] / totals[row]) for row, column in found
    ]


def _filters() -> dict[str, Any]:
    names = (
        "percent",
        "points",
        "count",
        "whole",
        "decimal",
        "milliseconds",
        "seconds",
        "cell",
        "short",
        "interval",
        "change",
        "top1",
    )
    return {name: getattr(words, name) for name in names}


def _curve_figures(facts: ReportFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (
            item.network,
            [(title, panels.curve_panel(lines, item.phases, title=title)) for title, lines in item.panels.items()],
        )
        for item in facts.curves
    ]
