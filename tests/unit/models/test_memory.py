"""Memory that torch frees stays with the process; measured in processes of their own."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, sys
if sys.argv[1] == "kept":
    from pipeline.models.memory import keep_memory
    keep_memory()
import torch
torch.set_num_threads(1)
x = torch.rand(8, 8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
net = torch.nn.Sequential(*(torch.nn.Conv3d(8, 8, 3, padding=1) for _ in range(3)))
for weights in net.parameters():
    torch.nn.init.constant_(weights, 0.01)
def forward():
    with torch.inference_mode():
        return float(net(x * 1.5).double().sum())
for _ in range(5):  # until the process has what it needs
    forward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = [forward() for _ in range(5)]
print(json.dumps({"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, "total": total}))
"""


def measured(kind: str) -> dict[str, object]:
    run = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(run.stdout)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_the_pages_of_freed_tensors_are_used_again_and_values_do_not_change() -> None:
    kept, plain = measured("kept"), measured("plain")
    assert kept["total"] == plain["total"]
    pages = 5 * 3 * 8 * 8 * 4 * 64 * 64 * 4 // 4096  # of the activations of five forwards
    assert int(str(kept["faults"])) < int(str(plain["faults"])) // 4
    assert int(str(plain["faults"])) > pages // 2, (
        "the allocator keeps memory by itself: keep_memory is not needed here"
    )
