"""The gather in one process; tests/numerics compares two."""

import torch

from pipeline.losses import average_over_ranks, gather_batch


def test_alone_everything_comes_back_with_its_graph() -> None:
    z, a = torch.randn(4, 3, requires_grad=True), torch.randn(4, 2)
    out = gather_batch([z, a])
    assert out[0] is z
    assert out[1] is a
    assert gather_batch([]) == []


def test_half_precision_is_widened() -> None:
    z = torch.randn(4, 3).half().requires_grad_()
    (wide,) = gather_batch([z])
    assert wide.dtype == torch.float32
    wide.sum().backward()
    assert torch.equal(z.grad, torch.ones(4, 3).half())


def test_the_average_over_one_rank_is_detached() -> None:
    value = torch.tensor([2.0], requires_grad=True)
    assert average_over_ranks(value).tolist() == [2.0]
    assert not average_over_ranks(value).requires_grad
