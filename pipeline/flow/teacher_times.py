"""How long the teachers take for a clip, before the start: a few clips of noise, in a process of its own.

Without weights that would have to be downloaded: they do not change how long a network takes.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config.networks import GivenTeacher, Teacher
from pipeline.config.recipe import Recipe
from pipeline.errors import JobError, StagedKDError
from pipeline.flow.apart import apart
from pipeline.flow.build import device, network_spec
from pipeline.flow.dry_sizes import Answers
from pipeline.flow.teacher import read_named
from pipeline.targets.plain import Labels, PlainLabeler

CLIPS = 2  # at once for a network on CPUs; whatever else gets a whole micro-batch


@dataclass(frozen=True)
class TeacherTimes:
    """What each teacher, in their order, takes and gives; None, and `why`, where they could not be timed here.
    `refused`: for what the recipe says of them, so that no start anywhere would go further."""

    each: tuple[Answers, ...] | None
    why: str = ""
    refused: bool = False

    @property
    def seconds(self) -> float | None:
        """Of all together for one clip."""
        return None if self.each is None else sum(answers.seconds or 0.0 for answers in self.each)


def time_teachers(recipe: Recipe, classes: Sequence[str], *, own: bool = True, further: bool = True) -> TeacherTimes:
    """The recipe's own teacher (fitted: with these classes) and precompute.more_teachers."""
    sections = [*([recipe.teacher] if own else []), *(recipe.precompute.more_teachers if further else ())]
    try:
        return TeacherTimes(apart(_all_timed, recipe, sections, classes))
    except StagedKDError as error:
        return TeacherTimes(None, str(error).splitlines()[0], error.exit_code == 2)


def _all_timed(recipe: Recipe, sections: Sequence[GivenTeacher], classes: Sequence[str]) -> tuple[Answers, ...]:
    return tuple(_timed(recipe, section, classes) for section in sections)


def _timed(recipe: Recipe, section: GivenTeacher, classes: Sequence[str]) -> Answers:
    whole = section.labeler or section.model == "exported" or device(recipe.precompute.device) != "cpu"
    slots = recipe.plan.micro_batch if whole else min(CLIPS, recipe.plan.micro_batch)
    labeler, views = _labeler(recipe, section, classes, slots), recipe.views
    raster = np.random.default_rng(0).integers(0, 256, (slots, views.num_frames, *views.size, 3), np.uint8)
    labeler(raster)  # the first call pays for compiling and for buffers
    began = time.perf_counter()
    given = labeler(raster)
    seconds = (time.perf_counter() - began) / slots
    return Answers(given.pop("logits").shape[1], tuple(values.shape[1] for values in given.values()), seconds)


def given_labeler(recipe: Recipe) -> Labels | None:
    """The recipe's own teacher as it will label, None where it is to be fitted or its weights are not at hand."""
    from pipeline.models.sources import is_path

    section = recipe.teacher
    there = section.labeler or (section.weights is not None and is_path(section.weights))
    return _labeler(recipe, section, (), recipe.plan.micro_batch) if there and not section.fit else None


def _labeler(recipe: Recipe, section: GivenTeacher, classes: Sequence[str], slots: int) -> Labels:
    if section.labeler:
        from pipeline.models.plain import make_plain

        return PlainLabeler(make_plain(section.model, section.options), slots)
    import torch

    from pipeline.models.registry import build_network
    from pipeline.models.sources import is_path
    from pipeline.targets.labeler import Labeler

    where = device(recipe.precompute.device)
    if where == "cuda" and not torch.cuda.is_available():
        raise JobError("there is no such accelerator on this machine")
    fitted = isinstance(section, Teacher) and section.fit
    spec = network_spec(section, tuple(classes) if fitted else read_named(section))
    torch.set_num_threads(recipe.train.threads)
    network = build_network(spec, seed=0, load=spec.weights is not None and is_path(spec.weights))
    return Labeler(network, slots, where, recipe.precompute.dtype, compiled=recipe.precompute.compile)
