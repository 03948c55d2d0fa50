"""A training killed by SIGKILL goes on and ends with the same bits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.distill.loop import train
from pipeline.distill.state import FolderCheckpoints
from tests.unit.distill.toys import data, equal_weights, job

# A reporter that says how far it is and waits a moment, so that the kill comes while the training is under way.
CHILD = """
import sys, time
from pathlib import Path
from pipeline.distill.loop import train
from pipeline.distill.state import FolderCheckpoints
from tests.unit.distill.toys import Recorder, data, job

class Slow(Recorder):
    def log(self, step, metrics):
        print(step, flush=True)
        time.sleep(0.05)

train(job(steps=40, schedule=sys.argv[2], checkpoint_every=4), data(), Slow(), FolderCheckpoints(Path(sys.argv[1])))
print("done", flush=True)
"""


ROOT = Path(__file__).parents[2]


def start_and_kill(folder: Path, schedule: str, after: int) -> int:
    """Run the job in a process, SIGKILL it once it reports step `after`; the last step that it reported."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), schedule], stdout=subprocess.PIPE, text=True, cwd=ROOT
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


@pytest.mark.parametrize("schedule", ["progressive"])
def test_sigkill_twice_and_the_same_weights(schedule: str, tmp_path: Path) -> None:
    first = start_and_kill(tmp_path, schedule, after=7)
    kept = sorted(path.name for path in tmp_path.glob("step-*.json"))
    assert kept, f"no checkpoint after {first} steps"
    second = start_and_kill(tmp_path, schedule, after=23)
    assert second > first
    began = time.monotonic()
    wanted = job(steps=40, schedule=schedule, checkpoint_every=4)
    resumed = train(wanted, data(), checkpoints=FolderCheckpoints(tmp_path))
    assert 20 <= resumed.metrics["resumed_at"] < 40
    assert resumed.metrics["seconds"] <= time.monotonic() - began + 1
    assert equal_weights(resumed.network, train(wanted, data()).network)
