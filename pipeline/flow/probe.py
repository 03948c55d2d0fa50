"""A linear probe on the features of the teacher's frozen backbone: what the gate holds the teacher against."""

from pathlib import Path

import numpy as np

from pipeline.flow.build import network_spec
from pipeline.flow.context import Context
from pipeline.flow.features import frozen_features, reads_features
from pipeline.flow.step import Timing
from pipeline.flow.teacher import fits_without_steps, groups_of
from pipeline.flow.videos import Videos, Views


def validation_predictions(
    context: Context, videos: Videos, views: Views, labels: Path
) -> tuple[list[str], np.ndarray] | None:
    """Ids of the labelled validation videos that have frames, and the class (V,) int64 that a probe fitted on the
    training videos gives each. None where the teacher has no frozen backbone, or is a probe itself."""
    section = context.recipe.teacher
    rows = [row for row in videos.of("val") if videos.labels[row] >= 0]
    if not section.fit or not reads_features(section) or fits_without_steps(section) or not rows:
        return None
    from dataclasses import replace

    import torch

    from pipeline.distill.data import DataSpec, load_rows
    from pipeline.flow.fold import by_video, from_features
    from pipeline.flow.folds import decodable
    from pipeline.models.probe import fit_probe, head_of
    from pipeline.models.registry import build_network

    timing = Timing("probe")
    found = {
        plan: frozen_features(context, section, videos.classes, views.folders[plan], views.digest(plan), timing)
        for plan in ("train", "eval")
    }
    spec = network_spec(section, videos.classes)
    options = {**spec.options, "head": "probe", "num_frames": context.recipe.views.num_frames}
    network = build_network(replace(spec, options=options), section.seed).eval()
    folder, snapshot = found["train"]
    read = load_rows(DataSpec(str(folder), len(videos.classes), snapshot, labels=str(labels), column="features"))
    group = dict(groups_of(videos))
    fit_probe(head_of(network), read.values, read.video, read.q, read.weight, [group[name] for name in read.videos])
    there = set(decodable(videos, views, "val"))
    ids = tuple(videos.ids[row] for row in rows if row in there)
    folder, snapshot = found["eval"]
    logits = by_video(from_features(network), str(folder), snapshot, ids, context.recipe.plan.micro_batch, "features")
    return list(ids), torch.from_numpy(logits).softmax(2).mean(1).argmax(1).numpy()
