"""The decode child: `python -m pipeline.video.child MEMORY_BYTES` answers requests from stdin until it ends.

It may be killed at any moment, holds nothing that matters, and never loads torch. Replies leave through a private
copy of stdout; fd 1 then leads to stderr, so that chatter of a decoder cannot enter the protocol.
"""

import ctypes
import errno
import itertools
import mmap
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError, Limits
from pipeline.video.raster import decode_views
from pipeline.video.reader import Reader, reader_named
from pipeline.video.views import View, ViewPolicy
from pipeline.video.wire import encode, read_exactly, receive, views_to_message, write_all

# The parent kills a late child. This alarm is for a child that outlived its parent in a decoder that never returns.
_ALARM_FACTOR = 3

# The part of a file that is read before it is decoded, and at a time when nothing decodes it.
_CHECK_BYTES = 1 << 26

# After so many requests freed memory goes back to the system; each time costs a millisecond or two.
_GIVE_BACK_EVERY = 5

_readers: dict[tuple[str, Limits], Reader] = {}


def main() -> None:
    """Serve until stdin ends."""
    requests, replies = _private_pipes()
    _limit_memory(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    write_all(replies, encode({"ready": os.getpid()}))
    give_back = _memory_returner()
    for count in itertools.count(1):
        try:
            request, _ = receive(partial(read_exactly, requests))
        except EOFError:
            return
        _serve(request, replies)
        if not count % _GIVE_BACK_EVERY:
            give_back(0)


def _serve(request: dict[str, Any], replies: int) -> None:
    signal.alarm(int(_ALARM_FACTOR * request["deadline"]) + 1)
    header, payload = _answer(request)
    signal.alarm(0)
    write_all(replies, encode(header, payload))


def _memory_returner() -> Callable[[int], int]:
    """malloc_trim of glibc; elsewhere nothing.

    Decoders allocate pieces of all sizes in several threads; what they free lies between what they keep. decord 0.6
    grows by 25 kB with each short film that way, and by 1 kB when this is called.
    """
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)


def _private_pipes() -> tuple[int, int]:
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _limit_memory(size: int) -> None:
    """decord decodes ahead without bound: past the limit it aborts, which costs one attempt and not the machine."""
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[memoryview]]:
    try:
        return _DO[request["do"]](request)
    except DecodeError as error:
        return {"error": "decode", "reason": error.reason, "message": str(error)}, []
    except MemoryError:
        return _out_of_memory(request), []
    except OSError as error:
        return {"error": "storage", "errno": error.errno, "message": error.strerror or str(error)}, []
    except (ConfigError, ImportError) as error:
        return {"error": "config", "message": str(error)}, []
    except Exception:
        # Ours to mend, not the file's fault: the parent raises it.
        return {"error": "defect", "message": traceback.format_exc()}, []


def _load(request: dict[str, Any]) -> tuple[dict[str, Any], list[memoryview]]:
    _reader(request)
    return {}, []


def _decode(request: dict[str, Any]) -> tuple[dict[str, Any], list[memoryview]]:
    # Decoders hide errors of reading: they take the place for the end of the file. What is read here comes from memory
    # when they ask for it.
    _read_through(request["path"], 0)
    views = [View(**fields) for fields in request["views"]]
    policy = ViewPolicy.from_json(request["policy"])
    headers, payload = views_to_message(decode_views(request["path"], views, policy, _reader(request)))
    return {"views": headers}, payload


def _check(request: dict[str, Any]) -> tuple[dict[str, Any], list[memoryview]]:
    return {"read": _read_through(request["path"], request["offset"])}, []


_DO = {"load": _load, "decode": _decode, "check": _check}


def _reader(request: dict[str, Any]) -> Reader:
    key = (request["reader"], Limits(**request["limits"]))
    if key not in _readers:
        _readers[key] = reader_named(*key)
    return _readers[key]


def _read_through(path: str, offset: int) -> int:
    """The bytes that could be read from `offset` on, at most _CHECK_BYTES. OSError where they cannot be had."""
    done = 0
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while done < _CHECK_BYTES and (count := len(file.read(1 << 20))):
            done += count
    return done


def _out_of_memory(request: dict[str, Any]) -> dict[str, Any]:
    """The file's fault, unless the machine itself has less left than this process may use.

    Shared memory does not count towards the limit of this process, so only the machine can refuse it.
    """
    allowed = request["limits"]["memory_bytes"]
    try:
        mmap.mmap(-1, allowed or _CHECK_BYTES).close()
    except (OSError, MemoryError):
        return {"error": "storage", "errno": errno.ENOMEM, "message": os.strerror(errno.ENOMEM)}
    message = f"needs more memory than the {allowed} bytes that a decode child has"
    return {"error": "decode", "reason": "too_large", "message": message}


if __name__ == "__main__":
    main()
