"""Identity and runtime fields."""

import pytest
from pydantic import ValidationError

from pipeline.config.base import Section, identity_fields, is_runtime, runtime, runtime_fields
from pipeline.config.data import Manifest, SplitShares
from pipeline.config.method import Labels, Sweep
from pipeline.config.networks import Labeller, Optimiser, Teacher, Train
from pipeline.config.recipe import Recipe
from pipeline.config.runs import Cluster, Precompute

RUNTIME = """
cluster.address
cluster.dashboard
cluster.expect.CPU
cluster.expect.GPU
cluster.max_cpus
cluster.max_gpus
cluster.startup_timeout
evaluate.latency_runs
manifest.root
precompute.deadline
precompute.decode_cpus
precompute.decoders
precompute.limits.file_megabytes
precompute.limits.frame_pixels
precompute.limits.frames
precompute.limits.memory_megabytes
precompute.max_bad_share
precompute.min_decoders
precompute.min_teachers
precompute.open_shards
precompute.teacher_cpus
precompute.teachers
precompute.together
run.name
simulate.workers
storage.root
storage.single_writer
sweep.max_concurrent
teacher.accept_weak
tracking.enabled
tracking.experiment
tracking.uri
train.checkpoint_every
train.cpus_per_worker
train.data
train.log_every
train.max_failures
train.memory_limit
train.num_workers
workspace
"""


class Inner(Section):
    workers: int = runtime(1)
    width: int = 4


class Outer(Section):
    plain: Inner = Inner()
    wide: Inner = Inner(width=8)
    maybe: Inner | None = None
    name: str


def test_runtime_fields_are_these() -> None:
    """What changes no value. Anything added here must keep results equal to the bit; anything else enters keys."""
    assert runtime_fields(Recipe) == sorted(RUNTIME.split())


def test_is_runtime_tells_the_two_sorts_apart() -> None:
    assert is_runtime(Train, "num_workers")
    assert not is_runtime(Train, "batch_size")


def test_only_what_differs_from_its_default_is_identity() -> None:
    assert identity_fields(Train()) == {}
    assert identity_fields(Train(steps=700, num_workers=8)) == {}
    assert identity_fields(Train(steps=701, num_workers=8)) == {"steps": 701}


def test_nested_sections_are_walked_and_tuples_become_lists() -> None:
    section = Manifest(root="/data", split=SplitShares(seed=3), noise={"splits": ["train", "val"]})
    assert identity_fields(section) == {"split": {"seed": 3}, "noise": {"splits": ["train", "val"]}}


def test_a_nested_section_is_compared_with_its_parents_default() -> None:
    """train.optimiser.lr is 4e-2 by default, teacher.optimiser.lr 3e-3; equal values elsewhere must not collide."""
    assert identity_fields(Train(optimiser=Optimiser(lr=3e-3))) == {"optimiser": {"lr": 3e-3}}
    assert identity_fields(Train(optimiser=Optimiser(lr=4e-2, warmup=0.1))) == {"optimiser": {"warmup": 0.1}}
    assert identity_fields(Teacher(optimiser=Optimiser(lr=3e-3))) == {}


def test_a_nested_section_that_differs_in_runtime_fields_only_is_left_out() -> None:
    assert identity_fields(Recipe(cluster=Cluster(max_cpus=2), precompute=Precompute(decoders=5))) == {}
    assert identity_fields(Outer(name="n", plain=Inner(workers=3), wide=Inner(width=8, workers=3))) == {"name": "n"}


def test_an_optional_section_counts_by_being_there() -> None:
    assert identity_fields(Outer(name="n")) == {"name": "n"}
    assert identity_fields(Outer(name="n", maybe=Inner())) == {"name": "n", "maybe": {}}
    assert identity_fields(Recipe(sweep=Sweep())) == {"sweep": {}}


def test_required_fields_are_always_identity() -> None:
    labeller = Labeller(model="compact")
    assert identity_fields(Labels(labeller=labeller)) == {"labeller": {"model": "compact"}}


def test_sections_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Train().steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="stepz"):
        Train(stepz=3)  # type: ignore[call-arg]
