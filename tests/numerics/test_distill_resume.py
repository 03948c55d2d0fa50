"""A training killed by SIGKILL goes on and ends with the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.distill.loop import train
from pipeline.distill.memory import MemoryData
from pipeline.distill.spec import Job
from pipeline.distill.state import FolderCheckpoints
from tests.unit.distill.toys import data, equal_weights, job, network_spec, validation

# A reporter that says how far it is and waits a moment, so that the kill comes while the training is under way.
CHILD = """
import sys, time
from pathlib import Path
from pipeline.distill.loop import train
from pipeline.distill.state import FolderCheckpoints
from tests.numerics.test_distill_resume import training_data, wanted
from tests.unit.distill.toys import Recorder

class Slow(Recorder):
    def log(self, step, metrics):
        print(step, flush=True)
        time.sleep(0.05)

train(wanted(sys.argv[2]), training_data(), Slow(), FolderCheckpoints(Path(sys.argv[1])))
print("done", flush=True)
"""
CASES: dict[str, dict[str, Any]] = {
    "progressive": {"schedule": "progressive"},
    "selected": {"select": "best", "validate_every": 5, "ema": 0.9, "network": network_spec(norm="batch"), "lr": 0.05},
}


def wanted(case: str) -> Job:
    return job(steps=40, checkpoint_every=4, **CASES[case])


def training_data() -> MemoryData:
    held = data()
    held.validation = validation()
    return held


ROOT = Path(__file__).parents[2]


def start_and_kill(folder: Path, case: str, after: int) -> int:
    """Run the job in a process, SIGKILL it once it reports step `after`; the last step that it reported."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), case], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    last = 0
    for line in child.stdout:
        assert line.strip() != "done", "killed too late"
        last = int(line)
        if last >= after:
            break
    child.kill()
    assert child.wait() == -signal.SIGKILL
    return last


@pytest.mark.parametrize("case", CASES)
def test_sigkill_twice_and_the_same_weights(case: str, tmp_path: Path) -> None:
    first = start_and_kill(tmp_path, case, after=7)
    kept = sorted(path.name for path in tmp_path.glob("step-*.json"))
    assert kept, f"no checkpoint after {first} steps"
    second = start_and_kill(tmp_path, case, after=23)
    assert second > first
    began = time.monotonic()
    resumed = train(wanted(case), training_data(), checkpoints=FolderCheckpoints(tmp_path))
    assert 20 <= resumed.metrics["resumed_at"] < 40
    assert resumed.metrics["seconds"] <= time.monotonic() - began + 1
    whole = train(wanted(case), training_data())
    assert equal_weights(resumed.network, whole.network)
    assert resumed.metrics.get("chosen_step") == whole.metrics.get("chosen_step")
