"""The readers by name. `decord` is the default, `pyav` the second reader; `module:factory` names one of your own.

    decord   reads forward only. It refuses (DecodeError, so that the second reader is asked) containers without an
             index, a negative or unknown first timestamp, views thousands of frames into a file, and videos whose
             frames would not fit into 512 MB of memory.
    pyav     keeps the packets in memory and finds frames by timestamp. It refuses what FFmpeg itself cannot decode.

Both decode with one thread at native size, turn frames as the file says, and agree on the index and time of every frame
of well-formed files.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol

from pipeline.errors import ConfigError
from pipeline.video.decord_reader import DecordReader
from pipeline.video.handle import DecodeError, Facts, Handle
from pipeline.video.pyav_reader import PyAVReader

__all__ = ["DecodeError", "DecordReader", "Facts", "Handle", "PyAVReader", "Reader", "reader_named", "reader_version"]

_PACKAGES = {"decord": "decord", "pyav": "av"}


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


def reader_named(name: str) -> Reader:
    """The reader called `decord`, `pyav` or `module:factory` (called without arguments).

    ConfigError for another name, ImportError where its library is not installed.
    """
    if name == "decord":
        return DecordReader()
    if name == "pyav":
        return PyAVReader()
    module, _, factory = name.partition(":")
    if not module or not factory:
        raise ConfigError(f"no video reader is called {name!r}; there are decord, pyav and module:factory")
    reader: Reader = getattr(import_module(module), factory)()
    return reader


def reader_version(name: str) -> str:
    """The installed version behind `decord` or `pyav` without loading it; empty where it is not known."""
    try:
        return version(_PACKAGES[name])
    except (KeyError, PackageNotFoundError):
        return ""
