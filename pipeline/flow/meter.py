"""What a precompute job does while it runs and what it did in the end: progress, metrics, the summary's numbers."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.artifacts.patience import Retries
from pipeline.flow.dry_sizes import duration, size
from pipeline.flow.estimate import Estimate
from pipeline.targets.committer import Tally

if TYPE_CHECKING:
    from pipeline.on_ray.metrics import Metrics
    from pipeline.on_ray.precompute import Pools

LOG = logging.getLogger(__name__)
SAY_EVERY, SHOW_EVERY = 10.0, 2.0


@dataclass
class Meter:
    """Adds up what the rows tell. `views`: how many are to do; `tallies`: what the committers committed.

    On a terminal a bar, otherwise a line every ten seconds; both with rate, time left and quarantined videos.
    """

    step: str
    views: int
    tallies: Sequence[Tally]
    estimate: Estimate | None = None
    metered: bool = True
    rows: int = 0
    clips: int = 0
    decode_s: float = 0.0
    teacher_s: float = 0.0
    idle_s: float = 0.0
    retries: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    open_shards: int = 0
    most_open: int = 0
    seconds: float = 0.0
    pools: "Pools | None" = None
    _began: float = 0.0
    _retried: int = 0  # by this process before the graph
    _first: tuple[int, float] | None = None  # clips and seconds when the first micro-batch was done
    _said: float = 0.0
    _shown: float = 0.0
    _metrics: "Metrics | None" = None
    _bar: Any = None
    _task: Any = field(default=None, repr=False)

    def begin(self, pools: "Pools") -> None:
        """The graph starts now."""
        self.pools = pools
        self._began = self._said = time.monotonic()
        self._retried = Retries.count
        if self.metered:
            from pipeline.on_ray.metrics import Metrics

            self._metrics = Metrics(self.step)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar, self._task = _bar(self.step, self.views)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, row: Mapping[str, Any], clips: int, open_shards: int) -> None:
        """A finished micro-batch of `clips` views; `open_shards` are partly there."""
        self.rows += 1
        self.clips += clips
        self.decode_s += float(row.get("decode_s", 0.0))
        self.teacher_s += float(row.get("teacher_s", 0.0))
        self.idle_s += float(row.get("idle_s", 0.0))
        self.retries += int(row.get("retries", 0))
        self.in_flight = max(0, int(row.get("in_flight", 1)) - 1)  # without this one
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.open_shards, self.most_open = open_shards, max(self.most_open, open_shards)
        now = time.monotonic()
        self._first = self._first or (self.clips, now - self._began)
        self._tell(now)

    @property
    def quarantined(self) -> Counter[str]:
        """Videos by reason; one that stands in both plans is one video."""
        return Counter({video: why for tally in self.tallies for video, why in tally.quarantined.items()}.values())

    @property
    def waited_share(self) -> float:
        """Share of the time of the teacher's actors in which they had nothing to do."""
        whole = self.idle_s + self.teacher_s + (self.decode_s if self._together else 0.0)
        return self.idle_s / whole if whole else 0.0

    @property
    def all_retries(self) -> int:
        """By the decode actors, and by this process as it commits."""
        return self.retries + Retries.count - self._retried

    def finish(self) -> dict[str, Any]:
        """The numbers of the whole job, shown one last time."""
        self._tell(time.monotonic(), last=True)
        return self.numbers()

    def numbers(self) -> dict[str, Any]:
        """As the summary holds them; seconds of decoding and of teachers are sums over all actors."""
        videos = sum(tally.videos for tally in self.tallies)
        done: dict[str, Any] = {
            "step": self.step,
            "shards": sum(tally.shards for tally in self.tallies),
            "videos": videos,
            "views": sum(tally.views for tally in self.tallies),
            "quarantined": dict(self.quarantined),
            "micro_batches": self.rows,
            "seconds": round(self.seconds, 3),
            "clips_per_second": round(self.rate, 3),
            "decode_seconds": round(self.decode_s, 3),
            "teacher_seconds": round(self.teacher_s, 3),
            "teacher_waited_share": round(self.waited_share, 4),
            "decode_busy_share": round(self._busy, 4),
            "max_open_shards": self.most_open,
            "max_in_flight": self.most_in_flight,
            "retries": self.all_retries,
            "halved_shards": sum(tally.halved for tally in self.tallies),
            "bytes": {
                "frames": sum(tally.frames_bytes for tally in self.tallies),
                "targets": sum(tally.targets_bytes for tally in self.tallies),
            },
        }
        return done | ({"estimate": self.estimate.to_json()} if self.estimate else {})

    @property
    def rate(self) -> float:
        return self.clips / self.seconds if self.seconds else 0.0

    @property
    def pace(self) -> float:
        """Clips per second since the first micro-batch was done: actors start in seconds, which say nothing of what is
        left. 0 until a second one is done."""
        clips, seconds = self._first or (0, 0.0)
        return (self.clips - clips) / (self.seconds - seconds) if self.seconds > seconds else 0.0

    @property
    def _together(self) -> bool:
        return self.pools is not None and self.pools.together

    @property
    def _busy(self) -> float:
        """Share of the decoding actors' time in which they were at work; labelling, too, where they do both."""
        seconds = self.decode_s + (self.teacher_s if self._together else 0.0)
        actors = self.pools.decode.count if self.pools else 1
        return seconds / (actors * self.seconds) if self.seconds else 0.0

    def _tell(self, now: float, *, last: bool = False) -> None:
        self.seconds = now - self._began
        if self._bar is not None:
            self._bar.update(self._task, completed=self.clips, told=self._told())
        elif last or now - self._said >= SAY_EVERY:
            self._said = now
            LOG.info("%s: %d of %d views, %s", self.step, self.clips, self.views, self._told())
        if self._metrics is not None and (last or now - self._shown >= SHOW_EVERY):
            self._shown = now
            self._metrics.show(self._values(), self.quarantined)

    def _told(self) -> str:
        bad = sum(self.quarantined.values())
        pace = self.pace if self.clips < self.views else self.rate  # in the end the whole job's, as in the summary
        left = duration((self.views - self.clips) / pace) if pace else "some time"
        return f"{pace:.3g} clips/s, {left} left" + (f", {bad} videos in quarantine" if bad else "")

    def _values(self) -> dict[str, float]:
        return {
            "clips_per_second": self.rate,
            "in_flight": float(self.in_flight),
            "open_shards": float(self.open_shards),
            "teacher_waited_share": self.waited_share,
            "clips_total": float(self.clips),
            "decode_seconds_total": self.decode_s,
            "teacher_seconds_total": self.teacher_s,
            "retries_total": float(self.all_retries),
        }


def table(numbers: Mapping[str, Any]) -> str:
    """The summary of a job for people, the estimate beside what it was."""
    written = numbers["bytes"]
    rows = [
        ("videos", f"{numbers['videos']:,} ({numbers['views']:,} views in {numbers['shards']:,} shards)"),
        ("time", f"{duration(numbers['seconds'])}, {numbers['clips_per_second']:.3g} clips/s"),
        ("decoding", f"{duration(numbers['decode_seconds'])}, actors busy {numbers['decode_busy_share']:.0%}"),
        ("teachers", f"{duration(numbers['teacher_seconds'])}, waited {numbers['teacher_waited_share']:.0%}"),
        ("written", f"frames {size(written['frames'])}, targets {size(written['targets'])}"),
        ("open shards", f"at most {numbers['max_open_shards']}"),
        ("on the way", f"at most {numbers['max_in_flight']} micro-batches"),
        ("retries", f"{numbers['retries']}; {numbers['halved_shards']} shards with a halved micro-batch"),
        ("quarantine", ", ".join(f"{n} {reason}" for reason, n in numbers["quarantined"].items()) or "none"),
    ]
    rows += [("top-k", kept["says"]) for kept in numbers.get("top_k", ())]
    if "estimate" in numbers:
        rows.append(("estimated", Estimate(**numbers["estimate"]).words()))
    return "\n".join(f"  {name:<12} {said}" for name, said in rows)


def summary_path(folder: Path) -> Path:
    """Where a run's numbers lie."""
    return folder / "precompute.json"


def _bar(step: str, views: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(step), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
    progress = Progress(*columns, console=Console(stderr=True))
    return progress, progress.add_task(step, total=views, told="")
