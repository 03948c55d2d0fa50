"""The benches from end to end on tiny films, each with Ray sessions of its own: `--quick`, which measures nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.driver import drive

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200)]


def bench(name: str, work: Path, *more: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "jobs", "bench", "precompute", name, "--quick", "--work", str(work), *more]
    done = drive(line, timeout=900)
    assert done.code == 0, done.err[-4000:]
    assert done.out.startswith("## precompute"), done.out
    return dict(json.loads(Path(done.last).read_text()))


def test_throughput(tmp_path: Path) -> None:
    found = bench("throughput", tmp_path)
    shared, simulated = found["settings"]
    assert [shared["setting"], simulated["setting"]] == ["shared", "simulated"]
    for setting in found["settings"]:
        assert setting["equal_rows"] == 16  # pipeline and naive arm stored the same before anything was timed
        assert {run["arm"]: run["clips"] for run in setting["runs"] if run["arm"] in ("naive", "pipeline")} == {
            "naive": setting["clips"],
            "pipeline": setting["clips"],
        }
        assert setting["pipelines"][0]["cpu"]["decode child"] > 0
    rates = {run["arm"]: run["rate"] for run in shared["runs"]}
    assert list(rates) == ["decode", "teacher", "naive", "pipeline"]  # in turns, each measured once
    bound = 1 / (1 / rates["decode"] + 1 / rates["teacher"])
    assert shared["ratios"][0]["bound"] == pytest.approx(bound)
    assert shared["ratios"][0]["pipeline_by_bound"] == pytest.approx(rates["pipeline"] / bound)
    assert shared["ratios"][0]["pipeline_by_naive"] == pytest.approx(rates["pipeline"] / rates["naive"])
    arms = [run["arm"] for run in simulated["runs"]]
    assert arms == ["decode", "naive", "decode", "pipeline", "decode"]
    assert simulated["ratios"][0]["bound"] <= simulated["device_rate"]


def test_memory_then_a_resume_over_what_it_left(tmp_path: Path) -> None:
    found = bench("memory", tmp_path, "--teacher", "compact")
    assert [run["clips"] for run in found["runs"]] == [64, 64, 192]
    kinds = {"driver", "decode actor", "decode child", "teacher actor", "ray", "object store", "all together"}
    assert set(found["growth_percent"]) - {"scan and plans"} == kinds  # that one lives for seconds, and may not be seen
    assert found["runs"][0]["peaks"]["teacher actor"] > found["runs"][0]["peaks"]["decode child"]  # it loads torch
    again = bench("resume", tmp_path, "--teacher", "compact")
    assert again["noop"]["clips"] == 64
    assert not {"torch", "ray"} & set(again["noop"]["imported"])
    assert again["synthetic"]["views"] == 8192
    assert again["synthetic"]["shards"] == 4
