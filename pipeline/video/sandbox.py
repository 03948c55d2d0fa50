"""Decoding that cannot hang or end its caller: a child process, a deadline, a second reader, and a reason in the end.

    answer of the child          what follows
    views                        done
    an error about the file      the second reader, in the same child
    no answer in time            the child is killed; the second reader, in a new child
    the child crashed            the second reader, in a new child
    killed by somebody else      the same reader, in a new child; after MAX_KILLS of them for one video: OSError
    storage or memory failed     OSError at once, and never a DecodeFailure

When both readers gave up, the file's bytes are read once more: if that fails or stalls, storage is to blame (OSError).
A video in an object store is copied to a local file first, by this process.
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
from pipeline.video.fetch import MISSING, local_copy
from pipeline.video.handle import DecodeError, Limits
from pipeline.video.process import START_SECONDS, ChildProcess, Gone, Overrun
from pipeline.video.raster import RasterView
from pipeline.video.reader import reader_version, require_reader
from pipeline.video.views import View, ViewPolicy, draw, view_keys
from pipeline.video.wire import Message, views_from_message

# So often may others end the child of one video before storage or memory, not the video, is said to be at fault.
MAX_KILLS = 3
# Decoders lose memory: decord 0.6 about 1 kB with each file that it opens, and 25 kB where the child cannot give back
# what was freed. Before that is taken for the need of an innocent video, the child is replaced: after so many videos,
# or earlier where it holds so many bytes between two.
RENEW_AFTER = 500
RENEW_BYTES = 512 << 20


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

    `deadline` seconds hold for each reader's attempt. A child is replaced after `renew_after` videos, or where it holds
    `renew_bytes` of memory between two. For one thread at a time. ConfigError where the library of a reader is not
    installed.
    """

    def __init__(
        self,
        reader: str = "decord",
        fallback: str | None = "pyav",
        deadline: float = 20.0,
        limits: Limits = Limits(),
        renew_after: int = RENEW_AFTER,
        renew_bytes: int = RENEW_BYTES,
    ) -> None:
        self.readers = tuple(dict.fromkeys(name for name in (reader, fallback) if name))
        for name in self.readers:
            require_reader(name)
        self.deadline, self.limits = deadline, limits
        self.renew_after, self.renew_bytes = renew_after, renew_bytes
        self._process: ChildProcess | None = None
        self._kills = self._served = 0

    def decode(self, path: str | Path, views: Sequence[View], policy: ViewPolicy) -> list[RasterView] | DecodeFailure:
        """All views of a video in their order, or why there are none. `path` may be an address like s3://bucket/key.

        OSError where storage or memory fails; ConfigError for a reader that cannot be used; JobError for a defect of
        ours.
        """
        self._kills = 0
        self._renew()
        try:
            with local_copy(path, self.limits) as local:
                return self._decode(local, views, policy)
        except DecodeError as error:  # too large to be fetched
            return _failure([_Problem(self.readers[0], error.reason, str(error))])

    def _decode(self, path: Path, views: Sequence[View], policy: ViewPolicy) -> list[RasterView] | DecodeFailure:
        problems = []
        for reader in self.readers:
            outcome = self._attempt(reader, path, views, policy)
            if not isinstance(outcome, _Problem):
                return outcome
            problems.append(outcome)
        if problems[-1].reason != "too_large":
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
        self, reader: str, path: Path, views: Sequence[View], policy: ViewPolicy
    ) -> list[RasterView] | _Problem:
        asked = {"views": [asdict(view) for view in views], "policy": policy.to_json()}
        try:
            header, payload = self._ask({"do": "decode", "reader": reader, **asked}, path)
        except Overrun as overrun:
            return _Problem(reader, "deadline", f"no answer within {self.deadline:g} s{_last_line(str(overrun))}")
        except Gone as gone:
            return _Problem(reader, "crash", f"the decoder ended with {gone.ending}{_last_line(gone.tail)}")
        if header.get("error") == "decode":
            return _Problem(reader, header["reason"], header["message"])
        _raise_others(header, path)
        return views_from_message(header["views"], payload)

    def _check_storage(self, path: Path) -> None:
        """OSError where the file cannot be read to its end; piece by piece, so that slow is not taken for dead."""
        offset, read = 0, 1
        while read:
            try:
                header, _ = self._ask({"do": "check", "offset": offset}, path)
            except (Overrun, Gone) as error:
                raise OSError(errno.ETIMEDOUT, "reading the file stalls", str(path)) from error
            _raise_others(header, path)
            read = header["read"]
            offset += read

    def _ask(self, request: dict[str, Any], path: Path) -> Message:
        """The child's answer. Overrun, Gone: the file did that. OSError where others keep ending the children."""
        whole = {**request, "path": os.path.abspath(path), **self._terms()}
        while True:
            try:
                return self._running().ask(whole, self.deadline)
            except Overrun:
                self._process = None
                raise
            except Gone as gone:
                self._process = None
                if not gone.from_outside:
                    raise
                self._count_kill(gone, path)

    def _count_kill(self, gone: Gone, path: Path) -> None:
        self._kills += 1
        if self._kills >= MAX_KILLS:
            message = f"decode children keep being ended by others ({gone.ending}), as when memory runs out"
            raise OSError(errno.ENOMEM, message, str(path)) from gone

    def _renew(self) -> None:
        """End a child that has done its share."""
        if self._process is None:
            return
        self._served += 1
        if self._served >= self.renew_after or self._process.resident() >= self.renew_bytes:
            self.close()

    def _running(self) -> ChildProcess:
        """The child, with its first reader loaded: that takes seconds for some, which no video has to answer for."""
        if self._process is not None and not self._process.alive():
            self.close()
        if self._process is None:
            memory = str(self.limits.memory_bytes)
            self._process = ChildProcess("pipeline.video.child", [memory], DECORD_ENVIRONMENT)
            self._served = 0
            load = {"do": "load", "reader": self.readers[0], **self._terms(), "deadline": START_SECONDS}
            header, _ = self._process.ask(load, START_SECONDS)
            _raise_others(header, self.readers[0])
        return self._process

    def _terms(self) -> dict[str, Any]:
        return {"deadline": self.deadline, "limits": asdict(self.limits)}


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
        gone = header["errno"] == errno.ENOENT
        raise OSError(header["errno"], MISSING if gone else header["message"], str(path))
    if kind == "config":
        raise ConfigError(f"this video reader cannot be used here: {header['message']}")
    if kind == "defect":
        raise JobError(f"decoding {path} met a defect of this program, not of the file:\n{header['message']}")


def _failure(problems: Sequence[_Problem]) -> DecodeFailure:
    last = problems[-1]
    before = "".join(f"; before, {each.reader}: {each.message}" for each in problems[:-1])
    return DecodeFailure(last.reason, last.message + before, last.reader, reader_version(last.reader), len(problems))


def _last_line(tail: str) -> str:
    lines = tail.splitlines()
    return f" ({lines[-1][:200]})" if lines else ""
