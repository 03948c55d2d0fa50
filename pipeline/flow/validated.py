"""Which validation videos select the best step of a training, and what of that enters its key."""

from typing import Any

from pipeline.artifacts.identity import digest, integer
from pipeline.distill.data import ValidationSpec
from pipeline.errors import ConfigError
from pipeline.flow.folds import decodable
from pipeline.flow.videos import Videos, Views

LEAST_VALIDATION = 30  # fewer videos would select noise
MOST_VALIDATION, MOST_VIEWS = 512, 1536  # that are held in memory beside the training data


def validation_spec(wanted: str, videos: Videos, views: Views, field: str = "train.select") -> ValidationSpec | None:
    """What selects the best step: at most 512 labelled validation videos, None where the last step is the result.

    `wanted`: what the recipe says at `field`. ConfigError where it is `best` and there is none to judge by.
    """
    labelled = sum(int(videos.labels[row]) >= 0 for row in videos.of("val"))
    if wanted == "last" or (wanted == "auto" and labelled < LEAST_VALIDATION):
        return None
    rows = [row for row in decodable(videos, views, "val") if videos.labels[row] >= 0] if labelled else []
    if not rows:
        raise ConfigError(
            f"{field} is best, and {videos.root} has no labelled validation video to judge by: set "
            f"{field}: last, or manifest.split.val above 0"
        )
    if wanted == "auto" and len(rows) < LEAST_VALIDATION:
        return None
    rows = sorted(rows, key=lambda row: integer("validation", videos.ids[row]))[:MOST_VALIDATION]
    given = tuple(sorted((videos.ids[row], int(videos.labels[row])) for row in rows))
    return ValidationSpec(str(views.folders["eval"]), views.digest("eval"), given, max(1, MOST_VIEWS // len(given)))


def looked_at(spec: ValidationSpec) -> list[Any]:
    """What is read to select, for a key."""
    return [spec.snapshot, digest([list(pair) for pair in spec.given]), spec.views]


def every(wanted: int | None, steps: int) -> int:
    """Steps between two looks at validation: as the recipe says, else a twentieth of all, 10 at least."""
    return wanted or max(10, steps // 20)
