"""Is the teacher worth distilling? Its validation accuracy beside what needs no teacher, on the same videos.

    majority class    the most frequent class of the training labels
    file facts        nearest neighbours on width, height, frames, bytes, fps (`file_facts`)
    linear probe      a linear model on the features of a frozen backbone, where there is one

Weak is a teacher whose lead over the majority class is not above zero by its paired 95 % interval. Under 6 groups,
where there is no interval over groups, it is the one over videos, and the lead has to be more than half of what a
teacher without a mistake has. By the interval alone a teacher that draws one class per scene by lot passed 19 and 31
times in a hundred (5 and 4 scenes of 40 videos, two classes, simulated); with the margin 4 and 5 times: where it is
right in every scene by chance. With 2 or 3 scenes that is likely (1/4, 1/8), and no margin can tell.

Legend: V labelled validation videos, C classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.evaluation.compare import Difference, paired_interval
from pipeline.evaluation.intervals import LEAST_GROUPS, accuracy_interval, independent

TEACHER, PROBE, FILES, MAJORITY = "teacher", "linear probe", "file facts", "majority class"
LEVEL = 0.95
MARGIN = "more than half of the way from the majority class to no mistake is asked for"
CLEAR = 0.5  # of the lead of a teacher without a mistake, where groups are too few for an interval


def majority_class(training: np.ndarray) -> int:
    """The most frequent of the labels (N,) int64, of equal ones the first; -1 is none. AssertionError without any."""
    given = training[training >= 0]
    assert len(given), "no training video has a label"
    return int(np.bincount(given).argmax())


def figures(
    labels: np.ndarray,
    groups: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
) -> dict[str, Any]:
    """What the gate knows, as plain values: accuracies with intervals, the teacher's lead over each, and whether it is
    weak.

    labels (V,), groups (V,), `predicted`: name → classes (V,), with TEACHER and MAJORITY among them; V ≥ 1.
    `decidable`: whether a teacher that is right on every video would pass; `fallback`: why the interval of the lead
    takes videos as independent though they are not, and what is asked for besides; empty where it does not.
    """
    correct = {name: values == labels for name, values in predicted.items()}
    lead, fallback = _lead(correct[TEACHER], correct[MAJORITY], groups)
    best, _ = _lead(np.ones(len(labels), bool), correct[MAJORITY], groups)
    rows = [_row(name, right, labels, groups, notes.get(name, "")) for name, right in correct.items()]
    leads = {
        name: _lead(correct[TEACHER], right, groups)[0].as_dict() for name, right in correct.items() if name != TEACHER
    }
    return {
        "videos": len(labels),
        "groups": len(np.unique(groups)),
        "rows": rows,
        "leads": leads,
        "weak": not (_above(lead) and (not fallback or _clear(lead, best))),
        "decidable": _above(best),
        "fallback": fallback and f"{fallback}, and {MARGIN}",
    }


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence on teacher and majority class."""
    top1 = {row["name"]: row["top1"] for row in found["rows"]}
    lead = found["leads"][MAJORITY]
    what = "is not shown to be better than" if found["weak"] else "is better than"
    return (
        f"On {_counted(found)} the teacher has {_percent(top1[TEACHER])}; that {what} always naming the most frequent "
        f"class ({_percent(top1[MAJORITY])}): {_points(lead)}{_because(found)}."
    )


def warnings(found: Mapping[str, Any]) -> list[str]:
    """What speaks against the teacher beside that: a probe or file facts that are as good or better."""
    top1 = {row["name"]: row["top1"] for row in found["rows"]}
    told = []
    if PROBE in top1 and top1[TEACHER] < top1[PROBE]:
        told.append(
            f"A linear probe on frozen features is better than the teacher by the point estimate "
            f"({_percent(top1[PROBE])} against {_percent(top1[TEACHER])}), {_distinct(found, PROBE)}: a simpler head "
            "(teacher.options.head) may be the better teacher."
        )
    beyond = FILES in top1 and top1[FILES] > top1[MAJORITY]
    if beyond and top1[TEACHER] <= top1[FILES]:
        how = "as good as" if top1[TEACHER] == top1[FILES] else "better than"
        told.append(
            f"File facts alone (width, height, frames, bytes, fps; no pixel) are {how} the teacher by the point "
            f"estimate ({_percent(top1[FILES])} against {_percent(top1[TEACHER])}), {_distinct(found, FILES)}: the "
            "classes may differ in how their files were made, and a network can learn that in place of what they show."
        )
    return told


def line(found: Mapping[str, Any]) -> str:
    """All rows in one line, for a log or a model card."""
    return "; ".join(f"{row['name']} {_percent(row['top1'])}{_bounds(row)}" for row in found["rows"])


def _lead(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> tuple[Difference, str]:
    """The paired difference; where the groups are too few for an interval, that over videos taken as independent.

    The fallback is too narrow where videos of a group are alike, and it is said.
    """
    found = paired_interval(first, second, groups, level=LEVEL)
    if found.low is not None or independent(groups):
        return found, ""
    count = len(np.unique(groups))
    why = f"{count} groups are fewer than the {LEAST_GROUPS} of an interval: videos are taken as independent"
    alone = paired_interval(first, second, None, level=LEVEL)
    return replace(alone, method=f"{alone.method}; {why}"), why


def _row(name: str, right: np.ndarray, labels: np.ndarray, groups: np.ndarray, note: str) -> dict[str, Any]:
    interval = accuracy_interval(right, labels, groups, level=LEVEL)
    bounds = {"low": interval.low, "high": interval.high, "method": interval.method}
    return {"name": name, "top1": float(right.mean()), **bounds, "note": note}


def _above(lead: Difference) -> bool:
    return lead.low is not None and lead.low > 0


def _clear(lead: Difference, best: Difference) -> bool:
    return lead.difference > CLEAR * best.difference + 1e-9


def _distinct(found: Mapping[str, Any], name: str) -> str:
    lead = found["leads"][name]
    if lead["low"] is None:
        return f"with no interval ({lead['method']})"
    apart = "distinguishable" if lead["high"] < 0 or lead["low"] > 0 else "not distinguishable"
    return f"{apart} on {_counted(found)} (teacher's lead {_points(lead)})"


def _because(found: Mapping[str, Any]) -> str:
    reasons = [found["fallback"]] if found["fallback"] else []
    if not found["decidable"]:
        reasons.append("so few that even a teacher without a mistake could not be told from it")
    return f" ({'; '.join(reasons)})" if reasons else ""


def _counted(found: Mapping[str, Any]) -> str:
    grouped = f" in {found['groups']} groups" if found["groups"] < found["videos"] else ""
    return f"{found['videos']} validation videos{grouped}"


def _points(lead: Mapping[str, Any]) -> str:
    bounds = "no interval" if lead["low"] is None else f"{100 * lead['low']:+.1f} to {100 * lead['high']:+.1f}"
    return f"{100 * lead['difference']:+.1f} points, 95 % interval {bounds}"


def _bounds(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" ({100 * row['low']:.1f}–{100 * row['high']:.1f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
