"""Selection of a fitted teacher's best step: where asked for, in its key, on stored features too."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.flow.context import Context
from pipeline.flow.labels import refined_labels
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.precompute import frames
from pipeline.flow.step import content
from pipeline.flow.teacher import fit_step, fitted_teacher
from pipeline.flow.validated import every
from tests.unit.flow.precomputed import context as opened
from tests.unit.flow.precomputed import precompute, videos

VIEWS = {"size": [64, 64], "num_frames": 4, "train": {"views_per_clip": 2}, "eval": {"clips_per_video": 1}}
COMPACT = {"model": "compact", "options": {"widths": [2, 2, 2, 2]}}
ORDERED = {
    "model": "frame",
    "options": {"backbone": "mobilenet_v3_small", "head": "ordered", "num_frames": 4, "frozen": True},
}
Where = tuple[Path, Path]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Where:
    root, workspace = videos(tmp_path_factory.mktemp("videos"), each=8), tmp_path_factory.mktemp("workspace")
    precompute(opened(root, workspace, labels={"channel": "none"}, views=VIEWS))
    return root, workspace


def context(where: Where, network: dict[str, Any], **section: Any) -> Context:
    teacher = {**network, "fit": True, "steps": 20, "batch_size": 4, **section}
    quiet = {"labels": {"channel": "none"}, "views": VIEWS, "tracking": {"enabled": False}}
    made = opened(*where, teacher=teacher, **quiet)
    made.local = True
    return made


def fitted(where: Where, network: dict[str, Any], **section: Any) -> dict[str, Any]:
    """metrics.json of the teacher."""
    here = context(where, network, **section)
    found = scan(here)
    views = frames(here, update_plans(here, found))
    model = fitted_teacher(here, found, views, refined_labels(here, found, views))
    return dict(json.loads((content(model.folder) / "metrics.json").read_text()))


@pytest.mark.parametrize("network", [COMPACT, ORDERED], ids=["compact", "on stored features"])
def test_a_teachers_best_step_is_kept_where_that_is_asked_for(where: Where, network: dict[str, Any]) -> None:
    chosen = fitted(where, network, select="best")
    looks = {line["step"]: line for line in chosen["history"] if "val_top1" in line}
    assert set(looks) == {10, 20}
    best = max(looks, key=lambda step: (looks[step]["val_top1"], -looks[step]["val_nll"]))
    assert chosen["final"]["chosen_step"] == best
    assert chosen["final"]["val_top1"] == looks[best]["val_top1"]
    assert "chosen_step" not in fitted(where, network)["final"]


def test_what_is_looked_at_is_in_the_key_where_it_decides(where: Where) -> None:
    def key(**section: Any) -> str:
        here = context(where, COMPACT, **section)
        found = scan(here)
        return fit_step(here, found, frames(here, update_plans(here, found)), "labels").key

    assert key() == key(select="last") == key(select="auto"), "fewer than 30 validate"
    assert key(select="best") != key()


def test_a_head_that_is_fitted_without_steps_has_none_to_choose(where: Where) -> None:
    probe = {**ORDERED, "options": {**ORDERED["options"], "head": "probe"}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"teacher\.select: last"):
        fitted(where, probe, select="best")
    assert "chosen_step" not in fitted(where, probe, select="auto")["final"]


def test_validation_is_looked_at_twenty_times() -> None:
    assert [every(None, steps) for steps in (50, 700, 4000)] == [10, 35, 200]
    assert every(7, 700) == 7
