"""Both stages of the precompute graph as one, for actors that decode and label in turn on the same CPUs."""

from collections.abc import Callable, Mapping
from typing import Any

Stage = Callable[[Mapping[str, Any]], dict[str, Any]]


class Together:
    """A micro-batch is decoded, then labelled, by one actor: rows in and out as of both stages one behind the other."""

    def __init__(self, frames: Callable[[], Stage], teacher: Callable[[], Stage]) -> None:
        self.frames, self.teacher = frames(), teacher()

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's answer to the frames stage's row. Its idle_s is 0: while it does nothing, its actor decodes."""
        return self.teacher(self.frames(row)) | {"idle_s": 0.0}
