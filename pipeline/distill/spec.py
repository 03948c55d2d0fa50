"""What a training job is: frozen values that travel to workers as JSON and enter keys.

`to_json` gives plain dicts, lists and numbers; `from_json` takes them back, unknown fields refused by name.
"""

import dataclasses
from dataclasses import dataclass

from pipeline.distill.plain import Json, known, require
from pipeline.models.spec import NetworkSpec

METHODS = ("supervised", "kd", "staged", "dkd", "dist", "sp", "rkd", "pkt")
SCHEDULES = ("progressive", "frozen", "deep_first", "joint")
WEIGHTINGS = ("ema", "uncertainty", "fixed", "lagging", "dwa")
DISTRIBUTIONS = ("gaussian", "moments", "mmd", "pkt", "none")
COMBINATIONS = ("none", "cumulative", "pairs", "all")


@dataclass(frozen=True)
class Optimiser(Json):
    """AdamW. `warmup` is the share of all steps with a linear rise; a cosine leads to zero at the last step.

    `clip_norm` bounds the gradient norm of the network's own parameters; the extra parameters are never clipped.
    """

    lr: float = 4e-2
    weight_decay: float = 0.02
    warmup: float = 0.05
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require(self.lr > 0, "optimiser.lr", self.lr, "above 0")
        require(self.weight_decay >= 0, "optimiser.weight_decay", self.weight_decay, "at least 0")
        require(0 <= self.warmup < 1, "optimiser.warmup", self.warmup, "a share in [0, 1)")
        bounded = self.clip_norm is None or self.clip_norm > 0
        require(bounded, "optimiser.clip_norm", self.clip_norm, "above 0, or None")


@dataclass(frozen=True)
class Objective(Json):
    """Which terms are in the loss, and their weights; a term of weight 0 is neither computed nor built.

    Labels count with weight λ_ce whatever the method. `supervised` has nothing else; `kd` adds λ_kd L_kd (or puts DKD
    or DIST in its place: `dkd`, `dist`); `sp`, `rkd`, `pkt` add λ_feature times that loss to `kd`; `staged` adds
    λ_corr, λ_comb and λ_dist to `kd`. `combinations` is a name or an explicit list of groups of substages (from 1).
    """

    method: str = "staged"
    temperature: float = 2.0
    standardize: bool = True
    lambda_ce: float = 1.0
    lambda_kd: float = 1.0
    lambda_corr: float = 1.0
    lambda_comb: float = 0.5
    lambda_dist: float = 0.03
    combinations: str | tuple[tuple[int, ...], ...] = "cumulative"
    weighting: str = "ema"
    distribution: str = "gaussian"
    label_smoothing: float = 0.0
    lambda_feature: float = 1.0
    dkd_alpha: float = 1.0
    dkd_beta: float = 8.0
    dist_beta: float = 1.0
    dist_gamma: float = 1.0

    def __post_init__(self) -> None:
        known("method", self.method, METHODS)
        known("weighting", self.weighting, WEIGHTINGS)
        known("distribution", self.distribution, DISTRIBUTIONS)
        if isinstance(self.combinations, str):
            known("combinations", self.combinations, COMBINATIONS)
        require(self.temperature > 0, "objective.temperature", self.temperature, "above 0")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "objective.label_smoothing", smoothing, "a share in [0, 1)")
        for name in ("lambda_ce", "lambda_kd", "lambda_corr", "lambda_comb", "lambda_dist", "lambda_feature"):
            weight = getattr(self, name)
            require(0 <= weight < float("inf"), f"objective.{name}", weight, "finite and at least 0")

    @property
    def effective(self) -> "Objective":
        """The same with the weights of all terms that the method does not have set to 0."""
        staged, teacher = self.method == "staged", self.method != "supervised"
        return dataclasses.replace(
            self,
            lambda_kd=self.lambda_kd if teacher else 0.0,
            lambda_corr=self.lambda_corr if staged else 0.0,
            lambda_comb=self.lambda_comb if staged and self.combinations not in ("none", ()) else 0.0,
            lambda_dist=self.lambda_dist if staged and self.distribution != "none" else 0.0,
            lambda_feature=self.lambda_feature if self.method in ("sp", "rkd", "pkt") else 0.0,
        )

    @property
    def relational(self) -> bool:
        """Whether some term compares the samples of a batch with one another (needs a global batch of 8)."""
        alive = self.effective
        relating = alive.distribution in ("moments", "mmd", "pkt")
        return bool(alive.lambda_corr or alive.lambda_comb or alive.lambda_feature or (alive.lambda_dist and relating))


@dataclass(frozen=True)
class Augment(Json):
    """Largest photometric change of each kind, 0 is off: `brightness` and `noise` (s.d.) as shares of the full range,
    `contrast` as a share of the distance from the clip's mean."""

    brightness: float = 0.0
    contrast: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "noise"):
            require(0 <= getattr(self, name) < 1, f"train.augment.{name}", getattr(self, name), "a share in [0, 1)")

    @property
    def active(self) -> bool:
        return bool(self.brightness or self.contrast or self.noise)


@dataclass(frozen=True)
class Job(Json):
    """One network to train. `batch_size` is global, whatever the number of ranks; `init` points to its first weights.

    `select`: which step's network is the result, the `last` or the one that is `best` on validation, judged every
    `validate_every` steps; after `patience` validations without a better one the training ends (None: never).
    `ema`: decay per step of a moving average of the weights, which is then what is judged and kept (None: the weights
    themselves). `recalibrate_norm`: batch-norm statistics are taken anew at the end, as they are anyway for a network
    that was selected or averaged.
    `labelled_share` of each batch is drawn from the labelled clips (None: as they come). `source_weights`: what each
    source's KL counts, all of them at every step (None: as `wiring` says).

    `augment` changes the light of the clips that the network sees, and nothing that their targets are of.
    `batch_field` is what a recipe calls its batch size, for messages.

    `checkpoint_every` and `log_every` count steps and change no value. `threads` (per process), `device` ("cpu",
    "cuda") and `dtype` ("float32", or "bfloat16": autocast of the network's forward) do.
    """

    name: str
    key: str
    network: NetworkSpec
    steps: int
    objective: Objective = Objective()
    optimiser: Optimiser = Optimiser()
    batch_size: int = 32
    seed: int = 0
    init: str | None = None
    schedule: str = "progressive"
    share: float = 0.05
    wiring: str = "chain"
    source_dropout: float = 0.25
    source_weights: tuple[float, ...] | None = None
    labelled_share: float | None = None
    select: str = "last"
    validate_every: int = 50
    patience: int | None = None
    ema: float | None = None
    recalibrate_norm: bool = False
    checkpoint_every: int = 200
    log_every: int = 20
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    batch_field: str = "train.batch_size"
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        known("schedule", self.schedule, SCHEDULES)
        known("wiring", self.wiring, ("chain", "dense"))
        known("select", self.select, ("last", "best"))
        known("dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("steps", "batch_size", "validate_every", "checkpoint_every", "log_every", "threads"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(0 < self.share < 1, "distill.share", self.share, "a share in (0, 1)")
        require(0 <= self.source_dropout < 1, "cascade.source_dropout", self.source_dropout, "a share in [0, 1)")
        require(self.ema is None or 0 < self.ema < 1, "train.ema", self.ema, "a decay in (0, 1), or None")
        share = self.labelled_share
        require(share is None or 0 < share < 1, "train.labelled_share", share, "a share in (0, 1)")
        weights = self.source_weights
        good = weights is None or (min(weights, default=0.0) >= 0 and sum(weights) > 0)
        require(good, "source_weights", weights, "numbers of at least 0, not all 0")
        if self.objective.relational:
            needed = "at least 8 with terms that relate the samples of a batch (method: correlations need them)"
            require(self.batch_size >= 8, f"batch_size of job {self.name!r}", self.batch_size, needed)
