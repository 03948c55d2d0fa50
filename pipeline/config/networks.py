"""Sections for the networks: teacher, assistants, student."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Section, runtime


class Transform(Section):
    """How a network derives its input from the raster: resize, grey, mean and standard deviation (of 0..1 values).

    What is left out takes the model's own default.
    """

    size: tuple[int, int] | None = None
    grey: bool | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


class Optimiser(Section):
    """AdamW with a linear warm-up (share of the steps) and a cosine to zero."""

    lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.02, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)


class Network(Section):
    """A network by name (see `pipeline.models.registry`), or `module:factory`."""

    model: str
    options: dict[str, Any] = {}
    weights: str | None = None
    transform: Transform = Transform()


class Assistants(Section):
    """The networks between teacher and student. `model: null`: the student's network, widened to each size.

    `steps: null` takes the student's. Wider networks want a lower learning rate than a very small student.
    """

    model: str | None = None
    options: dict[str, Any] = {}
    weights: str | None = None
    transform: Transform = Transform()
    steps: int | None = Field(None, ge=1)
    optimiser: Optimiser = Optimiser()

    @model_validator(mode="after")
    def _described(self) -> "Assistants":
        if self.model is None and (self.options or self.weights or self.transform != Transform()):
            raise ValueError("options, weights and transform describe a network: name its model as well")
        return self


class Labeller(Network):
    """The network that fold models are. `saw_labels` as for a teacher: they never start from weights that saw them."""

    saw_labels: bool | None = None


class Student(Network):
    """The network that is wanted in the end."""

    model: str = "compact"


class GivenTeacher(Network):
    """A network that is taken as it is: `weights` by name of the library, a file, or a folder.

    `classes` names the file with its class names, one a line; without it those of the weights, else the manifest's, are
    meant. `labeler` says that the factory of `module:factory` gives a callable from rasters to logits and features
    (see pipeline/README.md) instead of a torch module.
    """

    classes: str | None = None
    labeler: bool = False


class Teacher(GivenTeacher):
    """The large network. `fit: false` takes `weights` as they are.

    `accept_weak: true` distils a teacher that is not better than the majority class on the validation videos; without
    it a run ends there. `select`: as for students, where the teacher is fitted by steps; its accuracy on validation is
    then a selected one.

    `saw_labels` declares whether its weights were ever fitted on this manifest's labels (null: what their model.json
    says, else true for a file and false for a library's weights by name): where they were, their own
    predictions cannot refine those labels.
    """

    model: str = "compact"
    fit: bool = True
    saw_labels: bool | None = None
    accept_weak: bool = runtime(False)
    select: Literal["auto", "last", "best"] = "last"
    steps: int = Field(500, ge=1)
    batch_size: int = Field(32, ge=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    optimiser: Optimiser = Optimiser()
    seed: int = 0


class Augment(Section):
    """Photometric changes of the clips that students see, each 0 (off) to below 1: `brightness`, `contrast`, `noise`.

    Stored targets are of one view's pixels, so only the light may change, and only as far as the teacher would say the
    same.
    """

    brightness: float = Field(0.0, ge=0, lt=1)
    contrast: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, lt=1)


class Train(Section):
    """How assistants, student and controls are trained. `batch_size` is global, whatever the number of workers.

    `select`: which step's network is the result. `best` is the one with the highest accuracy on validation, judged
    every `validate_every` steps (null: a twentieth of all) with batch-norm statistics taken anew; after `patience` such
    looks without a better one the training ends. `auto` is `best` where at least 30 labelled videos validate. A
    comparison of methods by protocol takes `last`.

    `ema`: decay per step of a moving average of the weights, which is then what is judged and kept: 0.99 averages about
    the last 100 steps. `recalibrate_norm`: batch-norm statistics are taken anew at the end of a training whose `last`
    step is kept, too; for `best` and with `ema` they always are.
    """

    steps: int = Field(700, ge=1)
    batch_size: int = Field(32, ge=1)
    labelled_share: float | None = Field(
        None, gt=0, lt=1, description="share of each batch drawn from the labelled clips; null: clips as they come"
    )
    optimiser: Optimiser = Optimiser(lr=4e-2)
    augment: Augment = Augment()
    select: Literal["auto", "last", "best"] = "auto"
    validate_every: int | None = Field(None, ge=1)
    patience: int | None = Field(None, ge=1)
    ema: float | None = Field(None, gt=0, lt=1)
    recalibrate_norm: bool = False
    seed: int = 0
    replicates: int = Field(1, ge=1, description="train student and controls with so many seeds: seed, seed + 1, …")
    threads: int = Field(1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    data: Literal["memory"] = runtime("memory")
    memory_limit: int = runtime(2 * 1024**3, ge=1)
    num_workers: int = runtime(1, ge=1)
    cpus_per_worker: float = runtime(1.0, gt=0)
    checkpoint_every: int = runtime(200, ge=1)
    log_every: int = runtime(20, ge=1)
    max_failures: int = runtime(2, ge=0)
