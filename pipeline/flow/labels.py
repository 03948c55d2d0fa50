"""The steps of pseudo-label optimisation: given labels as an artefact, fold models in the warm pool, refined labels."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import write_table
from pipeline.artifacts.schemas import labels_schema, tensor_array
from pipeline.config.base import identity_fields
from pipeline.flow.build import validation_trusted
from pipeline.flow.context import Context
from pipeline.flow.folds import Judge, cross_fitted, decodable, judged, labeller_fields
from pipeline.flow.step import TABLE, Made, Step, Timing, ensure, facts_of
from pipeline.flow.videos import Videos, Views

LOG = logging.getLogger(__name__)
GIVEN_VERSION = 1
REFINE_VERSION = 2  # accuracy and agreement of the labellers are taken in views of one policy


def given_labels(context: Context, videos: Videos) -> Path:
    """The labels of the training videos as given: one-hot exactly, weight 0 where there is none."""
    inputs = {"manifest": videos.label_digest(["train"])}
    step = Step("given-labels", "labels", GIVEN_VERSION, {}, inputs, {"manifest": videos.key}, TABLE)
    rows = videos.of("train")
    given = videos.labels[rows]
    q = np.zeros((len(rows), len(videos.classes)), np.float32)
    q[given >= 0, given[given >= 0]] = 1
    weight = (given >= 0).astype(np.float32)
    columns = {"ids": [videos.ids[row] for row in rows], "q": q, "weight": weight}
    return ensure(
        step, context.workspace, lambda folder, attempt: (_write(folder, attempt, columns), {}), Timing("given")
    )


def refined_labels(
    context: Context, videos: Videos, views: Views, judge: Judge | None = None, teacher: Path | None = None
) -> Path:
    """The labels that the teacher and the student learn from; given labels stay where the channel is `none`.

    `judge`: the stored targets of a given teacher (of the models folder `teacher`) that never saw these labels, in
    place of fold models.
    """
    section, timing = context.recipe.labels, context.timing("refine-labels")
    fields = identity_fields(section) | {"channel": section.channel, "trust": validation_trusted(context.recipe)}
    inputs: dict[str, Any] = {"manifest": videos.label_digest(["train", "val"]), "groups": _group_digest(videos)}
    if section.channel != "none":
        inputs |= {plan: views.digest(plan) for plan in ("train", "eval")}
        if judge is None:
            fields["labeller"] = labeller_fields(context)
        else:
            inputs["judge"] = [judge.snapshots["train"], judge.snapshots["eval"], list(judge.class_index or ())]
    step = Step("refine-labels", "labels", REFINE_VERSION, fields, inputs, {"manifest": videos.key}, TABLE)
    context.keys["labels"] = step.key
    return ensure(
        step,
        context.workspace,
        lambda folder, attempt: _refine(context, videos, views, judge, teacher, folder, attempt, timing),
        timing,
    )


def refinement_report(folder: Path) -> dict[str, Any]:
    """The report of a refined-labels artefact."""
    return facts_of(folder, TABLE)


def _group_digest(videos: Videos) -> str:
    from pipeline.artifacts.identity import digest

    return digest([videos.groups[row] for row in videos.of("train", "val")])


def _refine(
    context: Context,
    videos: Videos,
    views: Views,
    judge: Judge | None,
    teacher: Path | None,
    folder: Path,
    attempt: str,
    timing: Timing,
) -> Made:
    from pipeline.labels.folds import assign_folds, protected_videos
    from pipeline.labels.refine import refine
    from pipeline.labels.selftest import Options

    section = context.recipe.labels
    rows = decodable(videos, views, "train")
    given = videos.labels[rows]
    groups = [videos.groups[row] for row in rows]
    folds = assign_folds(groups, given, folds=section.folds, seed=section.seed)
    logits, validation = None, None
    if section.channel != "none" and judge is not None:
        assert teacher is not None
        logits, validation = judged(context, videos, views, judge, teacher, rows, timing)
    elif section.channel != "none" and folds.max() > 0:
        logits, validation = cross_fitted(context, videos, views, given_labels(context, videos), rows, folds, timing)
    clean = videos.clean[rows] if (videos.clean[rows] >= 0).any() else None
    refined = refine(
        logits,
        given,
        num_classes=len(videos.classes),
        channel=section.channel,
        protected=protected_videos(given, folds),
        validation=validation,
        options=Options(draws=section.draws, share=section.mix),
        seed=section.seed,
        clean=clean,
    )
    columns = {"ids": [videos.ids[row] for row in rows], "q": refined.q, "weight": refined.weight}
    columns |= {"flipped": refined.flipped, "predicted": refined.predicted}
    return _write(folder, attempt, columns), refined.report | {"validation_trusted": validation_trusted(context.recipe)}


def _write(folder: Path, attempt: str, columns: dict[str, Any]) -> list[Any]:
    count, classes = columns["q"].shape
    schema = labels_schema(classes)
    arrays = [
        pa.array(columns["ids"], pa.string()),
        tensor_array(columns["q"].astype(np.float32)),
        pa.array(columns["weight"], pa.float32()),
        pa.array(columns.get("flipped", np.zeros(count, bool)), pa.bool_()),
        pa.array(columns.get("predicted", np.full(count, -1)), pa.int32()),
    ]
    return [write_table(folder, f"labels.{attempt}.parquet", pa.table(arrays, schema=schema))]
