"""Sections for the method: labels, cascade, distill, sweep. The equations stand in `pipeline.losses` and `labels`."""

from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.base import Section, runtime
from pipeline.config.networks import Labeller, Optimiser

# What a method's loss must know of the teacher's logits: all of them, or the k largest and the rest's log-sum-exp. The
# losses declare the same; it stands here as well so that a recipe is refused before torch is imported.
LOGITS_NEEDED = {
    "kd": "topk",
    "staged": "topk",
    "sp": "topk",
    "rkd": "topk",
    "pkt": "topk",
    "dkd": "dense",
    "dist": "dense",
}


class Labels(Section):
    """Pseudo-label optimisation. `channel: none` keeps the given labels exactly.

    `trust_validation`: whether validation labels are right, which `auto` needs to prove a channel on (null: yes, unless
    the recipe injects noise into them). `cross_fit: false` lets a given teacher that never saw the labels
    (`teacher.saw_labels: false`) judge them directly.
    """

    channel: Literal["auto", "scalar", "full", "mix", "none"] = "auto"
    mix: float = Field(0.7, gt=0, le=1, description="share of the labeller; at one half or less no label can flip")
    labeller: Labeller | None = None
    cross_fit: bool = True
    trust_validation: bool | None = None
    folds: int = Field(3, ge=2, le=10)
    steps: int | None = Field(None, ge=1)
    draws: int = Field(4, ge=4)
    seed: int = 0


class Cascade(Section):
    """Progressive cascade: K assistants between teacher and student; `sizes` are wanted parameter counts.

    What the assistants are and how they are trained stands in the section `assistants`.
    """

    K: int = Field(0, ge=0, le=3)
    wiring: Literal["chain", "dense"] = "chain"
    sizes: tuple[int, ...] | None = None
    source_dropout: float = Field(0.25, ge=0, lt=1)


class KDControl(Section):
    """One KD control: the student's network, taught by the teacher's logits alone, with weights of its own.

    `optimiser: null` takes the student's. With two classes standardisation leaves no signal: plain KD then.
    """

    lambda_kd: float = Field(9.0, gt=0, description="9 is the reference weight of KD on standardised logits")
    lambda_ce: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)
    standardize: bool = True
    optimiser: Optimiser | None = None


class Controls(Section):
    """What the student is held against, each with the student's network: `cross_entropy` alone, once for each multiple
    of the student's steps (without twice the steps nobody can tell room from under-training), and `kd` controls.

    Every control can be tuned as the student is: `optimiser` (null: the student's) is that of cross-entropy.
    """

    cross_entropy: tuple[float, ...] = (1.0, 2.0)
    optimiser: Optimiser | None = None
    kd: tuple[KDControl, ...] = (KDControl(),)

    @field_validator("cross_entropy")
    @classmethod
    def _multiples(cls, multiples: tuple[float, ...]) -> tuple[float, ...]:
        if any(value <= 0 for value in multiples) or len(set(multiples)) < len(multiples):
            raise ValueError(
                f"cross_entropy lists multiples of the student's steps, above 0 and each once: {multiples}"
            )
        return multiples


class Distill(Section):
    """Objective and phases of staged distillation (method: reconstructed from the abstract of arXiv 2307.05201).

    `extra_teachers`: what becomes of precompute.more_teachers: their logits count beside the teacher's, equally
    (`average`) or by how far each is above chance on validation (`weighted`), or they are only stored (`ignore`). The
    substage terms always take the recipe's own teacher.
    """

    method: Literal["staged", "kd"] = "staged"
    schedule: Literal["progressive", "frozen", "deep_first", "joint"] = "progressive"
    share: float = Field(0.05, gt=0, lt=1)
    temperature: float = Field(2.0, gt=0)
    standardize: bool = True
    lambda_ce: float = Field(1.0, ge=0, description="weight of the labels")
    lambda_kd: float = Field(1.0, ge=0)
    lambda_corr: float = Field(1.0, ge=0)
    lambda_comb: float = Field(0.5, ge=0)
    lambda_dist: float = Field(0.03, ge=0)
    combinations: Literal["none", "cumulative", "pairs", "all"] | tuple[tuple[int, ...], ...] = "cumulative"
    weighting: Literal["ema", "uncertainty", "fixed", "lagging", "dwa"] = "ema"
    distribution: Literal["gaussian", "moments", "mmd", "pkt", "none"] = "gaussian"
    extra_teachers: Literal["average", "weighted", "ignore"] = "average"
    controls: Controls = Controls()


class Axis(Section):
    """One axis of a search space: exactly one of a list, or a range."""

    choice: tuple[Any, ...] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None

    @field_validator("loguniform")
    @classmethod
    def _positive(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] <= 0:
            raise ValueError("a loguniform range starts above 0")
        return bounds

    def model_post_init(self, context: Any) -> None:
        given = [name for name in ("choice", "uniform", "loguniform") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"an axis has exactly one of choice, uniform, loguniform; got {given or 'none'}")


class Sweep(Section):
    """A search over dotted recipe paths, scored on the validation split only. The test split is never read."""

    trials: int = Field(4, ge=1)
    nested_trials: int = Field(1, ge=0)
    steps: int | None = Field(None, ge=1)
    searcher: Literal["optuna", "random"] = "optuna"
    seed: int = 0
    max_concurrent: int = runtime(2, ge=1)
    space: dict[str, Axis] = {
        "distill.lambda_corr": Axis(loguniform=(0.1, 10.0)),
        "distill.lambda_comb": Axis(loguniform=(0.05, 5.0)),
        "cascade.K": Axis(choice=(0, 1)),
    }
