"""Where configuration becomes the plain arguments of the components."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.artifacts.identity import digest, file_digest, source_digest
from pipeline.config.base import identity_fields
from pipeline.config.networks import Network, Optimiser, Train
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, InputError
from pipeline.video.views import ViewPolicy

PLANS = ("train", "eval")
OBJECTIVE = (
    "method",
    "temperature",
    "standardize",
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
        return Path(recipe.manifest.root).absolute()
    if recipe.simulate is None:
        raise ConfigError("manifest.root is not set: name the folder of videos with --set manifest.root=DIR")
    name = digest(identity_fields(recipe.simulate))[:8]
    return Path(recipe.workspace).absolute() / "videos" / f"simulated-{name}"


def manifest_name(recipe: Recipe) -> str:
    return recipe.manifest.name or manifest_root(recipe).resolve().name


def view_policy(recipe: Recipe, plan: str) -> ViewPolicy:
    """The policy of the `train` or the `eval` plan. ConfigError where a network wants more pixels than it gives."""
    _refuse_upscaling(recipe)
    views = recipe.views
    return ViewPolicy(
        kind=plan,
        size=views.size,
        num_frames=views.num_frames,
        frame_stride=views.frame_stride,
        views_per_clip=views.train.views_per_clip if plan == "train" else 1,
        clips_per_video=1 if plan == "train" else views.eval.clips_per_video,
        scale=views.train.scale,
        ratio=views.train.ratio,
        flip=views.flip and plan == "train",
        overflow=views.overflow,
        seed=views.seed,
    )


def _refuse_upscaling(recipe: Recipe) -> None:
    raster, labeller = recipe.views.size, recipe.labels.labeller
    networks = {"teacher": recipe.teacher, "assistants": recipe.assistants, "student": recipe.student}
    for name, network in {**networks, "labels.labeller": labeller}.items():
        wanted = network.transform.size if network is not None else None
        if wanted and (wanted[0] > raster[0] or wanted[1] > raster[1]) and not recipe.views.allow_upscale:
            raise ConfigError(
                f"{name}.transform.size is {wanted[0]}×{wanted[1]}, but views.size is {raster[0]}×{raster[1]}: no "
                "network sees more than the raster holds. Raise views.size, or set views.allow_upscale: true"
            )


def planned_splits(recipe: Recipe, plan: str) -> tuple[str, ...]:
    """Whose videos a plan holds: training views for training videos, evaluation views as the recipe says."""
    return ("train",) if plan == "train" else recipe.views.eval.splits


def network_fields(network: Network) -> dict[str, Any]:
    """Identity of a network's section: what paths point to enters by content."""
    fields = {"model": network.model, "options": network.options, "transform": identity_fields(network.transform)}
    if network.weights is not None:
        path = Path(network.weights)
        path = path / "model.safetensors" if path.is_dir() else path
        fields["weights"] = file_digest(path) if path.is_file() else network.weights
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


def _weights(named: str | None) -> str | None:
    """A name of the library as it is, a path made absolute: workers stand elsewhere."""
    return str(Path(named).absolute()) if named is not None and Path(named).exists() else named


def optimiser(section: Optimiser) -> Any:
    from pipeline.distill import spec

    return spec.Optimiser(**section.model_dump())


def objective(recipe: Recipe, **changes: Any) -> Any:
    """The objective of the recipe's `distill` section, with changes."""
    from pipeline.distill.spec import Objective

    section = recipe.distill
    base = Objective(**{name: getattr(section, name) for name in OBJECTIVE})
    return replace(base, **changes)


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
