"""Heads on a frozen backbone by cross-validation over whole groups: probe and ordered, from features stored once.

Every video of the recipe is used; splits are ignored. A fold's head is fitted on training views of the other folds'
videos and judged on the evaluation views of its own. Where seconds go is said as well: one pass of the backbone.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from jobs.common import RecipePath, Sets

HEADS = ("probe", "ordered")


def main(
    recipe: RecipePath,
    /,
    *,
    sets: Sets = None,
    folds: Annotated[int, Parameter(help="Folds of whole groups")] = 5,
    out: Annotated[Path | None, Parameter(help="The JSON file; default: heads.json here")] = None,
) -> None:
    """Cross-validated video accuracy of each head with its interval over groups, and seconds. Needs a recipe whose
    teacher has a frozen frame backbone and whose videos are all in train: --set manifest.split.train=1 … ."""
    from pipeline.config.load import read_recipe
    from pipeline.flow.context import Context

    context = Context.open(read_recipe(recipe, sets or []), recipe.stem)
    try:
        found = _measure(context, folds)
    finally:
        context.close()
    path = out or Path("heads.json")
    path.write_text(json.dumps(found, indent=1) + "\n")
    for name, row in found["heads"].items():
        bounds = "no interval" if row["low"] is None else f"{row['low']:.3f}–{row['high']:.3f}"
        print(
            f"{name:<8} {row['accuracy']:.3f}  95 % {bounds} ({row['method']}), {row['seconds']:.0f} s of {folds} fits"
        )
    print(f"features: {found['features_seconds']:.0f} s for {found['views']} views")
    print(path)


def _measure(context: Any, folds: int) -> dict[str, Any]:
    from pipeline.artifacts.dataset import open_dataset
    from pipeline.evaluation.intervals import accuracy_interval
    from pipeline.flow.features import frozen_features
    from pipeline.flow.run import begin, to_frames
    from pipeline.flow.step import Timing
    from pipeline.labels.folds import assign_folds

    way, began = to_frames(begin(context)), time.monotonic()
    section, timing = context.recipe.teacher, Timing("features")
    stored = {
        plan: frozen_features(
            context, section, way.videos.classes, way.views.folders[plan], way.views.digest(plan), timing
        )
        for plan in ("train", "eval")
    }
    seconds, views = (
        time.monotonic() - began,
        sum(len(open_dataset(*found).table(["view_id"])) for found in stored.values()),
    )
    videos = way.videos
    rows = [row for row in videos.of("train") if videos.labels[row] >= 0]
    groups = np.array([videos.groups[row] for row in rows])
    fold_of = assign_folds(groups, videos.labels[rows], folds=folds, seed=0)
    heads: dict[str, Any] = {}
    for head in HEADS:
        began = time.monotonic()
        right = np.zeros(len(rows), bool)
        for fold in range(folds):
            right[fold_of == fold] = _fold(context, way, stored, head, rows, fold_of, fold)
        interval = accuracy_interval(right, videos.labels[rows], groups)
        heads[head] = {"accuracy": float(right.mean()), **interval.as_dict(), "seconds": time.monotonic() - began}
    return {
        "videos": len(rows),
        "groups": len(set(groups)),
        "views": views,
        "features_seconds": seconds,
        "heads": heads,
    }


def _fold(
    context: Any, way: Any, stored: dict[str, Any], head: str, rows: list[int], fold_of: np.ndarray, fold: int
) -> np.ndarray:
    """Which of the fold's videos a head is right on that was fitted without them."""
    from pipeline.distill.data import DataSpec, load, load_rows
    from pipeline.distill.loop import train
    from pipeline.distill.spec import Job, Objective
    from pipeline.flow.build import network_spec, optimiser
    from pipeline.flow.fold import by_video, from_features
    from pipeline.models.probe import fit_probe, head_of
    from pipeline.models.registry import build_network

    videos, section = way.videos, context.recipe.teacher
    kept = [row for row, own in zip(rows, fold_of, strict=True) if own != fold]
    held = [row for row, own in zip(rows, fold_of, strict=True) if own == fold]
    spec = network_spec(section, videos.classes)
    spec = replace(spec, options={**spec.options, "head": head, "num_frames": context.recipe.views.num_frames})
    folder, snapshot = stored["train"]
    given = tuple((videos.ids[row], int(videos.labels[row])) for row in kept)
    data = DataSpec(str(folder), len(videos.classes), snapshot, given=given, column="features")
    if head == "probe":
        network, read = build_network(spec, 0).eval(), load_rows(data)
        group = {videos.ids[row]: videos.groups[row] for row in kept}
        choice = fit_probe(
            head_of(network), read.values, read.video, read.q, read.weight, [group[name] for name in read.videos]
        )
        print(f"fold {fold}: {choice.blocks}, strength {choice.strength:g} ({choice.reason})", flush=True)
    else:
        learning = {"optimiser": optimiser(section.optimiser), "batch_size": section.batch_size}
        aim = Objective(method="supervised", label_smoothing=section.label_smoothing)
        network = train(Job(head, "bench", spec, section.steps, aim, **learning), load(data)).network
    folder, snapshot = stored["eval"]
    ids = tuple(videos.ids[row] for row in held)
    logits = by_video(from_features(network), str(folder), snapshot, ids, context.recipe.plan.micro_batch, "features")
    shares = np.exp(logits - logits.max(2, keepdims=True))
    mean = (shares / shares.sum(2, keepdims=True)).mean(1)
    return mean.argmax(1) == videos.labels[held]
