"""What top-k targets keep of the dense KL, measured where targets are made and, before that, in a dry run.

The evaluation plan's targets are stored whole whatever the codec says, so a sample of them tells what the training
plan's lost. A dry run asks a given teacher for some clips, where its weights are at hand.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts.commit import read_markers
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import column
from pipeline.config.recipe import Recipe
from pipeline.targets.kept import ENOUGH, Kept, kept_share

LOG = logging.getLogger(__name__)
SAMPLE, SHARDS = 256, 8  # at most so many views, of so many shards


def kept_of(recipe: Recipe, names: Sequence[str], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Per teacher what its top-k targets keep, with a sentence; warnings go to the log. Nothing where all is stored.

    `folders`: of the evaluation plan's targets. A teacher without one evaluation view is left out, which is said.
    """
    found = []
    for name, folder in zip(names, folders, strict=True) if recipe.precompute.codec.top_k is not None else ():
        logits = some_logits(folder)
        if logits is None:
            LOG.warning("top-k: what the targets of %s keep is not known: no evaluation view is stored", name)
            continue
        kept = least_kept(recipe, logits)
        found.append({"teacher": name, **kept.as_dict(), "says": words(kept)})
        if kept.share < ENOUGH:
            LOG.warning("top-k targets of %s: %s", name, words(kept))
    return found


def some_logits(folder: Path) -> np.ndarray | None:
    """At most SAMPLE rows of stored whole logits (n, C), spread over at most SHARDS shards; None without any."""
    if not read_markers(folder, "shard-"):
        return None
    dataset = open_dataset(folder)
    parts = [column(dataset.shard(shard, ["logits"]), "logits") for shard in _spread(dataset.shard_ids, SHARDS)]
    parts = [part for part in parts if len(part)]
    each = SAMPLE // max(1, len(parts))
    rows = [part[_spread(range(len(part)), each)].astype(np.float32) for part in parts]
    return np.concatenate(rows) if rows else None


def least_kept(recipe: Recipe, logits: np.ndarray) -> Kept:
    """Of the recipe's losses on logits (its own, or the controls' where it has none) that which loses most."""
    k, classes = recipe.precompute.codec.top_k, logits.shape[1]
    assert k is not None
    how = sorted(_losses(recipe, classes))
    every = [kept_share(logits, k, temperature=tau, standardize=standardize) for tau, standardize in how]
    return min(every, key=lambda kept: kept.share)


def words(kept: Kept) -> str:
    """One sentence; under ENOUGH with what to do."""
    each = ", ".join(f"{name} student {100 * share:.0f} %" for name, share in kept.students.items())
    how = f"temperature {kept.temperature:g}, {'' if kept.standardize else 'not '}standardised"
    said = (
        f"top_k {kept.k} of {kept.classes} classes keeps {100 * kept.share:.0f} % of the dense KL ({each}; {how}; "
        f"{kept.views} evaluation views)"
    )
    if kept.share >= ENOUGH:
        return said
    mend = "" if kept.enough >= kept.classes else f"precompute.codec.top_k {kept.enough} keeps 90 % here, or "
    return f"{said}: {mend}store dense (precompute.codec.top_k: null)"


def probed(recipe: Recipe, paths: Sequence[str]) -> Kept | None:
    """What a given teacher's targets would keep, by evaluation views of these videos; to be called in a process of its
    own. None where the teacher's weights are not at hand, or no view could be decoded."""
    from pipeline.flow.teacher_times import given_labeler

    labeler = given_labeler(recipe)
    frames = _frames(recipe, paths) if labeler is not None else []
    if labeler is None or not frames:
        return None
    return least_kept(recipe, np.concatenate([labeler(part)["logits"] for part in frames]))


def _frames(recipe: Recipe, paths: Sequence[str]) -> list[np.ndarray]:
    """The evaluation rasters of each video that could be decoded."""
    from pipeline.flow.build import PLANS, frames_job
    from pipeline.flow.estimate import probe_row
    from pipeline.video.micro_batch import FramesStage

    with tempfile.TemporaryDirectory(prefix="stagedkd-probe-") as folder:
        stage = FramesStage(frames_job(recipe, dict.fromkeys(PLANS, Path(folder)), keep_pixels=True))
        done = [stage(probe_row(recipe, "eval", path)) for path in paths]
        stage.close()
    good = [[place for place, slot in enumerate(json.loads(row["slots"])) if "error" not in slot] for row in done]
    return [row["frames"][places] for row, places in zip(done, good, strict=True) if places]


def _losses(recipe: Recipe, classes: int) -> set[tuple[float, bool]]:
    """Temperature and standardisation, which two classes do without."""
    own = recipe.distill
    if own.lambda_kd:
        return {(own.temperature, own.standardize and classes > 2)}
    return {(arm.temperature, arm.standardize and classes > 2) for arm in own.controls.kd} or {(own.temperature, False)}


def _spread(values: Any, count: int) -> list[Any]:
    """At most `count` of them, evenly."""
    values = list(values)
    places = {round(place) for place in np.linspace(0, len(values) - 1, min(count, len(values))).tolist()}
    return [values[place] for place in sorted(places)]
