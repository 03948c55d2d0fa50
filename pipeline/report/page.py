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
from pipeline.report.facts import Confusion, NetworkRow, ReportFacts
from pipeline.report.figures import accuracy_against_cost
from pipeline.report.film import film_strip

GALLERY = 24
CONFUSED_PAIRS = 8


@dataclass(frozen=True)
class Tile:
    """A figure that is said large on top of the page."""

    value: str
    label: str
    note: str = ""


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
        room=room_sentences(facts),
        counted=counted(facts),
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
    """At most four: the student's accuracy, its distance to the teacher, to the best control, its cost."""
    student = _first(facts, "student")
    if student is None or student.top1 is None:
        return []
    teacher = _first(facts, "teacher")
    found = [Tile(words.percent(student.top1), "student, top-1", words.interval(student.low, student.high))]
    if teacher is not None and teacher.top1 is not None:
        found.append(Tile(words.points(student.top1 - teacher.top1), "points against its teacher", _share(facts)))
    best = best_control(facts)
    if best is not None and best.top1 is not None:
        found.append(Tile(words.points(student.top1 - best.top1), "points against the best control", best.name))
    if teacher is not None and teacher.flops and student.flops:
        slower = words.ratio(teacher.latency_ms, student.latency_ms)
        note = "" if slower == words.DASH else f"{slower} shorter latency"
        found.append(Tile(words.ratio(teacher.flops, student.flops), "fewer FLOPs than the teacher", note))
    return found


def best_control(facts: ReportFacts) -> NetworkRow | None:
    """The control with the highest top-1, the one that the student has to beat."""
    scored = [row for row in facts.of_role("control") if row.top1 is not None]
    return max(scored, key=lambda row: row.top1 or 0.0) if scored else None


def verdict(facts: ReportFacts) -> list[str]:
    """What the paired comparisons say, in words: a difference under two sampling errors is not shown by one run."""
    return [_compared(item.first, item.second, item.difference, item.error, item.n) for item in facts.comparisons]


def counted(facts: ReportFacts) -> str:
    """How many test videos stand behind the table, and how many do not."""
    row = _first(facts, "student") or next(iter(facts.networks), None)
    if row is None or row.videos is None:
        return ""
    views = f" ({words.whole(row.clips)} views)" if row.clips else ""
    text = f"{words.whole(row.videos)} test videos{views}."
    if row.quarantined_videos:
        text += f" {words.whole(row.quarantined_videos)} more could not be decoded and are left out"
        wrong = f"; counted as wrong, {row.name} has {words.percent(row.top1_quarantined_wrong)}"
        text += f"{wrong if row.top1_quarantined_wrong is not None else ''}."
    return (
        f"{text} {words.whole(row.unlabelled_videos)} without a label are left out." if row.unlabelled_videos else text
    )


def room_sentences(facts: ReportFacts) -> list[str]:
    """The room of the setting (method §8), from what is known of it."""
    room = facts.room
    if room is None:
        return []
    pairs = (("the student's budget", room.alone), ("twice that budget", room.alone_double))
    said = [_room(room.teacher, value, budget) for budget, value in pairs if value is not None]
    if room.alone_double is None:
        said.append("A student with twice the steps was not trained: part of the room may be under-training.")
    if room.labeller is not None and room.given_labels is not None:
        better = "more" if room.labeller > room.given_labels else "less"
        said.append(
            f"The labeller (out of fold) is right on {words.percent(room.labeller)} of the training videos, the given "
            f"labels on {words.percent(room.given_labels)}: alone, it knows {better} than the labels."
        )
    return said


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
    names = ("percent", "points", "count", "whole", "decimal", "milliseconds", "seconds", "p_value", "cell", "short")
    return {name: getattr(words, name) for name in names}


def _first(facts: ReportFacts, role: str) -> NetworkRow | None:
    return next(iter(facts.of_role(role)), None)


def _share(facts: ReportFacts) -> str:
    return "" if facts.gap_recovered is None else f"{facts.gap_recovered:.0%} of the gap recovered"


def _compared(first: str, second: str, difference: float, error: float, n: int) -> str:
    size = f"{words.points(difference)} points (sampling error {100 * error:.1f}, {words.whole(n)} videos)"
    if abs(difference) <= 2 * error:
        return (
            f"{first} against {second}: {size}. Within two sampling errors: this run alone does not show a difference."
        )
    side = "ahead of" if difference > 0 else "behind"
    return f"{first} is {side} {second}: {size}. One run says nothing of the spread over seeds and data."


def _room(teacher: float, alone: float, budget: str) -> str:
    gap = teacher - alone
    left = f"{100 * gap:.1f} points of room" if gap > 0 else "no room: nothing can be shown here"
    return (
        f"The teacher reaches {words.percent(teacher)}, the student trained alone on {budget} "
        f"{words.percent(alone)}: {left}."
    )


def _curve_figures(facts: ReportFacts) -> list[tuple[str, list[tuple[str, str]]]]:
    return [
        (
            item.network,
            [(title, panels.curve_panel(lines, item.phases, title=title)) for title, lines in item.panels.items()],
        )
        for item in facts.curves
    ]
