"""Peak memory of driver, actors and children, over few and over many clips; from /proc, twice a second.

One clip a video, tiny films, a teacher without torch (or a tiny network): the number of rows, shards and videos is what
grows, and the pixels are small enough that 100,000 clips take minutes.

The rule, written before it was measured by: a kind of process grows by what its largest high-water mark over the many
clips lies above the *least* of those of the runs over few clips (there are three). All of them together have no such
mark: theirs is the sum of their own memory, twice a second.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jobs.bench.driver import Driven, commits, drive, forget, workspace_of
from jobs.bench.processes import STORE, WHOLE
from jobs.bench.rates import growth, least
from jobs.bench.report import finish, machine, plain_text, table
from jobs.bench.videos import Films
from jobs.bench.workload import CORES, Workload, plain_teacher, pools, torch_teacher

LOG = logging.getLogger(__name__)
SIZES, QUICK_SIZES = (2_000, 2_000, 2_000, 100_000), (64, 64, 192)
MIB = 2**20
QUARTERS = 4


@dataclass(frozen=True)
class Run:
    """One run over `clips` clips: seconds; per kind of process, in MiB, the largest high-water mark (of the object
    store and of all together the peak), peaks of its own memory, those of each quarter of the time between the first
    and the last commit; the mark of the scan before it."""

    clips: int
    seconds: float
    most: Mapping[str, float]
    peaks: Mapping[str, float]
    scan_most: float
    quarters: Sequence[Mapping[str, float]]

    @property
    def drift(self) -> dict[str, float]:
        """By how many percent each kind's peak of the last quarter lies above that of the first."""
        return growth(self.quarters[0], self.quarters[-1])


def tiny_load(work: Path, quick: bool) -> Workload:
    """1 s of 64 × 64 pixels, views of 2 frames of 16 × 16; shards of 256 clips (32 when quick)."""
    return Workload(work, Films(40, 1.0, 64, 64), (16, 16), 2, 1, slots=16, batches=2 if quick else 16)


def tiny_teacher(work: Path, name: str) -> dict[str, Any]:
    """The recipe's section of a labeler without torch, or of a network of four convolutions."""
    return (
        plain_teacher(work)[1] if name == "plain" else torch_teacher(work, "compact", 16, {"widths": [4, 8, 8, 8]})[1]
    )


def recipe_for(load: Workload, clips: int, teacher: str) -> Path:
    """A recipe over so many clips that keeps no frames."""
    pool = pools(CORES, 1, separate=teacher == "plain") | {"frames": "none"}
    return load.write(f"{teacher}-{clips}", clips, tiny_teacher(load.work, teacher), pool)


def measure(load: Workload, clips: int, teacher: str, sets: Sequence[str], every: float) -> Run:
    """Scan, then precompute from nothing."""
    recipe = recipe_for(load, clips, teacher)
    scan = drive("manifest", recipe, sets, every=min(every, 0.05), with_memory=True)  # its peak is short
    forget(workspace_of(recipe))
    driven = drive("precompute", recipe, sets, every=every, with_memory=True)
    done = commits(Path(driven.last))
    found = sum(rows for _, rows in done)
    assert found == clips, f"{found} of {clips} clips in {driven.last}"
    peaks = _mib(driven.sampler.peaks())
    most = _mib(driven.sampler.most()) | {kind: peaks[kind] for kind in (STORE, WHOLE) if kind in peaks}
    scanned = _mib(scan.sampler.most()).get("driver", 0.0)
    return Run(clips, driven.seconds, most, peaks, scanned, _quarters(driven, done[0][0], done[-1][0]))


def main(work: Path, out: Path, clips: Sequence[int] | None, teacher: str, sets: Sequence[str], *, quick: bool) -> None:
    """Measure each size, smallest first (one may be given several times), print and write."""
    facts, load = machine(), tiny_load(work, quick)
    sizes = sorted(clips or (QUICK_SIZES if quick else SIZES))
    runs = []
    for size in sizes:
        LOG.info("%d clips", size)
        runs.append(measure(load, size, teacher, sets, 0.1 if quick else 0.5))
    rise = growth(least([run.most for run in runs if run.clips == sizes[0]]), runs[-1].most)
    result = {
        "bench": "precompute memory",
        "machine": facts,
        "teacher": teacher,
        "runs": [asdict(run) | {"drift": run.drift} for run in runs],
        "growth_percent": rise,
    }
    finish(result, plain_text("precompute: memory", result, _tables(runs, rise)), out)


def _quarters(driven: Driven, first: float, last: float) -> list[dict[str, float]]:
    """Peaks per quarter of the steady time; of all of it where it is too short to be cut."""
    edges = [first + (last - first) * part / QUARTERS for part in range(QUARTERS + 1)]
    found = [_mib(driven.sampler.peaks(*span)) for span in itertools.pairwise(edges)]
    return found if all(found) else [_mib(driven.sampler.peaks())] * QUARTERS


def _mib(peaks: Mapping[str, int]) -> dict[str, float]:
    return {kind: round(size / MIB, 1) for kind, size in peaks.items() if size}


def _tables(runs: Sequence[Run], rise: Mapping[str, float]) -> list[str]:
    sizes = [f"{run.clips:,} clips" for run in runs]
    kinds = sorted(set().union(*(run.most for run in runs)))
    rows = [[kind, *(run.most.get(kind, 0.0) for run in runs), rise.get(kind, float("nan"))] for kind in kinds]
    rows.append(["driver of the scan before", *(run.scan_most for run in runs), ""])
    rows.append(["seconds of the command", *(run.seconds for run in runs), ""])
    most = table(("largest high-water mark, MiB", *sizes, "growth over the least, %"), rows)
    own = table(
        ("largest of its own memory, MiB", *sizes),
        [[kind, *(run.peaks.get(kind, 0.0) for run in runs)] for kind in kinds],
    )
    last = runs[-1]
    within = [
        [kind, *(quarter.get(kind, 0.0) for quarter in last.quarters), last.drift.get(kind, "")] for kind in kinds
    ]
    quarters = (
        f"own memory, MiB, over {last.clips:,} clips",
        *(f"quarter {n}" for n in range(1, QUARTERS + 1)),
        "drift, %",
    )
    return [most, own, table(quarters, within)]
