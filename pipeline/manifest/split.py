"""Splits by group: no group on two sides, and a new video changes no old one."""

from collections.abc import Mapping, Sequence

from pipeline.artifacts.identity import unit_draw
from pipeline.errors import InputError
from pipeline.manifest.entries import SPLITS, Entry


def assign_splits(
    entries: Sequence[Entry],
    shares: Mapping[str, float],
    *,
    seed: int,
    val_from_train: float = 0.0,
    val_as_test: bool = False,
) -> dict[str, str]:
    """Split of every video. Given splits stay; a group without one falls by threshold on a draw from (seed, group).

    `shares`: train, val, test, which sum to 1. `val_from_train`: share of the given training groups that validate, for
    data sets whose official splits know no validation. `val_as_test`: the given validation split is the one that
    figures are quoted on, so it tests and nothing is chosen on it. InputError where a group stands on two sides, or
    where a test split is given beside one that is to be the test.
    """
    sides = _given(entries)
    if val_as_test:
        sides = _val_as_test(sides)
    given = {group: _held_out(group, split, val_from_train, seed) for group, split in sides.items()}
    drawn = {entry.group: _draw(entry.group, shares, seed) for entry in entries if entry.group not in given}
    return {entry.video_id: given.get(entry.group) or drawn[entry.group] for entry in entries}


def _given(entries: Sequence[Entry]) -> dict[str, str]:
    sides: dict[str, str] = {}
    torn_sides: dict[str, set[str]] = {}
    for entry in entries:
        if entry.split is not None and sides.setdefault(entry.group, entry.split) != entry.split:
            torn_sides.setdefault(entry.group, {sides[entry.group]}).add(entry.split)
    if torn_sides:
        torn = sorted(torn_sides)
        both = " and ".join(sorted(torn_sides[torn[0]]))
        raise InputError(
            f"{len(torn)} groups stand on two sides, for example {torn[0]!r} in {both}: videos of one group are alike, "
            "so a test on them would be too kind; give each group one split"
        )
    return sides


def _val_as_test(sides: Mapping[str, str]) -> dict[str, str]:
    both = sorted(group for group, split in sides.items() if split == "test")
    if both:
        raise InputError(
            f"manifest.split.val_as_test: {len(both)} groups have a test split of their own, for example {both[0]!r}: "
            "take their list (test.csv) away, or set val_as_test: false"
        )
    return {group: "test" if split == "val" else split for group, split in sides.items()}


def _held_out(group: str, split: str, share: float, seed: int) -> str:
    return "val" if split == "train" and unit_draw("val from train", seed, group) < share else split


def _draw(group: str, shares: Mapping[str, float], seed: int) -> str:
    draw, below = unit_draw("split", seed, group), 0.0
    for split in SPLITS:
        below += shares[split]
        if draw < below:
            return split
    return max(SPLITS, key=lambda split: shares[split])
