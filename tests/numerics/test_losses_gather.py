"""Two gloo processes on halves of a batch give the gradient of one process on the whole, to 1e-12 in float64.

This file is also what the two processes run.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from pipeline.losses import (
    average_over_ranks,
    combination_losses,
    correlation_losses,
    distribution_term,
    gather_batch,
    relation_rows,
)
from pipeline.losses import (
    dist as dist_loss,
)

ROOT = Path(__file__).parents[2]
GLOBAL = 16


class Student(nn.Module):
    """Two substages of 4 and 6 channels, and 5 logits; `term` stands for extra parameters under the same averaging."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 6), nn.Linear(6, 5)
        self.term = distribution_term("gaussian", 6, 8, [0.1] * 8, [1.5] * 8, generator=generator)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))

    def forward(self, x: torch.Tensor, z1: torch.Tensor, z2: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        s1 = torch.tanh(self.first(x))
        s2 = torch.tanh(self.second(s1))
        s1, s2, logits, z1, z2, a = gather_batch([s1, s2, self.head(s2), z1, z2, a])
        rows = relation_rows([s1, s2], [z1, z2])
        relational = correlation_losses(rows).sum() + combination_losses(rows, [(1, 2)]).sum()
        return relational + dist_loss(logits, a, beta=1.0, gamma=1.0, temperature=2.0) + self.term(s2, z2).loss


def batch() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(GLOBAL, width, generator=generator, dtype=torch.float64) for width in (3, 7, 8, 5)]


def gradients(student: Student) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in student.named_parameters()}


def worker(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    student = Student()
    parallel = nn.parallel.DistributedDataParallel(student)  # held by a name: its hooks die with it
    loss = parallel(*(part[rank::world] for part in batch()))
    loss.backward()
    shared = average_over_ranks(torch.tensor([1.0, 4.0 * rank]))
    torch.save({"loss": loss.detach(), "shared": shared, **gradients(student)}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    running = [subprocess.Popen([*command, str(rank)], env=environment, cwd=ROOT) for rank in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]

    student = Student()
    loss = student(*batch())
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.pop("shared").tolist() == [1.0, 2.0]
        torch.testing.assert_close(found.pop("loss"), loss.detach(), rtol=0, atol=1e-12)
        for name, expected in gradients(student).items():
            assert expected.abs().max() > 1e-6, f"{name} is not tested: its gradient is 0"
            torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12, msg=name)


if __name__ == "__main__":
    worker(int(sys.argv[2]), 2, Path(sys.argv[1]))
