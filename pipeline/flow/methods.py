"""Methods as they are evaluated: a network with its replicates, their paired differences, and the room of a setting."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.flow.cascade import ALONE, ALONE_DOUBLE, Trained


@dataclass(frozen=True)
class Method:
    """One name of the tables: its runs by replicate, and their `VideoTable`s on the evaluated split and validation.

    `validation` is empty where no labelled video validates.
    """

    runs: list[Trained]
    tables: list[Any]
    validation: list[Any]

    @property
    def name(self) -> str:
        return self.runs[0].name

    @property
    def role(self) -> str:
        return self.runs[0].role

    @property
    def correct(self) -> np.ndarray:
        """(R, V) bool; rows of two methods pair by replicate, columns by video."""
        return np.stack([table.correct for table in self.tables])

    @property
    def top1(self) -> float:
        """Mean over replicates."""
        return float(self.correct.mean())


def by_name(networks: Sequence[Trained]) -> list[list[Trained]]:
    """Networks of one name together, sorted by replicate; names in the order of their first."""
    found: dict[str, list[Trained]] = {}
    for network in networks:
        found.setdefault(network.name, []).append(network)
    return [sorted(runs, key=lambda run: run.replicate) for runs in found.values()]


def comparisons(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Student − teacher and − each control, teacher − each control, and each pair of controls (later − earlier)."""
    student = [method for method in methods if method.role == "student"]
    teacher = [method for method in methods if method.role == "teacher"]
    controls = [method for method in methods if method.role == "control"]
    pairs = [*itertools.product(student, teacher + controls), *itertools.product(teacher, controls)]
    pairs += [(later, earlier) for earlier, later in itertools.combinations(controls, 2)]
    return [{"first": first.name, "second": second.name} | difference(first, second) for first, second in pairs]


def difference(first: Method, second: Method) -> dict[str, Any]:
    """The paired difference of two methods on the evaluated split (`evaluation.compare.Difference`)."""
    from pipeline.evaluation.compare import paired_interval

    return paired_interval(first.correct, second.correct, first.tables[0].groups).as_dict()


def note_weak_assistants(methods: Sequence[Method], entries: Sequence[dict[str, Any]]) -> None:
    """Note each assistant that validates worse than the network it teaches, beyond the paired interval."""
    from pipeline.evaluation.compare import BETTER, paired_interval

    for place, (method, taught) in enumerate(itertools.pairwise(methods)):
        if method.role != "assistant" or taught.role == "control" or not method.validation or not taught.validation:
            continue
        mine, theirs = method.validation[0], taught.validation[0]
        found = paired_interval(theirs.correct, mine.correct, mine.groups)
        if found.word == BETTER and found.low is not None and found.high is not None:
            size = f"{100 * found.difference:.1f} points ({100 * found.low:.1f} to {100 * found.high:.1f})"
            flag = f"flagged: {taught.name} is {size} better on validation"
            entries[place]["note"] = "; ".join(filter(None, [entries[place].get("note"), flag]))


def chosen_note(chosen: Sequence[float | None], steps: int) -> str:
    """What a row says of steps that were selected, one per run; nothing where each run kept its last."""
    found = [f"{step:g}" for step in chosen if step is not None]
    if not found:
        return ""
    return f"step{'s' if len(found) > 1 else ''} {', '.join(found)} of {steps}, best on validation"


def room(methods: Sequence[Method]) -> dict[str, Any]:
    """Teacher, student, the student trained alone with its steps and twice of them, and the share of the gap recovered.

    `gap_recovered` is None, and `gap_reason` says why, wherever the teacher is not above cross-entropy beyond their
    paired interval: a share of a gap that may not be there is no figure.
    """
    named = {method.name: method for method in methods}
    teacher = next(method for method in methods if method.role == "teacher")
    student = next(method for method in methods if method.role == "student")
    share, reason = _gap(teacher, student, named.get(ALONE))
    top1 = {name: method.top1 for name, method in named.items()}
    return {
        "teacher": teacher.top1,
        "student": student.top1,
        "alone": top1.get(ALONE),
        "alone_double": top1.get(ALONE_DOUBLE),
        "gap_recovered": share,
        "gap_reason": reason,
    }


def _gap(teacher: Method, student: Method, alone: Method | None) -> tuple[float | None, str]:
    from pipeline.evaluation.compare import BETTER, UNKNOWN
    from pipeline.evaluation.metrics import gap_recovered

    if alone is None:
        return None, "No share of a gap is given: no student was trained with cross-entropy alone."
    found = difference(teacher, alone)
    if found["word"] == BETTER:
        return gap_recovered(teacher.top1, student.top1, alone.top1), ""
    size = f"{100 * found['difference']:+.1f} points"
    if found["word"] == UNKNOWN:
        return None, f"No share of a gap is given: teacher − {alone.name} is {size}, {found['method']}."
    bounds = f"95 % interval {100 * found['low']:+.1f} to {100 * found['high']:+.1f}"
    said = f"No share of a gap is given: teacher and {alone.name} do not differ that way beyond their interval"
    return None, f"{said} (teacher − {alone.name}: {size}, {bounds}: {found['word']})."


def majority(videos: Any, table: Any) -> dict[str, Any] | None:
    """What always naming the largest training class reaches on the evaluated split; None without training labels."""
    from pipeline.evaluation.intervals import accuracy_interval

    labels = videos.labels[videos.of("train")]
    if not (labels >= 0).any():
        return None
    largest = int(np.bincount(labels[labels >= 0]).argmax())
    right = table.labels == largest
    interval = accuracy_interval(right, table.labels, table.groups)
    return {"class": videos.classes[largest], "top1": float(right.mean()), "top1_interval": interval.as_dict()}
