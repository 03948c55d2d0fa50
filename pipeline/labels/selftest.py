"""The guarded self-test behind `channel: auto`: a channel is used only if it proves itself on trusted labels.

(a) The noise rate is estimated without any channel, from accuracy and agreement in views of one policy, and must be
above its own sampling error. (b) Validation labels are corrupted at that rate with two shapes, the same for all
candidates, appended to the training table with the predictions of one fold model, and the whole rule is run again.
(c) A candidate counts by its worse shape and must gain more than 1.645 standard errors. (d) Too few validation videos
or too weak a labeller: none.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from pipeline.errors import ConfigError
from pipeline.labels.channel import HIGHEST_RATE, MIX_SHARE, RULES, fit, fit_full, soft_labels, validation_temperature
from pipeline.labels.predictions import Rows, Validation, mean_probability
from pipeline.labels.scoring import hard_labels

LEAST_DRAWS = 4
LEAST_VIDEOS = 40
ONE_SIDED = 1.645
TWICE_CHANCE_FROM = 4  # classes
_STREAM = 0x5E1F


@dataclass(frozen=True)
class Options:
    """What `auto` may choose from, over how many draws of corrupted labels, and the share η of `mix`.

    `mix` is a control and no candidate unless named. Raises ConfigError for fewer than four draws, an unknown candidate
    or a share outside (0, 1].
    """

    candidates: tuple[str, ...] = ("scalar", "full")
    draws: int = 6
    share: float = MIX_SHARE

    def __post_init__(self) -> None:
        if self.draws < LEAST_DRAWS:
            raise ConfigError(f"labels: the self-test needs at least {LEAST_DRAWS} draws, got {self.draws}")
        if not self.candidates or not set(self.candidates) <= set(RULES):
            raise ConfigError(f"labels: candidates {self.candidates} must be some of {', '.join(RULES)}")
        if not 0 < self.share <= 1:
            raise ConfigError(f"labels: the share of mix must lie in (0, 1], got {self.share}")


@dataclass(frozen=True)
class Trial:
    """Change in correctness `d` (share of videos) of a candidate under one shape of noise, and its standard error."""

    candidate: str
    shape: str
    d: float
    se: float

    @property
    def lower(self) -> float:
        """One-sided 95 % limit."""
        return self.d - ONE_SIDED * self.se


@dataclass(frozen=True)
class Choice:
    """The chosen channel (`none` included), why, and what was measured on the way (None: not reached)."""

    channel: str
    reason: str
    trials: tuple[Trial, ...] = ()
    accuracy: float | None = None
    agreement: float | None = None
    rate: float | None = None

    def facts(self) -> dict[str, Any]:
        """JSON-able: labellers' accuracy on validation, agreement with the given labels, rate, trials."""
        table = [{**asdict(trial), "lower": trial.lower} for trial in self.trials]
        return {"accuracy": self.accuracy, "agreement": self.agreement, "rate": self.rate, "table": table}


def choose(
    training: Rows,
    validation: Validation | None,
    *,
    protected: np.ndarray,
    options: Options = Options(),
    seed: int,
) -> Choice:
    """Choose one of the candidates, or none, on trusted validation labels.

    `training` holds the labelled training videos with out-of-fold logits; `protected` (n,) bool marks those that the
    rule leaves alone: they count for the agreement, not for the fits.
    """
    if validation is None or not validation.trusted:
        return Choice("none", "there is no trusted validation split to prove a channel on (labels.trust_validation)")
    if len(validation.labels) < LEAST_VIDEOS:
        return Choice("none", f"{len(validation.labels)} validation videos, fewer than {LEAST_VIDEOS}")
    accuracy = labeller_accuracy(validation)
    weak = _weak(accuracy, validation, training.num_classes)
    if weak:
        return Choice("none", f"single labellers reach {accuracy:.1%} on validation, {weak}", accuracy=accuracy)
    agreement = float((training.log_probability(1.0).argmax(axis=1) == training.labels).mean())
    rate = noise_rate(accuracy, agreement, training.num_classes)
    fitted = Rows(training.logits[~protected], training.labels[~protected])
    trials = _SelfTest(fitted, validation, rate, options, seed).run()
    name, reason = _verdict(trials, options.candidates)
    error = _error_of_gap(agreement, len(training.labels), validation)
    if name != "none" and accuracy - agreement <= ONE_SIDED * error:
        gap = f"{100 * (accuracy - agreement):+.1f} ± {100 * error:.1f} points"
        name = "none"
        reason = f"no noise is shown: the labellers' accuracy is above their agreement with the given labels by {gap}"
    return Choice(name, reason, tuple(trials), accuracy, agreement, rate)


def labeller_accuracy(validation: Validation) -> float:
    """Accuracy on validation of single fold models (argmax of the mean softmax over views), averaged over them."""
    return float(np.mean(_hits(validation)))


def _hits(validation: Validation) -> np.ndarray:
    """Share of the fold models that are right on each validation video, (Nv,)."""
    said = [mean_probability(logits).argmax(axis=1) for logits in validation.logits]
    return np.mean([predicted == validation.labels for predicted in said], axis=0)


def _error_of_gap(agreement: float, videos: int, validation: Validation) -> float:
    """Standard error of accuracy - agreement: without it the luck of a small validation split passes for noise."""
    of_agreement = agreement * (1 - agreement) / videos
    return float(np.hypot(standard_error(_hits(validation), validation.group_of), np.sqrt(of_agreement)))


def _weak(accuracy: float, validation: Validation, classes: int) -> str:
    """Why labellers of this accuracy know too little, "" where they know enough: not more than twice chance, or, with
    fewer than four classes, where twice chance is no limit, not above chance by their 95 % interval."""
    if classes >= TWICE_CHANCE_FROM:
        limit = 2 / classes
        return f"not more than 2/C = {limit:.1%}" if accuracy <= limit else ""
    groups = len(np.unique(validation.group_of))
    if groups < 2:
        return "which is not surely above chance (all videos are of one group)"
    factor = stats.t.ppf(0.975, groups - 1)  # few groups: the normal's 1.96 would be too short
    lower = accuracy - factor * standard_error(_hits(validation), validation.group_of)
    return f"which is not surely above chance (95 % interval from {lower:.1%})" if lower <= 1 / classes else ""


def noise_rate(accuracy: float, agreement: float, num_classes: int) -> float:
    """ρ = clip((a - g) / (a - (1-a)/(C-1)), 0, .9): how far the labellers' agreement with the given labels lies below
    their accuracy, if wrong labels agree with them only by chance. Needs a > 1/C."""
    chance = (1 - accuracy) / (num_classes - 1)
    return float(np.clip((accuracy - agreement) / (accuracy - chance), 0, HIGHEST_RATE))


def standard_error(values: np.ndarray, groups: np.ndarray) -> float:
    """Standard error of the mean of `values` (n,) over independent groups; infinite with one group.

    sqrt(G/(G-1) Σ_g (Σ_{i in g} (x_i - mean))²) / n, which is sd/sqrt(n) where every video is its own group.
    """
    number = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(number, weights=values - values.mean())
    if len(sums) < 2:
        return float("inf")
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values))


class _SelfTest:
    """One self-test: the same corrupted validation labels for every candidate."""

    def __init__(self, training: Rows, validation: Validation, rate: float, options: Options, seed: int) -> None:
        self.training, self.validation, self.rate = training, validation, rate
        self.options, self.seed = options, seed
        self.temperature = validation_temperature(validation)
        # Sampling walks the classes in an order of their own, so that the choice does not depend on class ids.
        self.order = np.argsort(np.exp(training.log_probability(self.temperature)).mean(axis=0), kind="stable")

    def run(self) -> list[Trial]:
        tables = {shape: self._appended(matrix, number) for number, (shape, matrix) in enumerate(self._shapes())}
        return [self._trial(name, shape, tables[shape]) for name in self.options.candidates for shape in tables]

    def _shapes(self) -> list[tuple[str, np.ndarray]]:
        full = fit_full([self.training], temperature=self.temperature).matrix
        assert full is not None
        return [("uniform", _off_diagonal(np.ones_like(full))), ("full", _off_diagonal(full))]

    def _appended(self, shape: np.ndarray, number: int) -> list[Rows]:
        """One table per draw: corrupted validation labels, predictions of one fold model in rotation."""
        matrix = (1 - self.rate) * np.eye(len(shape)) + self.rate * shape
        models, tables = self.validation.logits, []
        for draw in range(self.options.draws):
            generator = np.random.default_rng([_STREAM, self.seed, number, draw])
            labels = _corrupt(self.validation.labels, matrix, self.order, generator)
            tables.append(Rows(models[draw % len(models)], labels))
        return tables

    def _trial(self, name: str, shape: str, tables: Sequence[Rows]) -> Trial:
        change = np.mean([self._change(name, rows) for rows in tables], axis=0)
        return Trial(name, shape, float(change.mean()), standard_error(change, self.validation.group_of))

    def _change(self, name: str, rows: Rows) -> np.ndarray:
        channel = fit(name, [self.training, rows], temperature=self.temperature, share=self.options.share)
        refined, truth = hard_labels(soft_labels(channel, rows), rows.labels), self.validation.labels
        return (refined == truth).astype(float) - (rows.labels == truth)


def _verdict(trials: Sequence[Trial], candidates: Sequence[str]) -> tuple[str, str]:
    worse = [min((t for t in trials if t.candidate == name), key=lambda t: t.lower) for name in candidates]
    measured = ", ".join(f"{t.candidate} {100 * t.d:+.1f} ± {100 * t.se:.1f}" for t in worse)
    eligible = [trial for trial in worse if trial.lower > 0]
    if not eligible:
        return "none", f"no channel surely gains on its worse shape (points ± s.e.: {measured})"
    best = max(eligible, key=lambda t: t.d)
    return best.candidate, f"highest sure gain on its worse shape (points ± s.e.: {measured})"


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    shape = matrix * (1 - np.eye(len(matrix)))
    return shape / shape.sum(axis=1, keepdims=True)


def _corrupt(labels: np.ndarray, matrix: np.ndarray, order: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    cumulative = matrix[labels][:, order].cumsum(axis=1)
    position = (generator.random(len(labels))[:, None] > cumulative).sum(axis=1)
    return order[np.minimum(position, len(order) - 1)]
