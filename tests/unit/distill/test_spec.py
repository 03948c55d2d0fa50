"""Specs travel as JSON and say what is wrong with a value."""

import json

import pytest

from pipeline.distill.data import DataSpec, SourceSpec
from pipeline.distill.spec import Job, Objective, Optimiser
from pipeline.errors import ConfigError
from tests.unit.distill.toys import job, network_spec


def test_a_job_comes_back_equal_from_real_json() -> None:
    sent = job(
        init="weights.safetensors", combinations=((1, 2), (1, 3, 4)), clip_norm=1.0, wiring="dense", lambda_corr=2.5
    )
    there = json.loads(json.dumps(sent.to_json()))
    assert Job.from_json(there) == sent
    assert Job.from_json(there).network == network_spec()


def test_a_data_spec_comes_back_equal() -> None:
    sent = DataSpec(
        "frames",
        3,
        given=(("v1", 0), ("v2", 2)),
        sources=(SourceSpec("a", "digest", class_index=(2, 0, 1)), SourceSpec("b", statistics="s")),
        keep=("v1", "v2"),
    )
    assert DataSpec.from_json(json.loads(json.dumps(sent.to_json()))) == sent
    assert DataSpec.from_json(DataSpec("frames", 3, labels="l").to_json()) == DataSpec("frames", 3, labels="l")


def test_unknown_fields_and_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"lamda_kd.*did you mean 'lambda_kd'"):
        Objective.from_json({"lamda_kd": 1})
    with pytest.raises(ConfigError, match=r"progresive.*did you mean 'progressive'"):
        job(schedule="progresive")
    with pytest.raises(ConfigError, match="known are supervised, kd, staged"):
        Objective(method="stagd")


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"lr": 0.0}, "optimiser.lr"),
        ({"clip_norm": 0.0}, "optimiser.clip_norm"),
        ({"lambda_corr": float("nan")}, "objective.lambda_corr"),
        ({"lambda_kd": -1.0}, "objective.lambda_kd"),
        ({"steps": 0}, "steps"),
        ({"share": 1.0}, "distill.share"),
        ({"temperature": 0.0}, "objective.temperature"),
        ({"label_smoothing": 1.0}, "objective.label_smoothing"),
    ],
)
def test_impossible_values_are_named(changes: dict[str, float], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        job(**changes)


def test_relational_terms_need_a_global_batch_of_eight() -> None:
    with pytest.raises(ConfigError, match=r"batch_size.*at least 8"):
        job(batch_size=7)
    assert job(batch_size=7, method="kd").batch_size == 7
    assert job(batch_size=4, lambda_corr=0.0, combinations="none").batch_size == 4
    with pytest.raises(ConfigError, match="at least 8"):
        job(batch_size=4, lambda_corr=0.0, combinations="none", distribution="mmd")


def test_a_method_has_only_its_own_terms() -> None:
    full = {"lambda_kd": 2.0, "lambda_corr": 1.0, "lambda_comb": 1.0, "lambda_dist": 1.0, "lambda_feature": 3.0}
    weights = {
        method: tuple(getattr(Objective(method=method, **full).effective, name) for name in full)
        for method in ("supervised", "kd", "staged", "sp")
    }
    assert weights == {
        "supervised": (0, 0, 0, 0, 0),
        "kd": (2, 0, 0, 0, 0),
        "staged": (2, 1, 1, 1, 0),
        "sp": (2, 0, 0, 0, 3),
    }
    assert Objective(combinations="none").effective.lambda_comb == 0
    assert Objective(distribution="none").effective.lambda_dist == 0


def test_defaults_are_those_of_the_method() -> None:
    assert Objective().to_json() == {
        "method": "staged",
        "temperature": 2.0,
        "standardize": True,
        "lambda_ce": 1.0,
        "lambda_kd": 1.0,
        "lambda_corr": 1.0,
        "lambda_comb": 0.5,
        "lambda_dist": 0.03,
        "combinations": "cumulative",
        "weighting": "ema",
        "distribution": "gaussian",
        "label_smoothing": 0.0,
        "lambda_feature": 1.0,
        "dkd_alpha": 1.0,
        "dkd_beta": 8.0,
        "dist_beta": 1.0,
        "dist_gamma": 1.0,
    }
    assert Optimiser() == Optimiser(lr=4e-2, weight_decay=0.02, warmup=0.05, clip_norm=None)
