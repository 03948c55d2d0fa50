import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.order import (
    ClipIndex,
    clip_index,
    common_rows,
    epoch_order,
    rows_of_epoch,
    steps_per_epoch,
    training_order,
    view_of,
)
from pipeline.errors import ConfigError, InputError


def shard(*clips: str, views: int = 2) -> tuple[np.ndarray, np.ndarray]:
    names = np.array([clip for clip in clips for _ in range(views)], dtype=object)
    return names, np.tile(np.arange(views, dtype=np.int32), len(clips))


def many(sizes: list[int], views: int = 2) -> ClipIndex:
    return clip_index([shard(*(f"s{s}c{c}" for c in range(size)), views=views) for s, size in enumerate(sizes)])


def test_the_order_never_changes() -> None:
    assert epoch_order([3, 2, 4], seed=7, epoch=0, window=2).tolist() == [7, 8, 6, 3, 5, 4, 1, 2, 0]
    assert epoch_order([3, 2, 4], seed=7, epoch=1, window=2).tolist() == [0, 1, 3, 2, 4, 8, 6, 7, 5]


@given(
    sizes=st.lists(st.integers(0, 9), max_size=12),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 99),
    window=st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_a_permutation_that_holds_few_shards_at_a_time(
    sizes: list[int], seed: int, epoch: int, window: int
) -> None:
    order = epoch_order(sizes, seed=seed, epoch=epoch, window=window)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    owner = np.repeat(np.arange(len(sizes)), sizes)[order]
    places = {s: np.flatnonzero(owner == s) for s in np.unique(owner)}
    for place in range(len(order)):
        open_now = [s for s, found in places.items() if found[0] <= place <= found[-1]]
        assert len(open_now) <= window
    np.testing.assert_array_equal(order, epoch_order(sizes, seed=seed, epoch=epoch, window=window))


def test_seeds_and_epochs_differ_and_empty_shards_change_nothing() -> None:
    orders = [epoch_order([20, 20], seed=s, epoch=e).tolist() for s in (0, 1) for e in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order([0, 20, 0, 20, 0], seed=0, epoch=0).tolist() == orders[0]


def test_every_clip_may_come_first() -> None:
    firsts = np.array([epoch_order([2, 3, 3], seed=s, epoch=0, window=1)[0] for s in range(1200)])
    counts = np.bincount(firsts, minlength=8)
    expected = 400 / np.repeat([2, 3, 3], [2, 3, 3])
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_the_view_is_that_of_the_contract_and_each_is_seen_once_in_v_epochs() -> None:
    shift = int(hashlib.sha256(b"v17#random1of1").hexdigest(), 16)
    assert [view_of("v17#random1of1", epoch, 4) for epoch in range(5)] == [(e + shift) % 4 for e in range(5)]
    index = many([5, 1, 4], views=3)
    rows = np.concatenate([rows_of_epoch(index, seed=1, epoch=e) for e in range(3)])
    assert sorted(rows.tolist()) == list(range(30))


def test_rows_of_an_epoch_are_the_views_of_the_ordered_clips() -> None:
    sizes = [3, 2]
    index = many(sizes)
    clips = [f"s{s}c{c}" for s, size in enumerate(sizes) for c in range(size)]
    rows = rows_of_epoch(index, seed=3, epoch=5)
    expected = [2 * p + view_of(clips[p], 5, 2) for p in epoch_order(sizes, seed=3, epoch=5)]
    assert rows.tolist() == expected
    ordinals, local = index.locate(rows)
    assert (ordinals == (rows >= 6)).all()
    assert (local == rows - 6 * (rows >= 6)).all()


def test_ranks_share_a_global_batch_and_a_resume_jumps_to_its_place() -> None:
    index = many([5, 4, 2])
    whole = list(training_order(index, 0, 9, batch_size=4, rank=0, world=1, seed=2, window=2))
    assert len(whole) == 9
    for epoch in range(4):
        rows = rows_of_epoch(index, seed=2, epoch=epoch, window=2)
        for step in range(2):
            if 2 * epoch + step < 9:
                np.testing.assert_array_equal(whole[2 * epoch + step], rows[4 * step : 4 * step + 4])
    halves = [list(training_order(index, 0, 9, batch_size=4, rank=r, world=2, seed=2, window=2)) for r in (0, 1)]
    for step in range(9):
        np.testing.assert_array_equal(halves[0][step], whole[step][0::2])
        np.testing.assert_array_equal(halves[1][step], whole[step][1::2])
    for start, stop in [(3, 9), (4, 5), (0, 0), (5, 5), (7, 9)]:
        part = list(training_order(index, start, stop, batch_size=4, rank=0, world=1, seed=2, window=2))
        assert len(part) == stop - start
        assert all((a == b).all() for a, b in zip(part, whole[start:stop], strict=True))


def test_batches_that_do_not_fit_are_refused() -> None:
    index = many([3])
    with pytest.raises(ConfigError, match="only 3 clips"):
        next(training_order(index, 0, 1, batch_size=4, rank=0, world=1, seed=0))
    with pytest.raises(ConfigError, match="multiple of the 2 workers"):
        next(training_order(index, 0, 1, batch_size=3, rank=0, world=2, seed=0))
    assert steps_per_epoch(11, 4) == 2


def test_rows_that_are_no_shard_of_a_plan_are_refused() -> None:
    clips, views = shard("a", "b")
    mixed = [0, 2, 1, 3]
    with pytest.raises(InputError, match="clip 'a' lies in two places"):
        clip_index([(clips[mixed], views[mixed])])
    with pytest.raises(InputError, match="'b' lies in two places"):
        clip_index([shard("a", "b"), shard("b")])
    with pytest.raises(InputError, match="clip 'a' are not in ascending order"):
        clip_index([(clips, views[::-1])])


def test_shards_without_rows_keep_their_place() -> None:
    index = clip_index([shard(), shard("a"), shard(), shard("b", "c")])
    assert index.shard_clips.tolist() == [0, 1, 0, 2]
    assert index.locate(np.array([0, 1, 2, 5]))[0].tolist() == [1, 1, 3, 3]
    assert clip_index([]).clips == 0


def test_common_rows_are_those_that_all_sides_have_in_the_order_of_the_first() -> None:
    frames, targets = shard("a", "b", "c"), shard("c", "a", "d")
    rows = common_rows([frames, targets])
    assert [r.tolist() for r in rows] == [[0, 1, 4, 5], [2, 3, 0, 1]]
    kept = [(names[r].tolist(), views[r].tolist()) for (names, views), r in zip((frames, targets), rows, strict=True)]
    assert kept[0] == kept[1]
    assert [r.tolist() for r in common_rows([frames])] == [list(range(6))]
    with pytest.raises(InputError, match="2 keys twice"):
        common_rows([frames, shard("a", "a")])
