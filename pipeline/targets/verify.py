"""Stored targets against what they should be: keys, values, and what is said of each view. Plain functions.

    keys        planned − quarantined − buried = stored, each once
    drawing     times, indices, crop, flip and reader of a row = those of the view drawn and decoded anew
    values      the same bits on the same class of hardware with the same torch; elsewhere within `UNITS` units in the
                last place (of a half float) of the row's largest value, the largest class equal unless it is that close

Legend: n rows, C classes, k kept logits.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

UNITS = 4
Key = tuple[str, int]
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. `clip` and `view` are empty where it is about a whole shard or file."""

    shard: str
    what: str
    clip: str = ""
    view: int | None = None

    def __str__(self) -> str:
        place = f", clip {self.clip!r}, view {self.view}" if self.clip else ""
        return f"{self.shard}{place}: {self.what}"


def check_keys(
    shard: str,
    planned: Mapping[Key, str],
    stored: Sequence[Key],
    quarantined: Collection[str],
    buried: Collection[str] = (),
) -> Iterator[Finding]:
    """`planned`: key → video of the whole shard; rows of a buried video may be there or not."""
    found = Counter(stored)
    for key, video in planned.items():
        if key not in found and video not in quarantined and video not in buried:
            yield Finding(shard, "missing: it is planned and its video is not in quarantine", *key)
        if key in found and video in quarantined:
            yield Finding(shard, f"stored, and its video {video!r} is in quarantine as well", *key)
    for key, count in found.items():
        if count > 1:
            yield Finding(shard, f"stored {count} times", *key)
        if key not in planned:
            yield Finding(shard, "stored, and never planned", *key)


def check_order(shard: str, targets: Sequence[Key], frames: Sequence[Key]) -> Iterator[Finding]:
    """Rows of targets and frames lie in the same order: training zips them."""
    if list(targets) == list(frames):
        return
    both = min(len(targets), len(frames))
    place = next((n for n in range(both) if targets[n] != frames[n]), both)
    key = targets[place] if place < len(targets) else frames[place]
    yield Finding(shard, f"rows of targets and frames differ from row {place} on", *key)


def check_drawing(shard: str, stored: Mapping[str, Any], drawn: Mapping[str, Any]) -> Iterator[Finding]:
    """A stored row against the same view drawn and decoded anew."""
    key = (stored["clip_id"], int(stored["view_id"]))
    for name, said in (("times", "seconds"), ("indices", "frames"), ("crop", "of the frame"), ("flip", "")):
        ours, theirs = np.asarray(drawn[name], np.float64), np.asarray(stored[name], np.float64)
        if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
            shown = f"{_short(theirs)} instead of {_short(ours)} {said}".rstrip()
            yield Finding(shard, f"another view than was drawn: {name} {shown}", *key)
    for name in ("video_id", "reader"):
        if stored[name] != drawn[name]:
            yield Finding(shard, f"{name} is {stored[name]!r} instead of {drawn[name]!r}", *key)


def same_bits(stored: Columns, packed: Columns, row: int, place: int) -> list[str]:
    """Names of the columns whose stored row differs from the recomputed one (of slot `place`) in any bit."""
    return [name for name in packed if not np.array_equal(stored[name][row], packed[name][place])]


def close_values(stored: Columns, outputs: Columns, row: int, place: int) -> list[str]:
    """What is not within tolerance of the recomputed float32 outputs (slot `place`), in words; [] where all is."""
    said = []
    for name, values in outputs.items():
        fresh = values[place].astype(np.float64)
        if name == "logits" and "topk_index" in stored:
            said += _close_topk(stored, fresh, row)
            continue
        kept = stored[name][row].astype(np.float64)
        room, off = tolerance(fresh), np.abs(kept - fresh).max()
        if off > room:
            said.append(f"{name} is off by {off:.4g} (allowed {room:.4g})")
        if name == "logits" and fresh[fresh.argmax()] - fresh[kept.argmax()] > room:
            said.append(f"its largest class is {kept.argmax()} instead of {fresh.argmax()}")
    return said


def tolerance(values: np.ndarray) -> float:
    """UNITS in the last place of a half float of the size of the largest value."""
    return UNITS * float(np.spacing(np.float16(min(np.abs(values).max(), 6e4))))


def _close_topk(stored: Columns, fresh: np.ndarray, row: int) -> list[str]:
    room, index = tolerance(fresh), stored["topk_index"][row].astype(np.int64)
    off = np.abs(stored["topk_logit"][row].astype(np.float64) - fresh[index]).max()
    said = [f"topk_logit is off by {off:.4g} (allowed {room:.4g})"] if off > room else []
    rest = np.delete(fresh, index)
    if rest.size and rest.max() - fresh[index].min() > room:
        said.append("a class that is larger than a kept one is not among the kept")
    for name, value in (("logit_mean", fresh.mean()), ("logit_sd", fresh.std(ddof=min(1, len(fresh) - 1)))):
        if abs(float(stored[name][row]) - value) > room:
            said.append(f"{name} is {float(stored[name][row]):.5g} instead of {value:.5g}")
    return said


def whose(packed: Columns, stored: Columns, row: int) -> int | None:
    """The slot whose recomputed values the stored row holds, if there is one: rows that were swapped."""
    for place in range(len(next(iter(packed.values())))):
        if not same_bits(stored, packed, row, place):
            return place
    return None


def _short(values: np.ndarray) -> str:
    flat = [f"{value:g}" for value in np.ravel(values)]
    return ", ".join(flat) if len(flat) <= 4 else f"{flat[0]} … {flat[-1]}"
