"""The readers by name. `decord` is the default, `pyav` the second reader; `module:factory` names one of your own.

    decord      reads forward only. It refuses (DecodeError, so that the second reader is asked) containers without an
                index, a negative or unknown first timestamp, views thousands of frames into a file, and videos whose
                frames would not fit into 512 MB of memory.
    pyav        keeps the packets in memory and finds frames by timestamp. It refuses what FFmpeg itself cannot decode.
    torchcodec  exact seeks; needs the extra `stagedkd[torchcodec]` and the system's FFmpeg libraries. It refuses what
                it counts otherwise than the packets do.

All decode with one thread at native size, turn frames as the file says, and agree on the index and time of every frame
of well-formed files.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from pipeline.errors import ConfigError
from pipeline.video.decord_reader import DecordReader
from pipeline.video.handle import DecodeError, Facts, Handle, Limits
from pipeline.video.pyav_reader import PyAVReader
from pipeline.video.torchcodec_reader import TorchcodecReader

__all__ = [
    "DecodeError",
    "DecordReader",
    "Facts",
    "Handle",
    "Limits",
    "PyAVReader",
    "Reader",
    "TorchcodecReader",
    "reader_named",
    "reader_version",
    "require_reader",
]


class Reader(Protocol):
    """Opens videos."""

    @property
    def name(self) -> str:
        """What is stored with every view, and names the reader again."""

    @property
    def version(self) -> str:
        """The version of the library behind it."""

    def open(self, path: str | Path) -> Handle:
        """OSError where storage fails, DecodeError for a fact about the file."""


_READERS: dict[str, Callable[[Limits], Reader]] = {
    "decord": DecordReader,
    "pyav": PyAVReader,
    "torchcodec": TorchcodecReader,
}
_PACKAGES = {"decord": "decord", "pyav": "av", "torchcodec": "torchcodec"}
_ADVICE = {
    "decord": "it exists for Linux on x86-64 only; set precompute.reader to pyav",
    "torchcodec": "install stagedkd[torchcodec], or set precompute.reader to decord or pyav",
}


def reader_named(name: str, limits: Limits = Limits()) -> Reader:
    """The reader called `decord`, `pyav`, `torchcodec` or `module:factory` (called without arguments).

    ConfigError for another name and where its library is not installed, ImportError where that does not load.
    """
    if name in _READERS:
        require_reader(name)
        return _READERS[name](limits)
    module, _, factory = name.partition(":")
    if not module or not factory:
        raise ConfigError(f"no video reader is called {name!r}; there are {', '.join(_READERS)} and module:factory")
    reader: Reader = getattr(import_module(module), factory)()
    return reader


def require_reader(name: str) -> None:
    """ConfigError where the library of a reader is not installed; nothing is loaded."""
    package = _PACKAGES.get(name)
    if package and find_spec(package) is None:
        advice = _ADVICE.get(name, f"install {package}")
        raise ConfigError(f"the video reader {name} needs the package {package}, which is not installed: {advice}")


def reader_version(name: str) -> str:
    """The installed version behind a reader of ours without loading it; empty where it is not known."""
    try:
        return version(_PACKAGES[name])
    except (KeyError, PackageNotFoundError):
        return ""
