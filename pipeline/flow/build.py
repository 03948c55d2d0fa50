"""Where configuration becomes the plain arguments of the components."""

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts.identity import digest, file_digest, source_digest
from pipeline.artifacts.places import place
from pipeline.config.base import identity_fields
from pipeline.config.networks import Network, Optimiser, Train
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, InputError
from pipeline.flow.step import content, is_done
from pipeline.video.policy import CROPS, ViewPolicy

LOG = logging.getLogger(__name__)
PLANS = ("train", "eval")
TESTING = ("views_per_clip", "temporal", "spatial", "crop", "flip", "window_stride", "max_windows")
TEN_CROP_SIDE = 0.875  # 224 of 256 pixels, as usual
OBJECTIVE = (
    "method",
    "temperature",
    "standardize",
    "lambda_ce",
    "lambda_kd",
    "lambda_corr",
    "lambda_comb",
    "lambda_dist",
    "combinations",
    "weighting",
    "distribution",
)


def manifest_root(recipe: Recipe) -> Path:
    """The folder of videos: as given, or the simulated set of the workspace. Absolute: workers stand elsewhere."""
    if recipe.manifest.root:
        return place(recipe.manifest.root)
    if recipe.simulate is None:
        raise ConfigError("manifest.root is not set: name the folder of videos with --set manifest.root=DIR")
    name = digest(identity_fields(recipe.simulate))[:8]
    return Path(recipe.workspace).absolute() / "videos" / f"simulated-{name}"


def manifest_name(recipe: Recipe) -> str:
    if recipe.manifest.name:
        return recipe.manifest.name
    root = manifest_root(recipe)
    return root.resolve().name or str(root).rstrip("/").rpartition("/")[2]


def view_policy(recipe: Recipe, plan: str) -> ViewPolicy:
    """The policy of the `train` or the `eval` plan. ConfigError where a network wants more pixels than it gives."""
    _refuse_upscaling(recipe)
    _refuse_ragged(recipe)
    views = recipe.views
    common = ViewPolicy(
        kind=plan,
        size=views.size,
        num_frames=views.num_frames,
        frame_stride=views.frame_stride,
        scale=views.train.scale,
        ratio=views.train.ratio,
        overflow=views.overflow,
        seed=views.seed,
    )
    return replace(common, **(_train_views(recipe) if plan == "train" else _eval_views(recipe)))


def testing(recipe: Recipe) -> dict[str, Any]:
    """What the evaluation policy says beyond window and size, where it is not the usual: for who predicts later."""
    policy = view_policy(recipe, "eval")
    usual = {field.name: field.default for field in fields(ViewPolicy)}
    return {name: getattr(policy, name) for name in TESTING if getattr(policy, name) != usual[name]}


def _train_views(recipe: Recipe) -> dict[str, Any]:
    chosen = recipe.views.train
    names = ("views_per_clip", "temporal", "spatial", "scales", "places")
    return {"flip": recipe.views.flip} | {name: getattr(chosen, name) for name in names}


def _eval_views(recipe: Recipe) -> dict[str, Any]:
    chosen = recipe.views.eval
    ten = chosen.spatial == "ten_crop"
    crop = chosen.crop or (TEN_CROP_SIDE if ten else 1.0)
    crops = {"views_per_clip": CROPS[chosen.spatial], "crop": crop, "flip": recipe.views.flip and ten}
    names = ("clips_per_video", "temporal", "spatial", "window_stride", "max_windows")
    return crops | {name: getattr(chosen, name) for name in names}


def _refuse_ragged(recipe: Recipe) -> None:
    if recipe.views.eval.temporal == "dense" and recipe.labels.channel != "none":
        raise ConfigError(
            "views.eval.temporal: dense gives every validation video its own number of views, and label refinement "
            "reads equally many of each: use uniform or segments, or set labels.channel: none"
        )


def _refuse_upscaling(recipe: Recipe) -> None:
    raster, labeller = recipe.views.size, recipe.labels.labeller
    networks = {"teacher": recipe.teacher, "student": recipe.student, "assistants": recipe.assistant_network}
    for name, network in {**networks, "labels.labeller": labeller}.items():
        wanted = network.transform.size if network is not None else None
        if wanted and (wanted[0] > raster[0] or wanted[1] > raster[1]) and not recipe.views.allow_upscale:
            raise ConfigError(
                f"{name}.transform.size is {wanted[0]}×{wanted[1]}, but views.size is {raster[0]}×{raster[1]}: no "
                "network sees more than the raster holds. Raise views.size, or set views.allow_upscale: true"
            )


def frames_job(recipe: Recipe, folders: dict[str, Path], *, keep_pixels: bool) -> Any:
    """What decode actors need to know."""
    from pipeline.video.handle import Limits
    from pipeline.video.micro_batch import FramesJob

    section, limits = recipe.precompute, recipe.precompute.limits
    return FramesJob(
        policies={plan: view_policy(recipe, plan) for plan in PLANS},
        folders={plan: str(folder) for plan, folder in folders.items()},
        micro_batch=recipe.plan.micro_batch,
        reader=section.reader,
        deadline=section.deadline,
        keep_pixels=keep_pixels,
        cache=section.frames,
        jpeg_quality=section.jpeg_quality,
        limits=Limits(
            limits.frame_pixels, limits.frames, limits.file_megabytes * (1 << 20), limits.memory_megabytes * (1 << 20)
        ),
    )


def planned_splits(recipe: Recipe, plan: str) -> tuple[str, ...]:
    """Whose videos a plan holds: training views for training videos, evaluation views as the recipe says."""
    return ("train",) if plan == "train" else recipe.views.eval.splits


def network_fields(network: Network) -> dict[str, Any]:
    """Identity of a network's section: what paths point to enters by content."""
    fields = {"model": network.model, "options": network.options, "transform": identity_fields(network.transform)}
    if network.weights is not None:
        path = weights_path(network.weights)
        path = path / "model.safetensors" if path.is_dir() else path
        fields["weights"] = file_digest(path) if path.is_file() else network.weights
        described = [path.parent / name for name in ("config.json", "preprocessor_config.json")]
        if network.model == "huggingface":
            fields["described"] = [file_digest(file) for file in described if file.is_file()]
    if ":" in network.model:
        fields["code"] = source_digest(network.model)
    return fields


def network_spec(network: Network, classes: tuple[str, ...]) -> Any:
    """The section as a NetworkSpec with `classes`."""
    from pipeline.models.spec import NetworkSpec

    transform = network.transform.model_dump(mode="json", exclude_none=True)
    return NetworkSpec(
        model=network.model,
        classes=classes,
        options=dict(network.options),
        transform=transform,
        weights=_weights(network.weights),
    )


def weights_path(named: str) -> Path:
    """Where named weights lie: of an artefact's folder (as `fit-teacher` prints it) its finished attempt."""
    path = Path(named)
    return content(path) if path.is_dir() and is_done(path) else path


def _weights(named: str | None) -> str | None:
    """A name of the library as it is, a path made absolute: workers stand elsewhere."""
    return str(weights_path(named).absolute()) if named is not None and Path(named).exists() else named


def optimiser(section: Optimiser) -> Any:
    from pipeline.distill import spec

    return spec.Optimiser(**section.model_dump())


def objective(recipe: Recipe, classes: int, **changes: Any) -> Any:
    """The objective of the recipe's `distill` section, with changes.

    Two standardised logits are ±1/√2 whatever the teacher says: with two classes KD is plain, for student and controls.
    """
    from pipeline.distill.spec import Objective

    section = recipe.distill
    found = replace(Objective(**{name: getattr(section, name) for name in OBJECTIVE}), **changes)
    return replace(found, standardize=found.standardize and classes > 2)


def fitting_batch(recipe: Recipe, wanted: int, clips: int, who: str) -> int:
    """The batch size of a training that has so many clips: as wanted, or all of them where there are fewer, said once.

    An epoch reads each clip once and needs a full batch, so a small set would have none.
    """
    if not 0 < clips < wanted:
        return wanted
    workers = recipe.train.num_workers
    fitting = max(workers, clips // workers * workers)
    LOG.warning("%s: batches of %d instead of %d: it has no more clips to learn from", who, fitting, wanted)
    return fitting


def validation_trusted(recipe: Recipe) -> bool:
    """Whether validation labels are taken to be right: as the recipe says, else unless it injects noise into them."""
    said, noise = recipe.labels.trust_validation, recipe.manifest.noise
    return (noise.kind == "none" or "val" not in noise.splits) if said is None else said


def device(wanted: str) -> str:
    """`auto` resolved before anything is hashed: cuda where this driver sees one."""
    if wanted != "auto":
        return wanted
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return "cpu"
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def train_device(train: Train) -> str:
    return device(train.device)


def read_classes(path: str) -> tuple[str, ...]:
    """Class names, one a line."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"teacher.classes: {path} not found; it holds the teacher's class names, one a line")
    names = tuple(line.strip() for line in file.read_text().splitlines() if line.strip())
    if len(set(names)) < len(names):
        raise InputError(f"teacher.classes: {path} names a class twice")
    return names
