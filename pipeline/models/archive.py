"""A torch.export archive (.pt2) read as data: JSON and raw tensors, nothing of it is run, parsed as code or unpickled.

torch.export.load is for trusted files: it unpickles sample inputs and odd tensors, hands expressions to sympy and
compiles names of the graph as Python. This reads the same file (archive version 0, schema 8, as of torch 2.9 to 2.13)
and refuses whatever is not a graph of operators over plain tensors. Layout of the archive, below one top folder:

    models/NAME.json                                the graph, its signature, shapes
    data/{weights,constants}/NAME_{weights,constants}_config.json   tensors by name: file, number type, sizes, strides
    data/{weights,constants}/*                      the bytes of each
    data/sample_inputs/*, extra/*, version files    left alone
"""

import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from pipeline.errors import InputError, StagedKDError

SCHEMA_MAJOR, ARCHIVE_VERSION = 8, "0"
IGNORED = ("data/sample_inputs/", "extra/", ".data/", ".format_version", ".storage_alignment")
KNOWN = ("models/", "data/weights/", "data/constants/")
VERSIONS = ("archive_format", "archive_version", "byteorder", "version")
# Of the schema's ScalarType: what a video network is made of.
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
MANGLED = (KeyError, TypeError, IndexError, AttributeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Archive:
    """model: models/NAME.json. tensors: name -> (flat values (N,), sizes, strides, storage offset, whether trained)."""

    model: dict[str, Any]
    tensors: dict[str, "Stored"]


@dataclass(frozen=True)
class Stored:
    """One tensor: flat values as they lie in the file, and the view of them that the graph sees."""

    flat: Tensor
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    trained: bool


def read_archive(path: Path) -> Archive:
    """The graph and the tensors of a .pt2 file. InputError that says what was found where it is none, or holds more."""
    try:
        with zipfile.ZipFile(path) as opened:
            entries = _entries(path, opened)
    except FileNotFoundError as error:
        raise InputError(f"there is no program {path}") from error
    except PermissionError as error:
        raise InputError(f"the program {path} may not be read: give this user the right to") from error
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
    ) as error:  # the last two: how zipfile refuses entries
        raise InputError(f"{path} is no torch.export archive ({error}): write it with torch.export.save") from error
    try:
        return _parsed(path, entries)
    except StagedKDError:
        raise
    except MANGLED as error:
        refuse(path, f"its description is damaged ({type(error).__name__}: {error})")


def _entries(path: Path, opened: zipfile.ZipFile) -> dict[str, bytes]:
    """Name below the top folder -> bytes, of all entries that are read."""
    infos = [info for info in opened.infolist() if not info.is_dir()]
    names = [info.filename for info in infos]
    tops = {name.split("/")[0] for name in names}
    odd = [name for name in names if name.startswith("/") or "\\" in name or ".." in name.split("/")]
    if odd or len(tops) != 1 or len(set(names)) < len(names):
        refuse(path, f"its entries are not those of one archive ({(odd or sorted(tops) or ['none'])[0]!r})")
    kept = {}
    for info in infos:
        name = info.filename.partition("/")[2]
        if name.startswith(IGNORED):
            continue
        if not name.startswith(KNOWN) and name not in VERSIONS:
            refuse(path, f"it holds {name!r}, which is no part of a graph of operators")
        if info.compress_type != zipfile.ZIP_STORED:
            refuse(path, f"its entry {name!r} is compressed, as torch.export.save writes none")
        kept[name] = opened.read(info)
    return kept


def _parsed(path: Path, entries: Mapping[str, bytes]) -> Archive:
    models = [name for name in entries if name.startswith("models/")]
    version, order = (entries.get(name, b"").decode("ascii", "replace").strip() for name in VERSIONS[1:3])
    if len(models) != 1 or version != ARCHIVE_VERSION:
        refuse(path, f"it has {len(models)} models and archive version {version!r} (wanted: 1 and {ARCHIVE_VERSION!r})")
    if order not in ("", sys.byteorder):
        refuse(path, f"its numbers are {order} endian, this machine's are {sys.byteorder} endian")
    model = _json(path, entries, models[0])
    major = model["schema_version"]["major"]
    if major != SCHEMA_MAJOR:
        refuse(
            path, f"its schema is {major!r}, this version reads {SCHEMA_MAJOR}: export it anew with torch 2.9 or later"
        )
    name = models[0].removeprefix("models/").removesuffix(".json")
    tensors: dict[str, Stored] = {}
    for kind in ("weights", "constants"):
        config = _json(path, entries, f"data/{kind}/{name}_{kind}_config.json")["config"]
        tensors |= {key: _stored(path, f"data/{kind}/", key, said, entries) for key, said in config.items()}
    return Archive(model, tensors)


def _json(path: Path, entries: Mapping[str, bytes], name: str) -> Any:
    if name not in entries:
        refuse(path, f"it has no {name} (the legacy form, which holds pickles, is not read: export it anew)")
    return json.loads(entries[name])


def _stored(path: Path, folder: str, name: str, said: Mapping[str, Any], entries: Mapping[str, bytes]) -> Stored:
    place = str(said["path_name"])
    meta = said["tensor_meta"]
    if said["use_pickle"] is not False or not place.startswith(("weight_", "tensor_")) or meta is None:
        refuse(path, f"{name!r} is stored as a pickle ({folder}{place}), which is not read")
    if meta["dtype"] not in DTYPES or meta["layout"] != 7:
        refuse(path, f"{name!r} has number type {meta['dtype']!r} and layout {meta['layout']!r}: only dense tensors")
    dtype, data = DTYPES[meta["dtype"]], entries[folder + place]
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    sizes, strides = (tuple(int(each["as_int"]) for each in meta[key]) for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    flat.as_strided(sizes, strides, offset)  # raises where it reaches beyond the bytes
    return Stored(flat, sizes, strides, offset, bool(said["is_param"]) and dtype.is_floating_point)


def refuse(path: Path, what: str) -> NoReturn:
    """InputError about a program that is not accepted."""
    raise InputError(f"{path} is not accepted as a program: {what}")
