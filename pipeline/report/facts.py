"""What the report is made of: plain data, so that it can be filled from JSON files. Every field may be empty.

Accuracies, ECE, agreement and shares are fractions of 1; NLL is in nats; times are seconds unless the name says ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROLES = ("teacher", "assistant", "student", "control")
# what the training loop logs, by panel
PANELS = {
    "Loss and its parts": ("loss", "ce", "kd", "corr", "comb", "dist", "feature"),
    "R² per substage": ("r2_*",),
    "Correlation loss per substage": ("corr_*",),
    "Weight per substage": ("omega_*",),
}
Line = tuple[Sequence[float], Sequence[float]]
Panels = dict[str, dict[str, Line]]
_COUNTS = ("videos", "clips", "unlabelled_videos", "quarantined_videos", "top1_quarantined_wrong")
_PLAIN = ("top1", "top5", "ece", "nll", "agreement", *_COUNTS)


@dataclass(frozen=True)
class NetworkRow:
    """One network in the headline table and in the figures; None is shown as a dash.

    With several `replicates` (each one's top-1) all figures are means, `sd` is top-1's standard deviation, and the
    interval covers seeds and videos. `taught` is false for a control that never sees the teacher.
    """

    name: str
    role: str
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    interval_method: str = ""
    sd: float | None = None
    replicates: Sequence[float] = ()
    train_top1: float | None = None
    train_low: float | None = None
    train_high: float | None = None
    train_videos: int | None = None
    train_views: str = ""
    top5: float | None = None
    ece: float | None = None
    ece_scaled: float | None = None
    nll: float | None = None
    nll_scaled: float | None = None
    temperature: float | None = None
    agreement: float | None = None
    clip_top1: float | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    videos: int | None = None
    clips: int | None = None
    unlabelled_videos: int | None = None
    quarantined_videos: int | None = None
    top1_quarantined_wrong: float | None = None
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    train_steps: int | None = None
    note: str = ""
    taught: bool = True

    def __post_init__(self) -> None:
        assert self.role in ROLES, f"role {self.role!r} is none of {ROLES}"

    @classmethod
    def from_metrics(
        cls,
        name: str,
        role: str,
        metrics: Mapping[str, Any],
        cost: Mapping[str, Any] | None = None,
        *,
        train_steps: int | None = None,
        note: str = "",
        train: Mapping[str, Any] | None = None,
        sd: float | None = None,
        replicates: Sequence[float] = (),
        taught: bool = True,
    ) -> "NetworkRow":
        """Row from the dict of `evaluation.metrics.video_metrics` and that of `evaluation.cost.Cost.as_dict`.

        `train`: top1, top1_interval, videos and views of the accuracy on training videos.
        """
        interval, scaled, price = metrics.get("top1_interval") or {}, metrics.get("scaled") or {}, cost or {}
        clip, seen = metrics.get("clip") or {}, train or {}
        of_clip, of_seen = clip.get("top1_interval") or {}, seen.get("top1_interval") or {}
        plain = {key: metrics.get(key) for key in _PLAIN}
        return cls(
            name=name,
            role=role,
            low=interval.get("low"),
            high=interval.get("high"),
            interval_method=interval.get("method", ""),
            sd=sd,
            replicates=tuple(replicates),
            train_top1=seen.get("top1"),
            train_low=of_seen.get("low"),
            train_high=of_seen.get("high"),
            train_videos=seen.get("videos"),
            train_views=seen.get("views", ""),
            ece_scaled=scaled.get("ece"),
            nll_scaled=scaled.get("nll"),
            temperature=scaled.get("temperature"),
            clip_top1=clip.get("top1"),
            clip_low=of_clip.get("low"),
            clip_high=of_clip.get("high"),
            params=price.get("params"),
            flops=price.get("flops"),
            latency_ms=price.get("latency_ms"),
            train_steps=train_steps,
            note=note,
            taught=taught,
            **plain,
        )


@dataclass(frozen=True)
class Gate:
    """Whether the teacher is worth distilling, on validation: sentences (the verdict first, then warnings), and the
    table of teacher, probe, file facts and majority class; None where nothing could be looked at."""

    sentences: Sequence[str]
    table: "Table | None" = None


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same test videos: difference first - second, its paired interval, and the one word for it.

    `word`: better, worse, not distinguishable, or no interval (low and high None; `method` says why).
    """

    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    word: str
    method: str = ""
    n: int | None = None
    replicates: int = 1


@dataclass(frozen=True)
class Majority:
    """What always naming the largest training class reaches on the evaluated split."""

    name: str
    top1: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Room:
    """Whether the setting can show anything: the teacher against the student alone, and what the labeller knows.

    `against`: teacher - each control that never sees the teacher; `doubled`: one of them had twice its steps.
    """

    teacher: float
    against: Sequence[Comparison] = ()
    doubled: bool = False
    given_labels: float | None = None
    labeller: float | None = None


@dataclass(frozen=True)
class PhaseSpan:
    """A phase of training: steps first_step ≤ step < stop."""

    name: str
    first_step: int
    stop: int


@dataclass(frozen=True)
class Curves:
    """Curves of one training: panel title → line name → (steps, values)."""

    network: str
    panels: Panels
    phases: list[PhaseSpan] = field(default_factory=list)

    @classmethod
    def from_records(
        cls,
        network: str,
        records: Sequence[Mapping[str, float]],
        phases: Sequence[PhaseSpan] = (),
        panels: Mapping[str, Sequence[str]] = PANELS,
    ) -> "Curves":
        """Curves from logged records, each with `step` and metrics; `panels`: title → names or prefixes ending in *.

        A line is named by what follows the prefix; a number there is a substage. A metric that never occurs has no
        line, a panel without lines is left out, records without the metric are passed over.
        """
        names = list(dict.fromkeys(key for record in records for key in record if key != "step"))
        filled: Panels = {
            title: {label: _line(records, name) for name, label in _labels(names, patterns)}
            for title, patterns in panels.items()
        }
        return cls(network, {title: lines for title, lines in filled.items() if lines}, list(phases))


@dataclass(frozen=True)
class Confusion:
    """Counts (C, C): row = given label, column = prediction."""

    network: str
    classes: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class Table:
    """A table as it is shown: texts and numbers, the first column is the row's name."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Refinement:
    """What label refinement did; accuracies only where the clean labels are known (injected noise)."""

    channel: str
    reason: str = ""
    videos: int | None = None
    flipped: int | None = None
    rate: float | None = None
    temperature: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    precision: float | None = None
    recall: float | None = None
    validation_trusted: bool | None = None  # None: written before this was noted
    self_test: Table | None = None
    per_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # class → flipped away from it, to it


@dataclass(frozen=True)
class FlippedLabel:
    """One video whose label changed; frames uint8 (T, H, W, 3) where they are cached."""

    video_id: str
    given: str
    refined: str
    confidence: float | None = None
    truth: str | None = None
    frames: np.ndarray | None = None


@dataclass(frozen=True)
class QuarantinedVideo:
    """One video that could not be decoded."""

    video_id: str
    reason: str
    message: str = ""
    split: str = ""
    frames: np.ndarray | None = None


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step, start-up (processes, imports, cluster) apart from work; skipped: found by its key."""

    step: str
    startup_s: float = 0.0
    work_s: float = 0.0
    skipped: bool = False


@dataclass
class ReportFacts:
    """All of the report. `data` and `environment` are label → value pairs for two small tables."""

    title: str = "Staged knowledge distillation"
    run: str = ""
    created: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    networks: list[NetworkRow] = field(default_factory=list)
    split: str = "test"
    selected: str = ""  # says so where the figures were chosen on the split that they are of
    gap_recovered: float | None = None
    gap_reason: str = ""
    majority: Majority | None = None
    room: Room | None = None
    gate: Gate | None = None
    comparisons: list[Comparison] = field(default_factory=list)
    curves: list[Curves] = field(default_factory=list)
    confusion: list[Confusion] = field(default_factory=list)
    refinement: Refinement | None = None
    flipped: list[FlippedLabel] = field(default_factory=list)
    quarantined: list[QuarantinedVideo] = field(default_factory=list)
    quarantined_total: int | None = None
    tables: list[Table] = field(default_factory=list)
    timings: list[StepTime] = field(default_factory=list)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of_role(self, role: str) -> list[NetworkRow]:
        """Networks of one role, in order."""
        return [row for row in self.networks if row.role == role]

    def compared(self, first: str, second: str) -> Comparison | None:
        """The comparison of these two names in this order."""
        return next((item for item in self.comparisons if (item.first, item.second) == (first, second)), None)


def _line(records: Sequence[Mapping[str, float]], name: str) -> Line:
    points = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in points], [value for _, value in points]


def _labels(names: Sequence[str], patterns: Sequence[str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for pattern in patterns:
        prefix = pattern.removesuffix("*")
        hits = [name for name in names if (name.startswith(prefix) if pattern.endswith("*") else name == pattern)]
        for name in hits:
            rest = name[len(prefix) :] or name
            found.setdefault(name, f"substage {rest}" if rest.isdigit() else rest)
    return list(found.items())
