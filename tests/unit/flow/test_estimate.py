"""What a job will take, worked out before it: from decoded videos and from teachers that answered."""

import os
import re
from pathlib import Path

import pytest

from jobs.bench.accelerator import MODEL
from pipeline.flow import estimate as module
from pipeline.flow.demands import ANYTHING
from pipeline.flow.dry_run import describe
from pipeline.flow.dry_sizes import Answers, ToDo, known_answers
from pipeline.flow.estimate import Estimate, Passes, Probe, estimate, expected, probe_videos
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import open_plans
from pipeline.flow.teacher import given_teachers
from pipeline.flow.teacher_times import time_teachers
from pipeline.on_ray.capacity import Capacity
from tests.unit.flow import small
from tests.unit.flow.precomputed import PLAIN, context

PROBE = Probe({"train": 3.0, "eval": 1.0}, 1000.0, 8, 0)


def slow(seconds: float, **fields: object) -> dict[str, object]:
    """A labeler that takes so long for a micro-batch (of 4 clips here)."""
    return {"model": MODEL, "labeler": True, "options": {"seconds": seconds}, **fields}


def worked_out(
    clip_seconds: float | None, capacity: Capacity = ANYTHING, passes: Passes = "one", **fields: object
) -> Estimate:
    section = {"decoders": 4, "teachers": 2, "decode_cpus": 2.0, "device": "cpu", "together": False} | fields
    recipe = small.recipe(Path("/videos"), Path("/workspace"), precompute=section)
    to_do = {"train": ToDo(1000, 4000, 4000, (4000,)), "eval": ToDo(600, 600, 600, (600,))}
    return estimate(recipe, capacity, to_do, PROBE, [Answers(20, (5,), clip_seconds)], passes)


def test_hours_are_those_of_the_slower_side() -> None:
    decoding = 1000 * 3.0 + 600 * 1.0
    slow_decoders, slow_teachers = worked_out(0.1), worked_out(2.0)
    assert slow_decoders.decode_seconds == slow_teachers.decode_seconds == decoding
    assert slow_decoders.teacher_seconds == pytest.approx(460)
    assert slow_decoders.hours == pytest.approx(decoding / 4 / 3600)
    assert slow_teachers.hours == pytest.approx(4600 * 2.0 / 2 / 3600)
    nodes = -(-10 // (os.cpu_count() or 1))  # four decoders of 2 CPUs, two teachers of 1
    assert slow_teachers.nodes == nodes
    assert slow_teachers.node_hours == pytest.approx(slow_teachers.hours * nodes)
    assert (slow_teachers.views, slow_teachers.frames_bytes, slow_teachers.targets_bytes) == (4600, 4.6e6, 230_000)
    assert "teachers 3 h of one actor, 77 min with the recipe's actors" in slow_teachers.words()


def test_actors_that_do_both_share_the_sum() -> None:
    both = worked_out(2.0, together=True)
    assert both.hours == pytest.approx((3600.0 + 4600 * 2.0) / 6 / 3600)
    assert both.nodes == -(-12 // (os.cpu_count() or 1))  # six of two CPUs
    assert worked_out(None, together=True).hours == pytest.approx(3600.0 / 6 / 3600)
    alike = {"decode_cpus": 1.0, "teacher_cpus": 1.0}
    assert worked_out(2.0, together=None, **alike) == worked_out(2.0, together=True, **alike), "networks by themselves"
    assert worked_out(2.0, together=None) == worked_out(2.0), "but not where decoders ask for two CPUs"


@pytest.mark.parametrize("together", [True, False])
def test_of_two_passes_the_first_has_decoders_alone(together: bool) -> None:
    for clip_seconds in (0.1, 2.0):
        two = worked_out(clip_seconds, passes="two", together=together)
        teachers = 4600 * clip_seconds / (6 if together else 2)
        assert two.hours == pytest.approx((3600.0 / 4 + teachers) / 3600)
    frames = worked_out(None, passes="frames", together=together)
    assert frames.hours == pytest.approx(3600.0 / 4 / 3600)
    assert frames.nodes == -(-8 // (os.cpu_count() or 1))


def test_only_actors_that_fit_are_counted() -> None:
    nine, two = Capacity(9.2, 0.0, ""), Capacity(2.0, 0.0, "")  # reading asks for its share, too
    assert worked_out(0.1, nine).hours == pytest.approx(3600.0 / 3 / 3600), "three decoders beside two teachers"
    assert worked_out(0.1, nine, together=True).hours == pytest.approx((3600.0 + 460) / 4 / 3600)
    assert worked_out(None, two, together=True).hours == pytest.approx(1.0), "one at least"
    assert worked_out(0.1, nine).nodes == -(-8 // (os.cpu_count() or 1))


def test_teachers_that_could_not_be_timed_are_left_out_and_that_is_said() -> None:
    blind = worked_out(None)
    assert blind.teacher_seconds is None
    assert blind.hours == worked_out(0.0).hours
    assert "with the recipe's decoders" in blind.words()
    assert "teachers" not in blind.words()


def test_teachers_are_timed_by_their_answers(root: Path, tmp_path: Path) -> None:
    one = context(root, tmp_path, teacher=slow(0.4, fit=False)).recipe
    two = context(root, tmp_path, teacher=slow(0.4, fit=False), precompute={"more_teachers": [slow(0.8)]}).recipe
    for recipe, least in ((one, 0.1), (two, 0.3)):
        seconds = time_teachers(recipe, ["a", "b"]).seconds
        assert seconds is not None
        assert least <= seconds < 4 * least


def test_a_network_is_timed_without_its_weights(root: Path, tmp_path: Path) -> None:
    named = {"model": "r3d_18", "weights": "KINETICS400_V1", "fit": False, "transform": {"size": [32, 32]}}
    timed = time_teachers(context(root, tmp_path, teacher=named, precompute={"device": "cpu"}).recipe, ["a", "b"])
    assert timed.why == ""
    assert 0 < (timed.seconds or 0) < 60


@pytest.mark.parametrize("options", [{}, {"new_head": True}])
def test_a_teacher_that_starts_from_a_file_is_timed_as_it_will_be_fitted(
    root: Path, tmp_path: Path, options: dict[str, bool]
) -> None:
    import torch

    from pipeline.models.registry import build_network
    from pipeline.models.spec import NetworkSpec

    shape = {"widths": [4, 8], "strides": [2, 1]}
    known = tuple("abc") if options else tuple("ab")
    torch.save(build_network(NetworkSpec("compact", known, options=shape)).body.state_dict(), tmp_path / "w.pt")
    teacher = {"model": "compact", "fit": True, "weights": str(tmp_path / "w.pt"), "options": shape | options}
    timed = time_teachers(context(root, tmp_path, teacher=teacher, precompute={"device": "cpu"}).recipe, ["a", "b"])
    assert timed.why == ""
    assert timed.each is not None
    assert (timed.each[0].logits, timed.each[0].channels) == (2, (4, 8))


@pytest.mark.parametrize(
    ("weights", "logits"), [("DEFAULT", 400), ("R3D_18_Weights.KINETICS400_V1", 400), ("KINETICS400_V9", None)]
)
def test_names_of_weights_are_looked_up_and_not_downloaded(
    root: Path, tmp_path: Path, weights: str, logits: int | None
) -> None:
    teacher = {"model": "r3d_18", "weights": weights, "fit": False, "transform": {"size": [32, 32]}}
    recipe = context(root, tmp_path, teacher=teacher, precompute={"device": "cpu"}).recipe
    timed = time_teachers(recipe, ["a", "b"])
    assert timed.refused is (logits is None)
    assert ("KINETICS400_V9" in timed.why) is timed.refused
    if logits:
        assert timed.each is not None
        assert timed.each[0].logits == logits
        known = known_answers(recipe, 2)
        assert known is not None
        assert (known[0].logits, known[0].channels) == (logits, timed.each[0].channels)


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="here is one")
def test_without_the_accelerator_it_is_said_why(root: Path, tmp_path: Path) -> None:
    recipe = context(root, tmp_path, teacher={"model": "compact", "fit": True}, precompute={"device": "cuda"}).recipe
    timed = time_teachers(recipe, ["a", "b"])
    assert timed.seconds is None
    assert "no such accelerator" in timed.why


def test_a_probe_decodes_for_real(root: Path, tmp_path: Path) -> None:
    recipe = context(root, tmp_path).recipe
    paths = [str(root / name) for name in ("c0/0.mp4", "c0/1.mp4", "c1/2.mp4")]
    told = probe_videos(recipe, paths)
    assert (told.videos, told.failed) == (3, 1)
    assert set(told.seconds) == {"train", "eval"}
    assert all(seconds > 0 for seconds in told.seconds.values())
    raster = 4 * 16 * 16 * 3
    assert raster / 10 < told.view_bytes < raster + 4000


def test_a_job_knows_what_to_expect(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = context(root, tmp_path, teacher=slow(0.4, fit=False))
    teachers = given_teachers(opened)
    work = open_plans(opened, update_plans(opened, scan(opened)), teachers)
    assert expected(opened.recipe, work.opened, teachers) is None, "not worth it for so few views"
    monkeypatch.setattr(module, "ESTIMATE_FROM", 1)
    found = expected(opened.recipe, work.opened, teachers)
    assert found is not None
    assert found.views == sum(plan.open_views for plan in work.opened) > 0
    assert found.teacher_seconds is not None
    assert found.views * 0.1 <= found.teacher_seconds < found.views * 0.4
    assert found.targets_bytes == found.views * 2 * (400 + 8)
    for plan in work.opened:  # as in the second pass of a fitted teacher
        plan.frames_done = frozenset(plan.todo)
    read = expected(opened.recipe, work.opened, teachers)
    assert read is not None
    assert (read.views, read.decode_seconds, read.frames_bytes) == (found.views, 0.0, 0.0)
    assert found.decode_seconds > 0 < found.frames_bytes
    assert read.targets_bytes == found.targets_bytes
    blind = expected(opened.recipe, work.opened, [])
    assert blind is not None
    assert (blind.teacher_seconds, blind.targets_bytes) == (None, None)


def test_each_teacher_is_counted_for_the_views_that_it_has_not_labelled(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ESTIMATE_FROM", 1)
    further = {"model": PLAIN, "labeler": True, "options": {"classes": 7}}
    opened = context(root, tmp_path, teacher=slow(0.4, fit=False), precompute={"more_teachers": [further]})
    teachers = given_teachers(opened)
    work = open_plans(opened, update_plans(opened, scan(opened)), teachers)
    both = expected(opened.recipe, work.opened, teachers)
    for plan in work.opened:
        plan.done = (frozenset(plan.todo), frozenset())
    second = expected(opened.recipe, work.opened, teachers)
    assert both is not None
    assert second is not None
    assert both.targets_bytes == both.views * 2 * (400 + 8 + 7 + 3)
    assert (second.views, second.targets_bytes) == (both.views, both.views * 2 * (7 + 3))
    assert (second.teacher_seconds or 0) < 0.1 * both.views < (both.teacher_seconds or 0)


def test_a_dry_run_tells_both_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    said = " ".join(
        describe(context(root, tmp_path / "w", teacher=slow(0.4, fit=False)).recipe, "x", probe=True).split()
    )
    assert "6 videos were decoded here, 1 failed; the teachers take 0.1" in said
    assert "of one actor, " in said
    assert "with the recipe's actors" in said
    slower = describe(context(root, tmp_path / "w", teacher=slow(4.0, fit=False)).recipe, "x", probe=True)
    assert seconds(slower) > 3 * seconds(said), "what the teachers take is in it, though their channels are not known"
    assert not (tmp_path / "w" / "store").exists()


def seconds(said: str) -> float:
    """What the recipe's actors take, as a dry run says it."""
    found = re.search(r"([0-9.]+) (s|min|h) with the recipe's actors", " ".join(said.split()))
    assert found is not None, said
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]
