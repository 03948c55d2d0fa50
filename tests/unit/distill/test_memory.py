"""Batches from memory: which view, which order, which rank."""

import hashlib
import itertools

import numpy as np
import pytest

from pipeline.distill.memory import MemoryData, SourceArrays, one_hot
from pipeline.errors import ConfigError, InputError

CLIPS, VIEWS = 23, 3


def numbered(shards: int = 4) -> MemoryData:
    """Clip n, view v: its first pixel is 10·n + v, its logit too; q marks n."""
    rows = np.arange(CLIPS * VIEWS)
    names, views = np.array([f"c{n // VIEWS}" for n in rows], object), rows % VIEWS
    value = 10 * (rows // VIEWS) + views
    frames = np.zeros((len(rows), 1, 2, 2, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = value
    q = np.eye(CLIPS, dtype=np.float32)
    parts = np.array_split(np.arange(CLIPS), shards)
    keys = [(names[p[0] * VIEWS : (p[-1] + 1) * VIEWS], views[p[0] * VIEWS : (p[-1] + 1) * VIEWS]) for p in parts]
    logits = value[:, None].astype(np.float16)
    return MemoryData(
        keys, frames, q, np.arange(CLIPS) / CLIPS, [SourceArrays(logits, [2 * logits, 3 * logits])], window=2
    )


def values(data: MemoryData, start: int, stop: int, **part: int) -> list[list[int]]:
    arguments = {"batch_size": 4, "rank": 0, "world": 1, "seed": 3, **part}
    return [batch.frames[:, 0, 0, 0, 0].tolist() for batch in data.batches(start, stop, **arguments)]


def flat(batches: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(batches))


def test_an_epoch_reads_each_clip_once_in_the_view_that_its_name_gives() -> None:
    data, steps = numbered(), CLIPS // 4
    for epoch in range(4):
        seen = flat(values(data, epoch * steps, (epoch + 1) * steps))
        clips = [value // 10 for value in seen]
        assert len(set(clips)) == len(clips) == 4 * steps
        for value in seen:
            sha = int.from_bytes(hashlib.sha256(f"c{value // 10}".encode()).digest(), "big")
            assert value % 10 == (epoch + sha) % VIEWS


def test_all_views_are_seen_after_as_many_epochs() -> None:
    seen = flat(values(numbered(), 0, VIEWS * (CLIPS // 4)))
    assert len(set(seen)) > 0.9 * CLIPS * (VIEWS - 1)


def test_the_order_is_a_function_of_seed_and_step_so_a_resume_jumps() -> None:
    data = numbered()
    whole = values(data, 0, 17)
    assert whole[9:] == values(numbered(), 9, 17)
    assert whole != values(data, 0, 17, seed=4)
    assert sorted(flat(whole[:5])) != sorted(flat(whole[5:10]))


def test_ranks_take_alternate_positions_of_the_same_global_batch() -> None:
    data = numbered()
    whole = values(data, 3, 9)
    for rank in (0, 1):
        assert values(data, 3, 9, rank=rank, world=2) == [batch[rank::2] for batch in whole]


def test_rows_of_all_columns_belong_together() -> None:
    for batch in numbered().batches(0, 5, batch_size=4, seed=0):
        value = batch.frames[:, 0, 0, 0, 0].astype(np.float32)
        logits, features = batch.sources[0]
        assert np.array_equal(logits[:, 0], value)
        assert np.array_equal(features[1][:, 0], 3 * value)
        assert np.array_equal(batch.q.argmax(1), value // 10)
        assert np.allclose(batch.weight, (value // 10) / CLIPS)
        assert {logits.dtype, features[0].dtype, batch.q.dtype, batch.weight.dtype} == {np.dtype(np.float32)}
        assert batch.frames.dtype == np.uint8


def test_what_the_loop_asks() -> None:
    data = numbered()
    assert data.clips == CLIPS
    assert data.source_dims == [(1, 1)]
    assert data.statistics == [None]
    assert data.mean_weight == pytest.approx((CLIPS - 1) / 2 / CLIPS)


def test_a_clip_with_fewer_views_goes_round_its_own() -> None:
    keys = (np.array(["a", "b", "b"], object), np.array([0, 0, 1]))
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1, 1).repeat(3, -1)
    data = MemoryData([keys], frames, *one_hot(np.array([0, 1]), 2))
    seen = [set(batch.frames[:, 0, 0, 0, 0].tolist()) for batch in data.batches(0, 4, batch_size=2, seed=0)]
    assert all(0 in rows for rows in seen)
    assert [rows - {0} for rows in seen] in ([{1}, {2}, {1}, {2}], [{2}, {1}, {2}, {1}])


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="24"):
        values(numbered(), 0, 1, batch_size=24)
    with pytest.raises(ConfigError, match="multiple of the 3 workers"):
        values(numbered(), 0, 1, world=3)
    keys = (np.array(["a", "b"], object), np.array([0, 0]))
    with pytest.raises(InputError, match="weight: 1 rows were given for 2"):
        MemoryData([keys], np.zeros((2, 1, 1, 1, 3), np.uint8), np.eye(2), np.ones(1))
    with pytest.raises(InputError, match="logits of source 0"):
        MemoryData(
            [keys], np.zeros((2, 1, 1, 1, 3), np.uint8), np.eye(2), np.ones(2), [SourceArrays(np.ones((1, 2)), [])]
        )


def few(labelled: int = 4, clips: int = 22) -> MemoryData:
    """Clips of one view; the frame's value is the clip's number, and the first `labelled` of them have a label."""
    values = np.arange(clips, dtype=np.uint8).reshape(clips, 1, 1, 1, 1, 1).repeat(3, -1)
    return MemoryData.from_arrays(values, *one_hot(np.where(np.arange(clips) < labelled, 1, -1), 2))


def numbers(data: MemoryData, stop: int, **part: int) -> list[list[int]]:
    batches = data.batches(0, stop, **{"batch_size": 8, "seed": 3, "labelled_share": 0.25, **part})
    return [batch.frames[:, 0, 0, 0, 0].tolist() for batch in batches]


def test_a_labelled_share_draws_that_many_labelled_clips_into_each_batch() -> None:
    batches = numbers(few(), 18)
    assert all([n < 4 for n in batch] == [True] * 2 + [False] * 6 for batch in batches)
    assert all(len(set(batch)) == 8 for batch in batches), "one view of a clip in a batch"
    both = [n for batch in batches for n in batch]
    assert [both.count(n) for n in range(4)] == [9] * 4, "an epoch reads each labelled clip once"
    assert {both.count(n) for n in range(4, 22)} == {6}
    assert numbers(few(), 18) == batches
    assert numbers(few(), 18, seed=4) != batches


def test_ranks_share_a_labelled_share_equally() -> None:
    whole = numbers(few(), 6)
    parts = [numbers(few(), 6, rank=rank, world=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert [first[0], second[0]] == batch[:2]
        assert sorted([*first[1:], *second[1:]]) == sorted(batch[2:])


def test_a_labelled_share_that_cannot_be_filled_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"4 labelled and 4 other clips.*there are 3 and 19"):
        numbers(few(labelled=3), 1, labelled_share=0.5)
    with pytest.raises(ConfigError, match="leave labelled_share out"):
        numbers(few(labelled=22), 1)


def test_half_floats_are_known_as_such() -> None:
    half, whole = (SourceArrays(np.zeros((24, 2)), [np.zeros((24, 3), kind)]) for kind in (np.float16, np.float32))
    frames = np.zeros((24, 1, 1, 1, 1, 3), np.uint8)
    assert MemoryData.from_arrays(frames, np.eye(24), np.ones(24), [half, whole]).half_precision == [True, False]


def test_one_hot_leaves_the_unlabelled_without_weight() -> None:
    q, weight = one_hot(np.array([1, -1, 0]), 2)
    assert q.tolist() == [[0, 1], [0, 0], [1, 0]]
    assert weight.tolist() == [1, 0, 1]


def test_from_arrays_keeps_the_views_of_a_clip_together() -> None:
    frames = np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1, 1).repeat(3, -1)
    data = MemoryData.from_arrays(frames, np.eye(3), np.ones(3))
    (batch,) = data.batches(0, 1, batch_size=3, seed=0)
    assert np.array_equal(batch.frames[:, 0, 0, 0, 0] // 2, batch.q.argmax(1))
