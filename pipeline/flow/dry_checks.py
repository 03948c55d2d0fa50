"""What a dry run warns of: capacity, sizes, settings that cost or mislead."""

import shutil
from collections.abc import Iterator, Mapping
from math import ceil

from pipeline.artifacts.places import is_remote, place
from pipeline.config.recipe import Recipe
from pipeline.errors import CapacityError, ConfigError
from pipeline.flow.build import validation_trusted
from pipeline.flow.demands import known_capacity, labels_in_turn, step_demands, target_demands
from pipeline.flow.dry_data import Data
from pipeline.flow.dry_sizes import PlanSize, duration, size
from pipeline.flow.seen import check_starts
from pipeline.on_ray.capacity import Capacity, check

LEAST_VIDEOS = 40  # of validation, for the self-test: labels.selftest, whose import costs a second
MICRO_BATCH_SECONDS, SHARD_SECONDS = 0.5, 300.0


def refusals(recipe: Recipe, found: Capacity) -> Iterator[str]:
    """Why steps would be refused before anything starts."""
    for step, held in step_demands(recipe, found).items():
        try:
            check(step, held, found)
        except CapacityError as error:
            yield str(error)
    teacher = recipe.teacher
    if not teacher.fit and teacher.weights is None and not teacher.labeler:
        yield "teacher.fit is false, so teacher.weights must name the teacher's weights"
    try:
        check_starts(recipe)
    except ConfigError as error:
        yield str(error)


def warnings(recipe: Recipe, data: Data, sizes: Mapping[str, PlanSize]) -> list[str]:
    """Everything that a user should know before anything starts, most costly first."""
    found = [*data.notes, *_splits(recipe, data), *_training(recipe, data, sizes["train"]), *_growth(recipe)]
    found += [*_micro_batches(sizes), *_shards(sizes), *_copies(recipe)]
    return [*found, *_views(recipe), *_disk(recipe, sizes)]


def _splits(recipe: Recipe, data: Data) -> Iterator[str]:
    split = recipe.evaluate.split
    if not data.videos.get(split) or split not in recipe.views.eval.splits:
        yield f"evaluate.split is {split}, and no video of it is planned: evaluate will stop (views.eval.splits, split)"
    trusted = validation_trusted(recipe)
    if recipe.labels.channel == "auto" and (not trusted or data.videos.get("val", 0) < LEAST_VIDEOS):
        few = f"{data.videos.get('val', 0)} validation videos of at least {LEAST_VIDEOS}"
        why = few if trusted else "noise in val, or labels.trust_validation: false"
        yield f"labels.channel auto will answer none ({why}); labels.channel: none saves its fold models"
    if data.unlabelled:
        yield f"{data.unlabelled} training videos have no label: they weigh what the refinement is sure of"


def _training(recipe: Recipe, data: Data, plan: PlanSize) -> Iterator[str]:
    train, aim = recipe.train, recipe.distill
    if recipe.precompute.frames == "none":
        yield "precompute.frames is none: targets alone are stored; steps that train or evaluate will be refused"
        return
    held = plan.views * plan.view_bytes
    if held > train.memory_limit:
        limit = size(train.memory_limit)
        yield f"the training frames are {size(held)}, more than train.memory_limit ({limit}): training will be refused"
    batches = {"train": train.batch_size, "teacher": recipe.teacher.batch_size if recipe.teacher.fit else 0}
    for section, batch in batches.items():
        if batch > data.videos.get("train", 0):
            yield f"{section}.batch_size {batch} is more than the {data.videos.get('train', 0)} training clips"
        if batch % train.num_workers:
            yield f"{section}.batch_size {batch} does not divide by train.num_workers {train.num_workers}"
    if aim.method == "staged" and train.batch_size < 8:
        yield f"train.batch_size {train.batch_size}: terms that relate the samples of a batch need at least 8"
    if aim.standardize and aim.lambda_kd and data.classes < 5:
        what = "no signal, so KD is plain, for student and controls" if data.classes <= 2 else "little signal"
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


def _micro_batches(sizes: Mapping[str, PlanSize]) -> Iterator[str]:
    short = [plan for plan in sizes.values() if 0 < plan.micro_batch_seconds < MICRO_BATCH_SECONDS]
    if short:
        said = ", ".join(f"{duration(plan.micro_batch_seconds)} ({plan.name})" for plan in short)
        factor = max(MICRO_BATCH_SECONDS / plan.micro_batch_seconds for plan in short)
        yield (
            f"a micro-batch is about {said} of decoding, under {MICRO_BATCH_SECONDS} s: what Ray spends on a block "
            f"weighs; plan.micro_batch {16 * ceil(short[0].micro_batch * factor / 16)} would do"
        )


def _shards(sizes: Mapping[str, PlanSize]) -> Iterator[str]:
    """No advice where there is one shard, which cannot be larger."""
    small = [plan for plan in sizes.values() if plan.shards_of(plan.videos) > 1 and plan.shard_seconds < SHARD_SECONDS]
    if small:
        said = ", ".join(f"{duration(plan.shard_seconds)} ({plan.name})" for plan in small)
        wanted = max(plan.per_video * ceil(SHARD_SECONDS / plan.video_seconds) for plan in small)
        mend = f"plan.shard_views {wanted:,} would do" if wanted < max(plan.views for plan in small) else "all is small"
        yield f"a shard is about {said} of decoding on one core, under 5 minutes: many small files; {mend}"


def _copies(recipe: Recipe) -> Iterator[str]:
    """Of the teacher in memory, where actors do both without having been asked to."""
    asked = recipe.precompute.teachers
    if recipe.precompute.together is None and labels_in_turn(recipe):
        held = max(demand.count for demand in target_demands(recipe, known_capacity(recipe)))
        if held > 2 * asked:
            yield (
                f"{held} actors decode and label in turn and hold a copy of the teacher each (precompute.teachers asks "
                f"for {asked}): where that is too much memory, precompute.together: false keeps both apart"
            )


def _views(recipe: Recipe) -> Iterator[str]:
    if recipe.views.flip:
        yield "views.flip is true: a mirrored clip keeps its label, which is wrong where classes have a direction"


def _disk(recipe: Recipe, sizes: Mapping[str, PlanSize]) -> Iterator[str]:
    store = place(recipe.storage.root or recipe.workspace)
    if is_remote(store):
        return
    while not store.exists():
        store = store.parent
    needed = sum(plan.views * (plan.cached_bytes + (plan.targets_bytes or 0)) for plan in sizes.values())
    free = shutil.disk_usage(store).free
    if needed > free:
        yield f"frames and targets are about {size(needed)}, {store} has {size(free)} free"
