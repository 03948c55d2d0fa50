"""A live teacher gives what stored float32 targets give."""

import numpy as np
import torch

from pipeline.distill.live import LiveTeacher
from tests.unit.distill.toys import CLASSES, data, source, trained_teacher


def test_a_live_teacher_is_one_more_source_and_the_newest() -> None:
    teacher = trained_teacher()
    statistics = source().statistics
    live = LiveTeacher(data(1), teacher, statistics)
    assert live.clips == 40
    assert live.mean_weight == 1
    assert live.source_dims == [(5, 6, 7, 8), teacher.dims]
    assert live.statistics[1] is statistics
    (batch,) = live.batches(0, 1, batch_size=8, seed=0)
    with torch.no_grad():
        output = teacher(torch.from_numpy(batch.frames))
    assert output.logits is not None
    assert np.array_equal(batch.sources[1][0], output.logits.numpy())
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(batch.sources[1][1], output.features, strict=True))


def test_its_logits_can_be_put_in_the_order_of_the_job() -> None:
    teacher, turned = trained_teacher(), np.arange(CLASSES)[::-1]
    (plain,) = LiveTeacher(data(0), teacher).batches(0, 1, batch_size=8, seed=0)
    (batch,) = LiveTeacher(data(0), teacher, class_index=turned).batches(0, 1, batch_size=8, seed=0)
    assert np.array_equal(batch.sources[0][0], plain.sources[0][0][:, ::-1])
