"""Top-5 classes of any video file: what a user does first with a student."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.flow.build import TESTING
from pipeline.flow.step import content


@dataclass(frozen=True)
class Prediction:
    """`classes`: (name, probability), best first; empty where `problem` says why the file cannot be read."""

    path: str
    classes: list[tuple[str, float]]
    problem: str = ""


def predict_videos(paths: Sequence[Path], model: Path, *, top: int = 5, deadline: float = 20.0) -> list[Prediction]:
    """Mean softmax over the evaluation views of each file. InputError where `model` holds no saved network."""
    from pipeline.models.weights import load_network, read_facts
    from pipeline.video.sandbox import DecodeChild

    folder = content(model)
    if not (folder / "model.json").is_file():
        raise InputError(f"--model {model} holds no model.json: name the folder of an export or of a trained network")
    network, policy = load_network(folder), _policy(read_facts(folder), folder)
    child = DecodeChild(deadline=deadline)
    try:
        return [_predict(path, network, policy, child, top) for path in paths]
    finally:
        child.close()


def _predict(path: Path, network: Any, policy: Any, child: Any, top: int) -> Prediction:
    from pipeline.evaluation.predict import predict, softmax, top_classes
    from pipeline.manifest.probe import probe
    from pipeline.video.sandbox import DecodeFailure
    from pipeline.video.views import draw, view_keys

    keys = view_keys(path.name, policy, probe(path).frames if policy.windows == "dense" else None)
    views = [draw(policy, clip_id, view_id) for clip_id, view_id in keys]
    try:
        outcome = child.decode(str(path), views, policy)
    except OSError as error:
        return Prediction(str(path), [], f"cannot be opened: {error.strerror or error}")
    if isinstance(outcome, DecodeFailure):
        return Prediction(str(path), [], f"{outcome.reason}: {outcome.message}")
    frames = np.stack([view.frames for view in outcome])
    mean = softmax(predict(network, frames, batch=min(len(frames), 16))).mean(axis=0)
    return Prediction(str(path), top_classes(mean, network.classes, top))


def _policy(facts: dict[str, Any], folder: Path) -> Any:
    from pipeline.video.views import ViewPolicy

    raster = facts.get("raster")
    if not isinstance(raster, dict):
        raise InputError(
            f"{folder / 'model.json'} does not say which raster the network takes: export it with this version"
        )
    return ViewPolicy(
        kind="eval",
        size=tuple(raster["size"]),
        num_frames=raster["num_frames"],
        frame_stride=raster["frame_stride"],
        overflow=raster["overflow"],
        clips_per_video=raster["clips_per_video"],
        **{name: raster[name] for name in TESTING if name in raster},
    )
