"""Two gloo processes on the halves of the same global batches train what one process trains."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.distill.loop import train
from pipeline.distill.state import FolderCheckpoints
from tests.unit.distill.toys import Recorder, data, job, network_spec, validation

# One process per rank runs all cases, as importing torch costs more than the cases do.
CASES: dict[str, dict[str, Any]] = {
    "progressive": {"schedule": "progressive", "share": 0.2},
    "frozen": {"schedule": "frozen", "share": 0.2, "weighting": "uncertainty"},
    "deep_first": {"schedule": "deep_first", "share": 0.2, "weighting": "lagging", "clip_norm": 0.5},
    "joint": {"schedule": "joint", "distribution": "mmd", "weighting": "dwa"},
    "relations only": {"schedule": "joint", "lambda_kd": 0.0},
    "dist": {"method": "dist"},
    "dense": {"wiring": "dense", "method": "kd"},
    "selected": {"schedule": "joint", "select": "best", "validate_every": 3, "ema": 0.9},
    "frozen norm": {"network": network_spec(norm="batch", frozen_norm=True)},
}
BATCH = 16
ROOT = Path(__file__).parents[2]
CHILD = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
from tests.numerics.test_distill_ranks import run_cases

rank, port, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
run_cases(rank, out)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # while the interpreter ends, torch's threads were seen to abort the process (once); all files are there
"""


def wanted(name: str) -> Any:
    return job(steps=8, batch_size=BATCH, lr=5e-3, key=name, **CASES[name])


def training_data(name: str) -> Any:
    there = data(3 if name == "dense" else 1, clips=48)
    if name == "relations only":
        there._weight[:] = 0
    else:
        there._weight[::3] = 0.25  # soft weights must average over both ranks' rows
    if name == "selected":
        there.validation = validation()
    return there


def run_cases(rank: int, out: Path) -> None:
    """What one rank does: each case whole, and once more after a stop and a resume."""
    for name in CASES:
        recorder = Recorder()
        trained = train(wanted(name), training_data(name), recorder, rank=rank, world=2)
        torch.save({"network": trained.network.state_dict(), "lines": recorder.lines}, out / f"{name}.{rank}.pt")
    store = FolderCheckpoints(out / f"checkpoints{rank}")
    train(wanted("frozen"), training_data("frozen"), Recorder(3 if rank else None), store, rank=rank, world=2)
    again = train(wanted("frozen"), training_data("frozen"), None, store, rank=rank, world=2)
    torch.save({"network": again.network.state_dict(), "metrics": again.metrics}, out / f"resumed.{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", CHILD]
    children = [subprocess.Popen([*command, str(rank), str(port), str(out)], cwd=ROOT) for rank in (0, 1)]
    assert [child.wait(timeout=240) for child in children] == [0, 0]
    return out


def loaded(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_agree_with_one_process(ranks: Path, name: str) -> None:
    recorder = Recorder()
    alone = train(wanted(name), training_data(name), recorder).network.state_dict()
    together = [loaded(ranks / f"{name}.{rank}.pt") for rank in (0, 1)]
    for key, value in alone.items():
        assert torch.equal(together[0]["network"][key], together[1]["network"][key]), f"ranks drifted apart in {key}"
        assert torch.allclose(together[0]["network"][key], value, rtol=0, atol=5e-4), key
    assert together[0]["lines"] == together[1]["lines"]
    for step in (1, 2):
        assert together[0]["lines"][step] == pytest.approx(recorder.lines[step], rel=1e-3, abs=1e-5), step
    assert together[0]["lines"][1] == pytest.approx(recorder.lines[1], rel=1e-4, abs=1e-6)


def test_one_ranks_stop_stops_both_and_the_first_ranks_checkpoint_serves_all(ranks: Path) -> None:
    resumed = [loaded(ranks / f"resumed.{rank}.pt") for rank in (0, 1)]
    whole = loaded(ranks / "frozen.0.pt")["network"]
    assert [one["metrics"]["resumed_at"] for one in resumed] == [3, 3]
    assert not (ranks / "checkpoints1").exists()
    for key, value in whole.items():
        assert torch.equal(resumed[0]["network"][key], value), key
        assert torch.equal(resumed[1]["network"][key], value), key
