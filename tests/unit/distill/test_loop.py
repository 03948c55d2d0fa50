"""The loop: it learns, repeats itself bit for bit, goes on where it was stopped, and says what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.distill.loop import Trained, train
from pipeline.distill.state import FolderCheckpoints, MemoryCheckpoints, unpack
from pipeline.distill.training import Training
from pipeline.errors import ConfigError, InputError, JobError
from pipeline.models.registry import build_network
from pipeline.models.weights import save_network
from tests.unit.distill.toys import Recorder, data, equal_states, equal_weights, job, network_spec


def run(sources: int = 1, **changes: Any) -> Trained:
    return train(job(**changes), data(sources))


def test_a_supervised_job_learns() -> None:
    recorder = Recorder()
    trained = train(job(method="supervised", steps=60, lr=2e-2), data(0), recorder)
    assert recorder.lines[1]["ce"] > 1.4
    assert recorder.lines[60]["ce"] < 0.8
    assert not trained.network.training
    assert trained.steps == 60


def test_job_and_data_alone_decide_every_bit() -> None:
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = run()
    assert equal_weights(first.network, second.network)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"
    assert not equal_weights(first.network, run(seed=1).network)
    assert not equal_weights(first.network, build_network(network_spec(), 0))


def test_dropout_of_the_network_repeats_too() -> None:
    network = network_spec(dropout=0.5)
    torch.manual_seed(1)
    first = run(network=network)
    torch.manual_seed(2)
    assert equal_weights(first.network, run(network=network).network)
    assert not equal_weights(first.network, run().network)


@pytest.mark.parametrize(
    ("sources", "changes"),
    [
        (1, {"schedule": "progressive"}),
        (1, {"schedule": "frozen", "weighting": "dwa", "clip_norm": 0.5}),
        (1, {"schedule": "deep_first", "weighting": "lagging"}),
        (1, {"schedule": "joint", "weighting": "uncertainty", "network": network_spec(norm="batch", dropout=0.2)}),
        (3, {"wiring": "dense", "distribution": "moments"}),
        (0, {"method": "supervised"}),
    ],
)
def test_a_stop_at_any_step_changes_no_bit(sources: int, changes: dict[str, Any], tmp_path: Path) -> None:
    whole, there = job(**changes), data(sources)
    expected = train(whole, there)
    for stop_at in (1, 2, 3, 7, 11):
        store = FolderCheckpoints(tmp_path / str(stop_at))
        stopped = train(whole, there, Recorder(stop_at), store)
        assert stopped.steps == stop_at
        resumed = train(whole, there, Recorder(), store)
        assert resumed.metrics["resumed_at"] == stop_at
        assert equal_weights(resumed.network, expected.network), stop_at
        assert {**resumed.metrics, "seconds": 0, "resumed_at": 0} == {**expected.metrics, "seconds": 0, "resumed_at": 0}


class Crash(Recorder):
    """A reporter whose host dies once `at` steps are done."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self._at:
            raise ConnectionError("the host is gone")


def test_a_crash_after_any_step_changes_no_bit(tmp_path: Path) -> None:
    wanted, there = job(checkpoint_every=3), data()
    expected = train(wanted, there)
    for at in range(1, wanted.steps + 1):
        store = FolderCheckpoints(tmp_path / str(at))
        with pytest.raises(ConnectionError):
            train(wanted, there, Crash(at), store)
        resumed = train(wanted, there, checkpoints=store)
        assert resumed.metrics["resumed_at"] == (at - 1) // 3 * 3
        assert equal_weights(resumed.network, expected.network), at


def test_checkpoints_come_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    train(job(), data(), checkpoints=FolderCheckpoints(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["step-00000010.json", "step-00000012.json"]
    recorder = Recorder()
    again = train(job(), data(), recorder, FolderCheckpoints(tmp_path))
    assert (again.steps, again.metrics["resumed_at"], recorder.lines) == (12, 12.0, {})
    assert again.metrics["loss"] > 0, "the last figures come with the checkpoint"
    assert equal_weights(again.network, run().network)


def test_a_checkpoint_of_another_job_is_refused() -> None:
    store = MemoryCheckpoints()
    train(job(), data(), checkpoints=store)
    with pytest.raises(JobError, match="toy-key, this is other"):
        train(job(key="other"), data(), checkpoints=store)


def test_extra_parameters_stay_out_of_the_network() -> None:
    store = MemoryCheckpoints()
    trained = train(job(weighting="uncertainty"), data(), checkpoints=store)
    assert trained.network.state_dict().keys() == build_network(network_spec(), 0).state_dict().keys()
    payload = store.latest()
    assert payload is not None
    state = unpack(payload, "toy-key")
    assert {"predictors.0.weight", "policy.s", "progress.value"} <= state["loss"].keys()
    assert equal_states(state["network"], trained.network.state_dict())


def test_the_reporter_gets_parts_rate_phase_and_progress() -> None:
    recorder = Recorder()
    train(job(log_every=4, share=0.25), data(), recorder)
    assert sorted(recorder.lines) == [4, 8, 12]
    line = recorder.lines[12]
    figures = {f"{name}_{n}" for name in ("corr", "omega", "r2") for n in (1, 2, 3, 4)}
    assert line.keys() == {"loss", "ce", "kd", "corr", "comb", "dist", "lr", "phase"} | figures
    assert [recorder.lines[step]["phase"] for step in (4, 8, 12)] == [2, 3, 4]
    assert line["loss"] == pytest.approx(
        line["ce"] + line["kd"] + line["corr"] + 0.5 * line["comb"] + 0.03 * line["dist"], rel=1e-5
    )
    assert 0 < line["lr"] < recorder.lines[4]["lr"] < 4e-2
    assert 0 < line["corr_3"] < 2
    assert "corr_3" not in recorder.lines[4]


def test_log_and_checkpoint_intervals_change_no_value() -> None:
    assert equal_weights(run(log_every=1, checkpoint_every=1).network, run(log_every=100, checkpoint_every=100).network)


def frozen_after(schedule: str, steps: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights at the start and after `steps` steps of a job with phases of 3 steps."""
    network = network_spec(norm="batch")
    start = build_network(network, 0).state_dict()
    trained = train(job(schedule=schedule, share=0.25, network=network), data(), Recorder(steps), MemoryCheckpoints())
    return start, trained.network.state_dict()


def changed(start: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[1] for name in start if not torch.equal(start[name], now[name])}


def test_frozen_leaves_later_substages_untouched_until_their_phase() -> None:
    assert changed(*frozen_after("frozen", 3)) == {"stem", "layer1"}
    assert changed(*frozen_after("frozen", 6)) == {"stem", "layer1", "layer2"}
    assert changed(*frozen_after("frozen", 10)) == {"stem", "layer1", "layer2", "layer3", "layer4", "head"}


def test_deep_first_leaves_earlier_substages_untouched_statistics_included() -> None:
    assert changed(*frozen_after("deep_first", 3)) == {"layer4"}
    assert changed(*frozen_after("deep_first", 6)) == {"layer3", "layer4"}


def test_progressive_trains_everything_from_the_first_step() -> None:
    assert changed(*frozen_after("progressive", 1)) == {"stem", "layer1", "layer2", "layer3", "layer4", "head"}


def test_init_gives_the_first_weights(tmp_path: Path) -> None:
    save_network(tmp_path / "model", build_network(network_spec(), 77), {})
    barely = {"steps": 1, "lr": 1e-12, "method": "supervised"}
    given = train(job(init=str(tmp_path / "model"), **barely), data(0)).network.state_dict()
    for name, value in build_network(network_spec(), 77).state_dict().items():
        assert torch.allclose(given[name], value, atol=1e-9), name


def test_a_loss_that_is_not_finite_names_step_term_and_job() -> None:
    there = data()
    there._sources[0].logits[:] = np.nan
    with pytest.raises(JobError, match=r"job 'toy': kd is not finite at step 0 of 12"):
        train(job(), there)
    with pytest.raises(JobError, match=r"at step \d+ of 40"):
        train(job(steps=40, lr=1e9, method="supervised"), data(0))


def test_weights_that_explode_in_the_last_step_are_not_saved() -> None:
    store = MemoryCheckpoints()
    with pytest.raises(
        JobError, match=r"job 'toy': body\.stem\S+ is not finite after step 1 of 1.*lower optimiser\.lr"
    ):
        train(job(steps=1, lr=1e39, method="supervised"), data(0), checkpoints=store)
    assert store.latest() is None


def test_a_running_variance_that_is_not_finite_is_not_saved() -> None:
    training = Training(job(method="supervised", network=network_spec(norm="batch")), data(0), rank=0, world=1)
    training.check_weights()
    name, variance = next((n, value) for n, value in training.network.named_buffers() if "running_var" in n)
    variance[0] = float("inf")
    with pytest.raises(JobError, match=f"{name} is not finite after step 0 of 12"):
        training.check_weights()


def test_jobs_that_do_not_fit_their_data_are_refused() -> None:
    with pytest.raises(ConfigError, match="wiring: dense"):
        train(job(), data(2))
    with pytest.raises(ConfigError, match="no source of targets"):
        train(job(), data(0))
    with pytest.raises(ConfigError, match="40 clips"):
        train(job(batch_size=41), data())
    with pytest.raises(InputError, match="5 classes, the labels have 4"):
        train(job(method="supervised"), data(0, q=np.ones((40, 4), np.float32)))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device is cuda"):
            train(job(device="cuda"), data())


def test_bfloat16_runs_the_network_in_half_precision() -> None:
    recorder, plain = Recorder(), Recorder()
    train(job(dtype="bfloat16", steps=4), data(), recorder)
    train(job(steps=4), data(), plain)
    assert recorder.lines[1]["ce"] != plain.lines[1]["ce"]
    assert recorder.lines[1]["ce"] == pytest.approx(plain.lines[1]["ce"], rel=0.05)


def test_the_process_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    train(job(steps=4, threads=before + 1), data())
    assert torch.get_num_threads() == before


def test_sources_drop_out_by_step_and_seed() -> None:
    lines = {}
    for dropout in (0.0, 0.9):
        recorder = Recorder()
        train(job(method="kd", wiring="dense", source_dropout=dropout, steps=6), data(3), recorder)
        lines[dropout] = recorder.lines[1]["kd"]
    assert lines[0.0] != lines[0.9]


@pytest.mark.parametrize("field", ["train.batch_size", "teacher.batch_size"])
def test_too_few_clips_for_a_batch_name_the_job_and_the_field_that_decides(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"job 'toy' has 40 clips to learn from.* batch of 41: lower {field}"):
        train(job(batch_size=41, batch_field=field), data())
