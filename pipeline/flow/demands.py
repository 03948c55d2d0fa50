"""What each step will ask of the cluster, from the recipe alone: for the pre-flight, the dry run and the steps.

Memory of the precompute actors, as asked of Ray (which counts it and does not enforce it):

    decode     1.25 · (0.5 GB + 6 · M)    the worker, its child and Parquet's buffers; pixels decoded, handed on, cached
    teacher    1.25 · (1 GB + 7 · M)      the worker with torch; pixels as uint8, handed on, and as float32
    both       the sum of these           one actor decodes and labels in turn (labels_in_turn)

M = bytes of a micro-batch's pixels, of which another one is being put away (two copies) or fetched (one) meanwhile. A
network's own weights and activations are known to nobody here. Never more than the share of a node that the actor's
CPUs are (Capacity.memory).
"""

import os
from dataclasses import replace

from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import device, train_device
from pipeline.on_ray.capacity import READ_CPUS, Capacity, Demand, check, fit_decoders

ANYTHING = Capacity(1e6, 1e6, "not known before the cluster is asked")
DECODE_BYTES, TEACHER_BYTES = 0.5e9, 1e9
DECODE_COPIES, TEACHER_COPIES = 6, 7
MEMORY_ROOM = 1.25


def local_capacity(recipe: Recipe) -> Capacity | None:
    """What a session of our own would offer; None where the recipe joins a cluster, which has to be asked."""
    if recipe.cluster.address is not None:
        return None
    cpus = recipe.cluster.max_cpus or float(len(os.sched_getaffinity(0)))
    gpus = 1.0 if "cuda" in (train_device(recipe.train), device(recipe.precompute.device)) else 0.0
    return Capacity(cpus, gpus, "this machine's CPUs" if recipe.cluster.max_cpus is None else "cluster.max_cpus")


def known_capacity(recipe: Recipe) -> Capacity:
    """What the cluster can become as far as it is known without asking it: this machine, or cluster.expect."""
    local, expect = local_capacity(recipe), recipe.cluster.expect
    if local is not None or expect.CPU is None:
        return local or ANYTHING
    cpus, gpus = recipe.cluster.max_cpus or expect.CPU, expect.GPU or 0.0
    return Capacity(min(cpus, expect.CPU), min(gpus, recipe.cluster.max_gpus or gpus), "cluster.expect")


def step_demands(recipe: Recipe, capacity: Capacity) -> dict[str, list[Demand]]:
    """Per step, what its actors and workers hold at the same time, in the order of the way."""
    train = recipe.train
    gpu = float(train_device(train) == "cuda")
    workers = [Demand("train workers", train.num_workers, train.cpus_per_worker, gpu)]
    steps = {"frames": frame_demands(recipe, capacity)}
    if recipe.labels.channel != "none":
        steps["refine-labels"] = [Demand("fold models", 1, train.cpus_per_worker, gpu)]
    if recipe.teacher.fit:
        steps["fit-teacher"] = workers
    steps |= {"precompute": target_demands(recipe, capacity), "distill": workers}
    if recipe.sweep is not None:
        steps["sweep"] = sweep_demands(recipe, capacity)
    return steps


def frame_demands(recipe: Recipe, capacity: Capacity) -> list[Demand]:
    """Reading and decode actors; as many of those asked for as fit, at least one."""
    section = recipe.precompute
    decoders = fit_decoders(section.decoders, section.decode_cpus, capacity.cpus - READ_CPUS)
    least = section.min_decoders if _grows(recipe) else None
    needed = MEMORY_ROOM * (DECODE_BYTES + DECODE_COPIES * micro_batch_bytes(recipe))
    memory = capacity.memory(needed, section.decode_cpus)
    decode = Demand("decode actors", decoders, section.decode_cpus, memory=memory, least=least)
    return [Demand("reading", 1, READ_CPUS), decode]


def target_demands(recipe: Recipe, capacity: Capacity) -> list[Demand]:
    """The same beside the teacher's actors, which come first; or the actors that do both."""
    section = recipe.precompute
    if labels_in_turn(recipe):
        return [Demand("reading", 1, READ_CPUS), _both(recipe, capacity)]
    gpus = float(device(section.device) == "cuda")
    least = section.min_teachers if _grows(recipe) else None
    needed = MEMORY_ROOM * (TEACHER_BYTES + TEACHER_COPIES * micro_batch_bytes(recipe))
    memory = capacity.memory(needed, section.teacher_cpus)
    teacher = Demand("teacher actors", section.teachers, section.teacher_cpus, gpus, memory, least)
    left = replace(capacity, cpus=capacity.cpus - teacher.count * teacher.cpus)
    return [*frame_demands(recipe, left), teacher]


def _both(recipe: Recipe, capacity: Capacity) -> Demand:
    """As many actors as decoders and teachers are asked for, as far as they fit, at least one.

    ConfigError where the teacher runs on an accelerator.
    """
    section = recipe.precompute
    if device(section.device) == "cuda":
        raise ConfigError(
            "precompute.together is true and the teacher would run on an accelerator, which would wait while its actor "
            "decodes: set precompute.together: false, or precompute.device: cpu"
        )
    cpus = max(section.decode_cpus, section.teacher_cpus)
    count = fit_decoders(section.decoders + section.teachers, cpus, capacity.cpus - READ_CPUS)
    least = section.min_decoders + section.min_teachers if _grows(recipe) else None
    copies = DECODE_COPIES + TEACHER_COPIES
    memory = MEMORY_ROOM * (DECODE_BYTES + TEACHER_BYTES + copies * micro_batch_bytes(recipe))
    return Demand("precompute actors", count, cpus, memory=capacity.memory(memory, cpus), least=least)


def labels_in_turn(recipe: Recipe) -> bool:
    """Whether one actor decodes and labels in turn: as the recipe says, or by itself where both keep one core busy."""
    section = recipe.precompute
    if section.together is not None:
        return section.together
    alike = recipe.train.threads == 1 and section.teacher_cpus <= section.decode_cpus <= 1
    return teachers_compute(recipe) and alike


def teachers_compute(recipe: Recipe) -> bool:
    """Whether the teachers are networks on their actors' own CPUs; a callable of a user's may wait for whatever."""
    section = recipe.precompute
    called = any(given.labeler for given in (recipe.teacher, *section.more_teachers))
    return device(section.device) == "cpu" and not called


def micro_batch_bytes(recipe: Recipe) -> int:
    """Of the pixels (B, T, H, W, 3) uint8 that pass through the graph in one row."""
    height, width = recipe.views.size
    return recipe.plan.micro_batch * recipe.views.num_frames * height * width * 3


def _grows(recipe: Recipe) -> bool:
    """On an autoscaling cluster pools start small and grow with it; elsewhere all actors are there from the start."""
    return recipe.cluster.expect.CPU is not None or recipe.cluster.expect.GPU is not None


def sweep_demands(recipe: Recipe, capacity: Capacity) -> list[Demand]:
    """Trials in their own process, as many at a time as fit; nested ones run one at a time with a worker group each."""
    assert recipe.sweep is not None
    concurrent = max(1, min(recipe.sweep.max_concurrent, int(capacity.cpus)))
    return [Demand("trials", concurrent, 1.0)]


def warm_actors(recipe: Recipe, name: str, networks: int, capacity: Capacity) -> list[Demand]:
    """Warm actors that train one network after another: one a network where they fit."""
    train = recipe.train
    gpu = float(train_device(train) == "cuda")
    count = max(1, min(networks, int(capacity.cpus // train.cpus_per_worker)))
    return [Demand(name, count, train.cpus_per_worker, gpu)]


def preflight(recipe: Recipe, *, local: bool = False) -> None:
    """Refuse, before anything starts, what a session of our own could never place (CapacityError with the sum)."""
    capacity = local_capacity(recipe)
    if capacity is not None:
        check_all(recipe, capacity, local=local)


def check_all(recipe: Recipe, capacity: Capacity, *, local: bool = False) -> None:
    """Every step that uses Ray against what the cluster can become."""
    for step, demands in step_demands(recipe, capacity).items():
        if not (local and step in ("refine-labels", "fit-teacher", "distill")):
            check(step, demands, capacity)
