"""Both stages of the precompute graph as one, for actors that decode and label in turn on the same CPUs."""

import time
from collections.abc import Callable, Mapping
from typing import Any

Stage = Callable[[Mapping[str, Any]], dict[str, Any]]


class Together:
    """A micro-batch is decoded, then labelled, by one actor: rows in and out as of both stages one behind the other."""

    def __init__(self, frames: Callable[[], Stage], teacher: Callable[[], Stage]) -> None:
        self.frames, self.teacher = frames(), teacher()
        self._ended: float | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's answer to the frames stage's row; its idle_s is what passed between two calls, so not the
        decoding, which is its actor's own work."""
        began = time.monotonic()
        idle = began - (self._ended or began)
        done = self.teacher(self.frames(row)) | {"idle_s": idle}
        self._ended = time.monotonic()
        return done
