"""One loop, three hosts: the same job in this process, in the warm pool and in a worker group gives the same bits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.flow.tasks import Host, TrainTask, run_training
from tests.integration.conftest import Main
from tests.support.driver import summary


@pytest.fixture(scope="module")
def joined(main: Main):
    """This process as a driver on the head."""
    from pipeline.on_ray.session import Session

    session = Session(main.head.address)
    session.start()
    yield session
    session.close()


def student_task(main: Main) -> TrainTask:
    """The student's task as the main job ran it in its worker group."""
    from pipeline.config.load import read_recipe
    from pipeline.flow.context import Context
    from pipeline.flow.run import begin, to_cascade
    from tests.integration.conftest import DEBUG

    recipe = read_recipe(DEBUG, [f"{path}={value}" for path, value in main.sets(tracking__enabled="false").items()])
    context = Context.open(recipe, "hosts")
    way = to_cascade(begin(context))
    assert all(timing.skipped for timing in context.timings), context.timings
    return next(task for task in way.cascade.tasks if isinstance(task, TrainTask) and task.job.name == "student")


def elsewhere(task: TrainTask, out: Path) -> TrainTask:
    return dataclasses.replace(task, out=str(out), run_id="")


def written(folder: Path) -> bytes:
    return next(folder.glob("*/model.safetensors")).read_bytes()


def run_here(task: TrainTask) -> str:
    run_training(task, Host())
    return task.out


def test_worker_group_pool_and_this_process_agree_bit_for_bit(main: Main, joined, tmp_path: Path) -> None:
    from pipeline.on_ray.pool import WarmPool

    torch.set_num_threads(1)
    task = student_task(main)
    run_here(elsewhere(task, tmp_path / "here"))
    with WarmPool(1) as pool:
        pool.map(run_here, [elsewhere(task, tmp_path / "pool")])
    group = next(Path(task.out).glob("*/model.safetensors")).read_bytes()
    assert written(tmp_path / "here") == group
    assert written(tmp_path / "pool") == group


def test_ray_data_reads_targets_as_two_dimensional_batches(main: Main, joined) -> None:
    import ray.data

    from pipeline.artifacts.dataset import open_dataset
    from pipeline.artifacts.schemas import column

    told = summary(main.workspace / "runs" / "debug")
    dataset = open_dataset(main.workspace / "store" / "targets" / told["keys"]["targets-train"])
    first = dataset.paths[0]
    batch = next(iter(ray.data.read_parquet(first).iter_batches(batch_size=None, batch_format="numpy")))
    ours = dataset.shard(dataset.shard_ids[0])
    assert batch["logits"].dtype == np.float16
    np.testing.assert_array_equal(batch["logits"], column(ours, "logits"))


def test_more_workers_than_the_cluster_can_become_are_refused_with_the_arithmetic(main: Main) -> None:
    done = main.run("distill", train__num_workers=5, train__seed=9)
    assert done.code == 2
    assert "5 × 1 CPU" in done.err
    assert "at most 2 CPU" in done.err
