"""Photometric augmentation: the same for any number of ranks, off when it is 0, and only the light."""

import numpy as np
import pytest
import torch

from pipeline.distill.augment import photometric, positions
from pipeline.distill.loop import train
from pipeline.distill.spec import Augment
from pipeline.errors import ConfigError
from tests.unit.distill.toys import data, equal_weights, job

FRAMES = torch.from_numpy(np.random.default_rng(0).integers(60, 190, (8, 3, 6, 6, 3), np.uint8))


def seen(spec: Augment, rank: int = 0, world: int = 1, *, drawn: int | None = None, step: int = 4) -> torch.Tensor:
    place = positions(8, drawn, rank, world)
    return photometric(FRAMES[place], spec, place, seed=3, step=step)


def test_off_is_the_same_tensor_and_the_same_training() -> None:
    assert seen(Augment()) is not None
    assert torch.equal(seen(Augment()), FRAMES)
    plain = train(job(), data()).network
    assert equal_weights(train(job(augment=Augment()), data()).network, plain)
    assert not equal_weights(train(job(augment=Augment(brightness=0.2)), data()).network, plain)


@pytest.mark.parametrize("drawn", [None, 4])
def test_ranks_see_what_one_process_sees(drawn: int | None) -> None:
    spec = Augment(0.1, 0.2, 0.05)
    whole = seen(spec, drawn=drawn)
    for rank in (0, 1):
        place = positions(8, drawn, rank, 2)
        assert torch.equal(seen(spec, rank, 2, drawn=drawn), whole[place])
    both = np.concatenate([positions(8, drawn, rank, 2) for rank in (0, 1)])
    assert sorted(both.tolist()) == list(range(8))


def test_brightness_shifts_and_contrast_stretches_a_whole_clip_alike() -> None:
    lighter = seen(Augment(brightness=0.1)).float() - FRAMES.float()
    for clip in lighter:
        assert clip.std() < 0.5, "one shift for all pixels and frames"
        assert clip.abs().max() <= 0.1 * 255 + 1
    assert len({round(float(clip.mean())) for clip in lighter}) > 4, "each clip by a draw of its own"
    stark = seen(Augment(contrast=0.2)).float()
    for clip, before in zip(stark, FRAMES.float(), strict=True):
        ratio = clip.std() / before.std()
        assert 0.78 < ratio < 1.22
        assert abs(clip.mean() - before.mean()) < 1
    assert not torch.equal(seen(Augment(contrast=0.2)), seen(Augment(contrast=0.2), step=5))


def test_strengths_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.augment\.noise"):
        Augment(noise=1.0)
