"""The gate: whether the teacher is worth distilling, looked at after its targets are stored and before any student.

The teacher's stored targets of the validation videos beside the majority class, file facts and, where somebody offers
one, a linear probe (`evaluation.gate`). The artefact holds figures alone; what follows from them is decided when they
are read, so that `teacher.accept_weak` changes no key and a run that was stopped goes on from where it stood.
"""

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.files import read_if_present, replace
from pipeline.artifacts.identity import digest
from pipeline.config.networks import Teacher
from pipeline.errors import JobError
from pipeline.flow.build import network_fields
from pipeline.flow.context import Context
from pipeline.flow.plans import manifest_step
from pipeline.flow.step import Made, Step, content, ensure, files_of
from pipeline.flow.targets import Targets
from pipeline.flow.teacher import Model
from pipeline.flow.videos import Videos, Views
from pipeline.manifest.table import read_manifest

LOG = logging.getLogger(__name__)
VERSION = 2  # few groups: a lead has to be clear
GATE = "gate.json"
# Classes of validation videos by a linear model that learnt from the training videos and these labels: ids, (V,) int64;
# None where no frozen backbone is at hand.
Probe = Callable[[Context, Videos, Views, Path], tuple[Sequence[str], np.ndarray] | None]


def gate(
    context: Context,
    videos: Videos,
    views: Views,
    labels: Path,
    teacher: Model,
    targets: Targets,
    probe: Probe | None = None,
) -> dict[str, Any]:
    """What gate.json says; a copy lies in the run's folder, warnings go to the log.

    JobError where the teacher is not better than the majority class and `teacher.accept_weak` does not let it pass.
    Everything made so far stays.
    """
    files = _file_facts(context, videos)
    step = _step(context, videos, views, labels, teacher, targets, files, probed=probe is not None)
    context.keys["gate"] = step.key

    def work(folder: Path, attempt: str) -> Made:
        predict = None if probe is None else probe(context, videos, views, labels)
        found = _look(videos, teacher, targets, files, predict)
        (folder / attempt).mkdir()
        (folder / attempt / GATE).write_text(json.dumps(found, indent=1) + "\n")
        return files_of(folder, attempt), {name: found[name] for name in ("looked", "weak")}

    found = read_gate(ensure(step, context.workspace, work, context.timing("gate")))
    _publish(context, found)
    _tell(found, context.recipe.teacher)
    return found


def _step(
    context: Context,
    videos: Videos,
    views: Views,
    labels: Path,
    teacher: Model,
    targets: Targets,
    files: np.ndarray,
    *,
    probed: bool,
) -> Step:
    asked = files[videos.of("train", "val")].tolist()
    inputs: dict[str, Any] = {
        "manifest": videos.label_digest(["train", "val"]),
        "groups": digest([videos.groups[row] for row in videos.of("train", "val")]),
        "files": digest([[None if np.isnan(fact) else fact for fact in row] for row in asked]),
        "targets": targets.snapshots["eval"],
        "classes": list(targets.class_index or ()),
    }
    if probed:  # whatever network of the recipe its features come from
        inputs["probe"] = {
            "frames": [views.digest(plan) for plan in ("train", "eval")],
            "labels": labels.name,
            "networks": [network_fields(context.recipe.teacher), network_fields(context.recipe.student)],
        }
    return Step("gate", "gate", VERSION, {}, inputs, {"manifest": videos.key, "teacher": teacher.key})


def read_gate(folder: Path) -> dict[str, Any]:
    """gate.json of a finished gate."""
    return dict(json.loads((content(folder) / GATE).read_text()))


def found_of(context: Context) -> dict[str, Any] | None:
    """What the gate of this run found, None where it has not been asked yet."""
    key = context.keys.get("gate")
    return None if key is None else read_gate(context.workspace.store("gate", key))


def in_words(found: dict[str, Any]) -> list[str]:
    """The verdict and what speaks against the teacher, a sentence each."""
    from pipeline.evaluation.gate import verdict, warnings

    return [verdict(found), *warnings(found)] if found["looked"] else [str(found["why"])]


def gate_summary(context: Context) -> dict[str, Any] | None:
    """What summary.json says of the gate."""
    found = found_of(context)
    return None if found is None else {"says": in_words(found), **found}


def gate_line(context: Context) -> str:
    """What the model card says of the teacher; empty where the gate was not asked."""
    found = found_of(context)
    return "" if found is None else " ".join(in_words(found))


def gate_facts(context: Context) -> Any:
    """The report's section, None where the gate was not asked."""
    from pipeline.report.facts import Gate, Table

    found = found_of(context)
    if found is None or not found["looked"]:
        return None if found is None else Gate(in_words(found))
    columns = [
        "on validation",
        "top-1 (%)",
        "95 % interval",
        "teacher's lead (points)",
        "95 % interval",
        "videos",
        "groups",
    ]
    counts = [found["videos"], found["groups"]]
    rows = [
        [row["name"], f"{100 * row['top1']:.1f}", _bounds(row), *_lead(found, row["name"]), *counts]
        for row in found["rows"]
    ]
    methods = dict.fromkeys(row["method"] for row in found["rows"])
    leads = dict.fromkeys(lead["method"] for lead in found["leads"].values())
    how = f"Intervals: {'; '.join(methods)}. Of the paired differences: {'; '.join(leads)}."
    notes = "".join(f" {row['name'].capitalize()}: {row['note']}." for row in found["rows"] if row["note"])
    return Gate(in_words(found), Table("", columns, rows, how + notes))


def _bounds(values: dict[str, Any]) -> str:
    return "none" if values["low"] is None else f"{100 * values['low']:.1f} to {100 * values['high']:.1f}"


def _lead(found: dict[str, Any], name: str) -> list[Any]:
    lead = found["leads"].get(name)
    return ["", ""] if lead is None else [f"{100 * lead['difference']:+.1f}", _bounds(lead)]


def _file_facts(context: Context, videos: Videos) -> np.ndarray:
    """(all videos, F) in the order of `videos`, NaN where a header is silent."""
    from pipeline.evaluation.file_facts import FACTS

    manifest = read_manifest(manifest_step(context.recipe).folder(context.workspace))
    assert manifest is not None
    assert manifest.table.column("video_id").to_pylist() == list(videos.ids)
    columns = [manifest.table.column(name).to_pylist() for name in FACTS]
    return np.array([[np.nan if fact is None else fact for fact in column] for column in columns], np.float64).T


def _look(
    videos: Videos,
    teacher: Model,
    targets: Targets,
    files: np.ndarray,
    probed: tuple[Sequence[str], np.ndarray] | None,
) -> dict[str, Any]:
    from pipeline.evaluation.gate import PROBE, TEACHER, figures
    from pipeline.flow.evaluate import validation_table

    table = validation_table(videos, teacher, targets)
    if table is None:
        why = (
            "The gate could not look at the teacher: no labelled validation video was labelled by it "
            "(manifest.split.val, views.eval.splits)."
        )
        return {"looked": False, "weak": False, "why": why}
    names, predicted = list(table.video_ids), {TEACHER: table.predicted}
    if probed is not None:
        by_probe = dict(zip(probed[0], np.asarray(probed[1]).tolist(), strict=True))
        kept = [place for place, name in enumerate(names) if name in by_probe]
        names = [names[place] for place in kept]
        predicted = {TEACHER: table.predicted[kept], PROBE: np.array([by_probe[name] for name in names], np.int64)}
    position = videos.position()
    rows = [position[name] for name in names]
    without, notes = _without_teacher(videos, files, rows)
    groups = np.array([videos.groups[row] for row in rows])
    return {"looked": True, **figures(videos.labels[rows], groups, predicted | without, notes)}


def _without_teacher(
    videos: Videos, files: np.ndarray, asked: list[int]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Classes of the `asked` rows by file facts and by the majority class, with a note on how."""
    from pipeline.evaluation.file_facts import guess
    from pipeline.evaluation.gate import FILES, MAJORITY, majority_class

    training = [row for row in videos.of("train") if videos.labels[row] >= 0]
    predicted, notes = {}, {}
    if training:
        groups = np.array([videos.groups[row] for row in training])
        labels = videos.labels[training]
        told = guess(files[training], labels, groups, files[asked], classes=len(videos.classes))
        predicted[FILES] = told.predicted
        notes[FILES] = f"{told.neighbours} nearest neighbours on {', '.join(told.columns) or 'nothing that varies'} "
        notes[FILES] += f"({told.chosen_by})"
    # Without a training label the strictest: what is most frequent where it is asked.
    common = majority_class(videos.labels[training or asked])
    predicted[MAJORITY] = np.full(len(asked), common)
    notes[MAJORITY] = f"{videos.classes[common]}, of the {'training' if training else 'validation'} labels"
    return predicted, notes


def _publish(context: Context, found: dict[str, Any]) -> None:
    """A copy for the eye: runs/<name>/gate.json."""
    path = context.workspace.run(context.name) / GATE
    data = (json.dumps(found, indent=1) + "\n").encode()
    if read_if_present(path) != data:
        replace(path, data)


def _tell(found: dict[str, Any], section: Teacher) -> None:
    from pipeline.evaluation.gate import line

    said, *warned = in_words(found)
    for sentence in warned:
        LOG.warning("gate: %s", sentence)
    if not found["looked"]:
        LOG.warning("gate: %s", said)
    elif not found["weak"]:
        LOG.info("gate: %s", said)
    elif section.accept_weak:
        LOG.warning("gate: %s It is distilled all the same (teacher.accept_weak).", said)
    else:
        raise JobError(f"the teacher is not worth distilling. {said} ({line(found)})\n{_advice(found, section)}")


def _advice(found: dict[str, Any], section: Teacher) -> str:
    few = "" if found["decidable"] else "more validation videos (manifest.split.val), which are too few to tell; "
    other = (
        "more steps (teacher.steps), another head (teacher.options.head, or head: auto where the backbone is frozen)"
    )
    other = other if section.fit else "another teacher (teacher.weights), the order of its classes (classes.map)"
    return (
        f"All that was made so far is kept, and the run goes on from here. Try {few}{other}, more labels, other views "
        "(views.num_frames, views.frame_stride, views.size), and look whether the labels are right. To distil this "
        "teacher all the same: --set teacher.accept_weak=true"
    )
