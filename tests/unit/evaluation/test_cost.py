import pytest
import torch

from pipeline.evaluation import cost as module
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

OPTIONS = {"widths": [4, 8], "strides": [1, 2], "depth": 1, "stem": {"kernel": [1, 3, 3], "stride": [1, 2, 2]}}


def _convolutions_by_hand() -> int:
    """Stem 3→4 over 4×8×8 places, layer 1 4→4 over the same, layer 2 4→8 over 2×4×4, head 8→3; no bias counted."""
    stem = 4 * 8 * 8 * 4 * (3 * 9)
    first = 4 * 8 * 8 * 4 * (4 * 27)
    second = 2 * 4 * 4 * 8 * (4 * 27)
    return 2 * (stem + first + second + 8 * 3)


def test_cost_of_a_compact_network():
    network = build_network(NetworkSpec("compact", classes=("a", "b", "c"), options=OPTIONS), seed=0)
    network.train()
    threads = torch.get_num_threads()
    found = module.cost(network, (4, 16, 16), repeats=5, warmup=1)
    norms = 2 * (4 + 4 + 8)
    assert found.params == 4 * 27 + 4 * 4 * 27 + 8 * 4 * 27 + norms + 8 * 3 + 3
    assert found.flops == _convolutions_by_hand()
    assert 0 < found.latency_ms < 1000
    assert (found.device, found.repeats) == ("cpu", 5)
    assert network.training
    assert torch.get_num_threads() == threads
    assert found.as_dict()["flops"] == found.flops


def test_latency_is_the_median(monkeypatch):
    times = iter([5.0, 0.001, 0.003, 0.002, 9.0])
    monkeypatch.setattr(module, "_seconds", lambda network, clip: next(times))
    found = module._median_ms(torch.nn.Identity(), torch.zeros(1), repeats=5, warmup=2)
    assert found == pytest.approx(3.0)
