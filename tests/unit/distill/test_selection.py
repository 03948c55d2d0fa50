"""The best step on validation: judged on statistics taken anew, kept over kills, and invisible to the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData
from pipeline.distill.selection import NORM_BATCHES, Selection, judge, recalibrate
from pipeline.distill.spec import Job
from pipeline.distill.state import FolderCheckpoints, MemoryCheckpoints, unpack
from pipeline.errors import ConfigError, JobError
from pipeline.models.registry import build_network
from tests.unit.distill.toys import (
    Recorder,
    arrays,
    data,
    equal_states,
    equal_weights,
    job,
    network_spec,
    source,
    validation,
)

VIDEOS = 15


def judged_data() -> MemoryData:
    held = MemoryData.from_arrays(**arrays(), sources=[source()])
    held.validation = validation()
    return held


def batch_norm_job(norm: str = "batch", **changes: Any) -> Job:
    return job(
        **{
            "select": "best",
            "validate_every": 4,
            "steps": 24,
            "lr": 0.05,
            "network": network_spec(norm=norm),
            **changes,
        }
    )


def test_the_network_that_is_kept_is_the_best_one_as_it_was_judged() -> None:
    recorder = Recorder()
    kept = train(batch_norm_job(), judged_data(), recorder)
    looks = {step: line for step, line in recorder.lines.items() if "val_top1" in line}
    assert sorted(looks) == [4, 8, 12, 16, 20, 24]
    best = max(looks, key=lambda step: (looks[step]["val_top1"], -looks[step]["val_nll"]))
    assert kept.metrics["chosen_step"] == best
    assert kept.metrics["val_top1"] == looks[best]["val_top1"]
    held = validation()
    with torch.inference_mode():
        logits = kept.network(torch.from_numpy(held.frames)).logits
    assert logits is not None
    mean = logits.double().softmax(1).reshape(VIDEOS, 2, -1).mean(1).numpy()
    assert (mean.argmax(1) == held.labels).mean() == pytest.approx(looks[best]["val_top1"])
    assert -np.log(mean[np.arange(VIDEOS), held.labels]).mean() == pytest.approx(looks[best]["val_nll"], rel=1e-5)


def test_training_goes_on_as_if_nobody_had_looked() -> None:
    watched, alone = Recorder(), Recorder()
    train(batch_norm_job(), judged_data(), watched)
    train(batch_norm_job(select="last"), judged_data(), alone)
    assert [line["loss"] for line in watched.lines.values()] == [line["loss"] for line in alone.lines.values()]


@pytest.mark.parametrize("stop", [7, 13])
def test_stopped_and_resumed_it_keeps_the_same_network(stop: int, tmp_path: Path) -> None:
    whole = train(batch_norm_job(), judged_data())
    store = FolderCheckpoints(tmp_path)
    train(batch_norm_job(), judged_data(), Recorder(stop_at=stop), store)
    resumed = train(batch_norm_job(), judged_data(), Recorder(), store)
    assert resumed.metrics["resumed_at"] == stop
    assert equal_weights(resumed.network, whole.network)
    assert resumed.metrics["chosen_step"] == whole.metrics["chosen_step"]


def test_patience_ends_a_training_and_a_resume_does_not_go_on(tmp_path: Path) -> None:
    never_better = batch_norm_job(patience=2, lr=1e-30, norm="group")
    store = FolderCheckpoints(tmp_path)
    ended = train(never_better, judged_data(), None, store)
    assert ended.steps < 24
    again = train(never_better, judged_data(), None, store)
    assert (again.steps, again.metrics["chosen_step"]) == (ended.steps, ended.metrics["chosen_step"])
    assert equal_weights(again.network, ended.network)


class AllCheckpoints(MemoryCheckpoints):
    """Remembers the weights after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, torch.Tensor]] = []

    def save(self, step: int, payload: bytes) -> None:
        super().save(step, payload)
        self.weights.append(unpack(payload, "toy-key")["network"])


def test_the_moving_average_is_of_the_weights_after_each_step() -> None:
    store, task = AllCheckpoints(), job(ema=0.8, checkpoint_every=1, steps=6, lr=0.05)
    kept = train(task, data(), None, store).network.state_dict()
    wanted = store.weights[0]
    for later in store.weights[1:]:
        wanted = {name: 0.8 * value + 0.2 * later[name] for name, value in wanted.items()}
    assert len(store.weights) == 6
    for name, value in wanted.items():
        torch.testing.assert_close(kept[name], value)
    assert not equal_states(kept, store.weights[-1])


def test_the_average_is_what_is_judged_and_a_resume_keeps_it(tmp_path: Path) -> None:
    task, recorder, plain = batch_norm_job(ema=0.9), Recorder(), Recorder()
    whole = train(task, judged_data(), recorder)
    train(batch_norm_job(), judged_data(), plain)
    assert [line["loss"] for line in recorder.lines.values()] == [line["loss"] for line in plain.lines.values()]
    assert recorder.lines[24]["val_nll"] != plain.lines[24]["val_nll"]
    store = FolderCheckpoints(tmp_path)
    train(task, judged_data(), Recorder(stop_at=13), store)
    resumed = train(task, judged_data(), Recorder(), store)
    assert resumed.metrics["resumed_at"] == 13
    assert equal_weights(resumed.network, whole.network)


def test_the_last_step_keeps_its_running_statistics_unless_it_is_asked_for_new_ones() -> None:
    lagging = train(batch_norm_job(select="last"), judged_data()).network
    anew = train(batch_norm_job(select="last", recalibrate_norm=True), judged_data()).network
    assert not equal_weights(lagging, anew)
    recalibrate(batch_norm_job(), lagging, judged_data())
    assert equal_weights(lagging, anew)


@pytest.mark.parametrize("how", [{"select": "best"}, {"ema": 0.5}, {"recalibrate_norm": True}])
def test_statistics_that_overflow_when_they_are_taken_anew_are_not_saved(how: dict[str, Any]) -> None:
    exploding = batch_norm_job(steps=1, lr=1e10, method="supervised", validate_every=1, **{"select": "last", **how})
    with pytest.raises(JobError, match=r"job 'toy': body\.\S+\.running_\w+ is not finite after step 1 of 1"):
        train(exploding, judged_data())


def test_a_network_whose_validation_logits_are_no_numbers_is_not_the_best() -> None:
    store = MemoryCheckpoints()
    exploding = batch_norm_job(steps=1, lr=1e20, method="supervised", validate_every=1)
    with pytest.raises(JobError, match=r"job 'toy': the logits of validation are not finite after step 1 of 1"):
        train(exploding, judged_data(), checkpoints=store)
    assert store.latest() is None


def test_an_untrained_head_is_not_judged() -> None:
    recorder = Recorder()
    train(batch_norm_job(schedule="frozen", share=0.2, validate_every=1), judged_data(), recorder)
    assert [step for step, line in recorder.lines.items() if "val_top1" in line] == list(range(13, 25))


def test_statistics_are_taken_anew_over_whole_batches_without_a_step() -> None:
    held, task = judged_data(), batch_norm_job()
    network = build_network(task.network, 0)
    norm = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d))
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    norm.running_mean.fill_(99.0)  # type: ignore[union-attr]
    before = [value.clone() for value in network.parameters()]
    recalibrate(task, network, held)
    hook.remove()
    assert len(seen) == NORM_BATCHES
    mean = torch.stack([batch.mean((0, 2, 3, 4)) for batch in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean)
    assert norm.momentum == 0.1
    assert network.training
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_lagging_statistics_do_not_decide() -> None:
    """Of a network whose running statistics are far off, evaluation is chance; judged anew it is what it can do."""
    held, task = judged_data(), batch_norm_job(select="last", steps=60)
    network = train(task, held).network
    good = judge(task, network, held, validation())[0]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.add_(50.0)  # type: ignore[union-attr]
    with torch.inference_mode():
        off = network(torch.from_numpy(validation().frames)).logits
    assert off is not None
    assert (off.argmax(1).numpy() == validation().labels[validation().row_of]).mean() < good
    assert judge(task, network, held, validation())[0] == good


def test_of_equally_right_networks_the_surer_one_is_kept() -> None:
    kept = Selection()
    for step, top1, nll in ((1, 0.5, 1.0), (2, 0.5, 0.9), (3, 0.5, 0.95), (4, 0.4, 0.1)):
        kept.offer(step, top1, nll, {})
    assert (kept.step, kept.since) == (2, 2)
    assert kept.exhausted(2)
    assert not kept.exhausted(3)
    assert not kept.exhausted(None)


def test_without_validation_nothing_can_be_selected() -> None:
    with pytest.raises(ConfigError, match="select: last"):
        train(batch_norm_job(), data())
