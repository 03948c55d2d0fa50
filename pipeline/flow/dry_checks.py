"""What a dry run warns of, and what each step will ask of Ray against what the cluster can become."""

import os
import shutil
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path

from pipeline.config.recipe import Recipe
from pipeline.errors import CapacityError
from pipeline.flow.build import device, train_device
from pipeline.flow.dry_data import Data
from pipeline.flow.dry_sizes import PlanSize, duration, size
from pipeline.labels.selftest import LEAST_VIDEOS
from pipeline.on_ray.capacity import Capacity, Demand, check, fit_decoders

READ_CPUS = 0.1  # as on_ray.precompute, which imports Ray
MICRO_BATCH_SECONDS, SHARD_SECONDS = 0.5, 300.0


def capacity(recipe: Recipe) -> Capacity | None:
    """What the cluster can become, as far as it is known without asking it; None: not at all."""
    cluster = recipe.cluster
    cpus, gpus, source = cluster.expect.CPU, cluster.expect.GPU, "cluster.expect"
    if cluster.address is None:
        cpus = max(float(int(cluster.max_cpus) if cluster.max_cpus else os.cpu_count() or 1), cpus or 0.0)
        gpus = max(float(len(list(Path("/dev").glob("nvidia[0-9]*")))), gpus or 0.0)
        source = "this machine"
    if cpus is None:
        return None
    gpus = min(gpus or 0.0, cluster.max_gpus) if cluster.max_gpus is not None else gpus or 0.0
    return Capacity(min(cpus, cluster.max_cpus) if cluster.max_cpus else cpus, gpus, source)


def demands(recipe: Recipe, found: Capacity | None) -> dict[str, list[Demand]]:
    """What each step that uses Ray will ask for; numbers that the driver lowers to what is there are lowered here."""
    train, section = recipe.train, recipe.precompute
    cpus = found.cpus if found else float("inf")
    gpu = float(train_device(train) == "cuda")
    teachers = Demand("teacher actors", section.teachers, section.teacher_cpus, float(device(section.device) == "cuda"))
    asked = {"frames": _decoding(recipe, cpus, 0.0)}
    if recipe.labels.channel != "none":
        size = int(max(1, min(recipe.labels.folds, cpus // train.cpus_per_worker)))
        asked["refine-labels"] = [Demand("fold models", size, train.cpus_per_worker, gpu)]
    workers = [Demand("train workers", train.num_workers, train.cpus_per_worker, gpu)]
    if recipe.teacher.fit:
        asked["fit-teacher"] = workers
    asked["precompute"] = [*_decoding(recipe, cpus, teachers.count * teachers.cpus), teachers]
    asked["distill"] = workers
    if recipe.sweep is not None:
        asked["sweep"] = [Demand("trials", int(max(1, min(recipe.sweep.max_concurrent, cpus))), 1.0)]
    return asked


def _decoding(recipe: Recipe, cpus: float, teachers: float) -> list[Demand]:
    section = recipe.precompute
    count = section.decoders
    if cpus != float("inf"):
        count = fit_decoders(count, section.decode_cpus, cpus - READ_CPUS - teachers)
    return [Demand("reading", 1, READ_CPUS), Demand("decode actors", count, section.decode_cpus)]


def refusals(asked: Mapping[str, list[Demand]], found: Capacity | None) -> Iterator[str]:
    """Why steps would be refused before they start."""
    for step, held in asked.items() if found else ():
        try:
            assert found is not None
            check(step, held, found)
        except CapacityError as error:
            yield str(error)


def warnings(recipe: Recipe, data: Data, sizes: Mapping[str, PlanSize]) -> list[str]:
    """Everything that a user should know before anything starts, most costly first."""
    found = [*data.notes, *_splits(recipe, data), *_training(recipe, data, sizes["train"]), *_growth(recipe)]
    for plan in sizes.values():
        found += _granularity(recipe, plan)
    return [*found, *_views(recipe), *_disk(recipe, sizes)]


def _splits(recipe: Recipe, data: Data) -> Iterator[str]:
    split = recipe.evaluate.split
    if not data.videos.get(split) or split not in recipe.views.eval.splits:
        yield f"evaluate.split is {split}, and no video of it is planned: evaluate will stop (views.eval.splits, split)"
    noise = recipe.manifest.noise
    trusted = noise.kind == "none" or "val" not in noise.splits
    if recipe.labels.channel == "auto" and (not trusted or data.videos.get("val", 0) < LEAST_VIDEOS):
        why = f"{data.videos.get('val', 0)} validation videos of at least {LEAST_VIDEOS}" if trusted else "noise in val"
        yield f"labels.channel auto will answer none ({why}); the fold models are trained all the same"
    if data.unlabelled:
        yield f"{data.unlabelled} training videos have no label: they weigh what the refinement is sure of"


def _training(recipe: Recipe, data: Data, plan: PlanSize) -> Iterator[str]:
    train, aim = recipe.train, recipe.distill
    held = plan.views * plan.view_bytes
    if held > train.memory_limit:
        limit = size(train.memory_limit)
        yield f"every training worker holds {size(held)} of frames, more than train.memory_limit ({limit})"
    batches = {"train": train.batch_size, "teacher": recipe.teacher.batch_size if recipe.teacher.fit else 0}
    for section, batch in batches.items():
        if batch > data.videos.get("train", 0):
            yield f"{section}.batch_size {batch} is more than the {data.videos.get('train', 0)} training clips"
        if batch % train.num_workers:
            yield f"{section}.batch_size {batch} does not divide by train.num_workers {train.num_workers}"
    if aim.method == "staged" and train.batch_size < 8:
        yield f"train.batch_size {train.batch_size}: terms that relate the samples of a batch need at least 8"
    if aim.standardize and aim.lambda_kd and data.classes < 5:
        what = "refused: use distill.standardize: false" if data.classes <= 2 else "little signal"
        yield f"standardised logits of {data.classes} classes: {what}"
    for name, network in (("teacher", recipe.teacher), ("student", recipe.student)):
        frames = network.options.get("num_frames")
        if frames not in (None, recipe.views.num_frames):
            yield f"{name}.options.num_frames {frames} is not views.num_frames {recipe.views.num_frames}"


def _growth(recipe: Recipe) -> Iterator[str]:
    if recipe.teacher.fit:
        yield "teacher.fit is true: adding videos fits the teacher anew, and all that follows from it"
    else:
        yield "teacher.fit is false: added videos are decoded and labelled alone; students are trained anew"


def _granularity(recipe: Recipe, plan: PlanSize) -> Iterator[str]:
    """Advice only where there is more than one of the kind."""
    each = plan.micro_batch_seconds
    if plan.views > plan.micro_batch and each < MICRO_BATCH_SECONDS:
        wanted = ceil(plan.micro_batch * MICRO_BATCH_SECONDS / each)
        yield (
            f"a micro-batch of the {plan.name} plan is about {duration(each)} of decoding, under "
            f"{MICRO_BATCH_SECONDS} s: Ray's cost of a block weighs; plan.micro_batch {wanted} would do"
        )
    if plan.shards_of(plan.videos) > 1 and plan.shard_seconds < SHARD_SECONDS:
        wanted = ceil(plan.shard_views * SHARD_SECONDS / plan.shard_seconds)
        yield (
            f"a shard of the {plan.name} plan is about {duration(plan.shard_seconds)} of decoding on one core, under "
            f"5 minutes: many small files; plan.shard_views {wanted} would do"
        )


def _views(recipe: Recipe) -> Iterator[str]:
    views = recipe.views
    if views.flip and not views.flip_label_map:
        yield "views.flip is true: a mirrored clip keeps its label, which is wrong where classes have a direction"


def _disk(recipe: Recipe, sizes: Mapping[str, PlanSize]) -> Iterator[str]:
    place = Path(recipe.workspace).absolute()
    while not place.exists():
        place = place.parent
    needed, free = sum(plan.views * plan.view_bytes for plan in sizes.values()), shutil.disk_usage(place).free
    if needed > free:
        yield f"the raster cache is {size(needed)} before compression, {place} has {size(free)} free"
