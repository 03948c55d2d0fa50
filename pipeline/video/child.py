"""The decode child: `python -m pipeline.video.child MEMORY_BYTES` answers requests from stdin until it ends.

It may be killed at any moment, holds nothing that matters, and never loads torch. Replies leave through a private
copy of stdout; fd 1 then leads to stderr, so that chatter of a decoder cannot enter the protocol.
"""

import os
import resource
import signal
import sys
import traceback
from functools import partial
from typing import Any

from pipeline.errors import ConfigError
from pipeline.video.handle import DecodeError
from pipeline.video.raster import decode_views
from pipeline.video.reader import Reader, reader_named
from pipeline.video.views import View, ViewPolicy
from pipeline.video.wire import encode, read_exactly, receive, views_to_message, write_all

# The parent kills a late child. This alarm is for a child that outlived its parent in a decoder that never returns.
_ALARM_FACTOR = 3

# The part of a file that is read to find out whether storage works.
_CHECK_BYTES = 1 << 28

_readers: dict[str, Reader] = {}


def main() -> None:
    """Serve until stdin ends."""
    requests, replies = _private_pipes()
    _limit_memory(int(sys.argv[1]))
    write_all(replies, encode({"ready": os.getpid()}))
    while True:
        try:
            request, _ = receive(partial(read_exactly, requests))
        except EOFError:
            return
        signal.alarm(int(_ALARM_FACTOR * request["deadline"]) + 1)
        header, payload = _answer(request)
        signal.alarm(0)
        write_all(replies, encode(header, payload))


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
        if request["do"] == "check":
            _read_through(request["path"])
            return {}, []
        return _decode(request)
    except DecodeError as error:
        return {"error": "decode", "reason": error.reason, "message": str(error)}, []
    except MemoryError:
        return {"error": "decode", "reason": "too_large", "message": "needs more memory than a decode child has"}, []
    except OSError as error:
        return {"error": "storage", "errno": error.errno, "message": error.strerror or str(error)}, []
    except (ConfigError, ImportError) as error:
        return {"error": "config", "message": str(error)}, []
    except Exception:
        # Ours to mend, not the file's fault: the parent raises it.
        return {"error": "defect", "message": traceback.format_exc()}, []


def _decode(request: dict[str, Any]) -> tuple[dict[str, Any], list[memoryview]]:
    name = request["reader"]
    if name not in _readers:
        _readers[name] = reader_named(name)
    views = [View(**fields) for fields in request["views"]]
    policy = ViewPolicy.from_json(request["policy"])
    headers, payload = views_to_message(decode_views(request["path"], views, policy, _readers[name]))
    return {"views": headers}, payload


def _read_through(path: str) -> None:
    """OSError where the bytes of the file cannot be had."""
    with open(path, "rb") as file:
        left = _CHECK_BYTES
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            left -= len(block)


if __name__ == "__main__":
    main()
