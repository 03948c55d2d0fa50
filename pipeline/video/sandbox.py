"""Decoding that cannot hang or end its caller: a child process, a deadline, a second reader, and a reason in the end.

    answer of the child          what follows
    views                        done
    an error about the file      the second reader, in the same child
    no answer in time            the child is killed; the second reader, in a new child
    the child died               the second reader, in a new child; killed by someone else (out of memory): OSError
    storage failed               OSError at once, and never a DecodeFailure

When both readers gave up, the file's bytes are read once more: if that fails or stalls, storage is to blame (OSError).
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, JobError
from pipeline.video.decord_reader import DECORD_ENVIRONMENT
from pipeline.video.process import ChildProcess, Gone, Overrun
from pipeline.video.raster import RasterView
from pipeline.video.reader import reader_version
from pipeline.video.views import View, ViewPolicy, draw, view_keys
from pipeline.video.wire import Message, views_from_message


@dataclass(frozen=True)
class DecodeFailure:
    """Why a video cannot be decoded: a reason of handle.REASONS, what the last reader said, and how often was tried."""

    reason: str
    message: str
    reader: str
    reader_version: str
    attempts: int


@dataclass(frozen=True)
class _Problem:
    reader: str
    reason: str
    message: str


class DecodeChild:
    """Decodes one video after the other in a child process, which is started when needed and reused.

    `deadline` seconds and `memory` bytes (0: no limit) hold for each reader's attempt. For one thread at a time.
    """

    def __init__(
        self, reader: str = "decord", fallback: str | None = "pyav", deadline: float = 20.0, memory: int = 2 << 30
    ) -> None:
        self.readers = tuple(dict.fromkeys(name for name in (reader, fallback) if name))
        self.deadline, self.memory = deadline, memory
        self._process: ChildProcess | None = None

    def decode(self, path: str | Path, views: Sequence[View], policy: ViewPolicy) -> list[RasterView] | DecodeFailure:
        """All views of a video in their order, or why there are none.

        OSError where storage or memory fails; ConfigError for an unknown reader; JobError for a defect of ours.
        """
        problems = []
        for reader in self.readers:
            outcome = self._attempt(reader, path, views, policy)
            if not isinstance(outcome, _Problem):
                return outcome
            problems.append(outcome)
        self._check_storage(path)
        return _failure(problems)

    def close(self) -> None:
        """End the child; the next decode would start another."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attempt(
        self, reader: str, path: str | Path, views: Sequence[View], policy: ViewPolicy
    ) -> list[RasterView] | _Problem:
        request = {
            "do": "decode",
            "reader": reader,
            "views": [asdict(view) for view in views],
            "policy": policy.to_json(),
        }
        try:
            header, payload = self._ask(request, path)
        except Overrun:
            _, tail = self._kill()
            return _Problem(reader, "deadline", f"no answer within {self.deadline:g} s{tail}")
        except Gone:
            ending, tail = self._kill()
            if ending == "signal SIGKILL":
                raise OSError(errno.ENOMEM, "the decode child was killed, as when memory runs out", str(path)) from None
            return _Problem(reader, "crash", f"the decoder ended with {ending}{tail}")
        if header.get("error") == "decode":
            return _Problem(reader, header["reason"], header["message"])
        _raise_others(header, path)
        return views_from_message(header["views"], payload)

    def _check_storage(self, path: str | Path) -> None:
        try:
            header, _ = self._ask({"do": "check"}, path)
        except (Overrun, Gone) as error:
            self._kill()
            raise OSError(errno.ETIMEDOUT, "reading the file stalls", str(path)) from error
        _raise_others(header, path)

    def _ask(self, request: dict[str, Any], path: str | Path) -> Message:
        if self._process is not None and not self._process.alive():
            self.close()
        if self._process is None:
            self._process = ChildProcess("pipeline.video.child", [str(self.memory)], DECORD_ENVIRONMENT)
        whole = {**request, "path": os.path.abspath(path), "deadline": self.deadline}
        return self._process.ask(whole, self.deadline)

    def _kill(self) -> tuple[str, str]:
        """How the child ended and the last line that it wrote, as ` (…)`."""
        assert self._process is not None
        ending, process = self._process.kill(), self._process
        self._process = None
        lines = process.tail().splitlines()
        return ending, f" ({lines[-1][:200]})" if lines else ""


def read_clips(
    path: str | Path,
    child: DecodeChild,
    *,
    size: tuple[int, int],
    num_frames: int,
    frame_stride: int = 1,
    clips: int = 3,
) -> NDArray[np.uint8] | DecodeFailure:
    """Evenly spaced centre-cropped clips (clips, T, H, W, 3) of any file: no recipe, no plan, nothing stored.

    Equal to the `eval` views of these settings. Errors as in DecodeChild.decode.
    """
    policy = ViewPolicy("eval", size, num_frames, frame_stride, clips_per_video=clips)
    views = [draw(policy, *key) for key in view_keys(Path(path).name, policy)]
    outcome = child.decode(path, views, policy)
    return outcome if isinstance(outcome, DecodeFailure) else np.stack([view.frames for view in outcome])


def _raise_others(header: dict[str, Any], path: str | Path) -> None:
    kind = header.get("error")
    if kind == "storage":
        raise OSError(header["errno"], header["message"], str(path))
    if kind == "config":
        raise ConfigError(f"this video reader cannot be used here: {header['message']}")
    if kind == "defect":
        raise JobError(f"decoding {path} met a defect of this program, not of the file:\n{header['message']}")


def _failure(problems: Sequence[_Problem]) -> DecodeFailure:
    last = problems[-1]
    before = "".join(f"; before, {each.reader}: {each.message}" for each in problems[:-1])
    return DecodeFailure(last.reason, last.message + before, last.reader, reader_version(last.reader), len(problems))
