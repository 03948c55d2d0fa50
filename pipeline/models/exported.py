"""A teacher from a torch.export program: `model: exported`, `weights: FILE.pt2`.

The program takes one tensor, float (B,c,T,H,W) behind the recipe's transform, or the uint8 raster (B,T,H,W,3) where it
was exported so (as `stagedkd export` does: the transform is inside). It gives logits (B,C), or several tensors: the
option `outputs` names them in their order, `logits` for the logits, null for what is left out; the others are features
(maps or vectors) of the substages, in their order. A program with logits alone has no substages.

The file is read as data (`archive`), never by torch.export.load, and its graph is run by an interpreter that knows
PyTorch's operators only (`program`, `operators`). The graph enters the network's options, so that a saved network is
built again without the file. It is kept for the device that runs it: devices in the graph are the input's own.

Not read: programs with control flow or a change of grad mode inside (higher-order operators), custom operators or
classes, sizes given as numbers, several inputs, compiled code.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.errors import ConfigError, InputError, StagedKDError
from pipeline.models.archive import DTYPES, MANGLED, Archive, Stored, read_archive, refuse
from pipeline.models.hints import read_options
from pipeline.models.network import Parts
from pipeline.models.program import Program
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap
from pipeline.models.transform import Transform

NAME, SUFFIX = "exported", ".pt2"
# program: the graph, filled in when the file is first read. outputs: as above; logits first where it is not given.
DEFAULTS: dict[str, Any] = {"program": None, "outputs": None}
LOGITS = "logits"
BYTE, SMALL = 1, 1 << 18
# The raster itself: (x - 0) / (255 / 255).
RASTER = Transform(size=None, mean=(0.0,) * 3, std=(1 / 255,) * 3)
PLAIN = Transform(size=None, mean=(0.5,) * 3, std=(0.25,) * 3)
UNCHECKED = "torch.ops.aten._assert_tensor_metadata.default"  # of number types and devices, which autocast may change


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The program of `spec.weights` (or the option `program`), without its tensors' values.

    InputError for a file that is not accepted; ConfigError for options that do not fit it.
    """
    options = read_options(spec.options, {**common, **DEFAULTS}, spec.model)
    if options["taps"] not in (None, []) and options["program"] is None:
        raise ConfigError("an exported program cannot be cut: name its features in the option outputs")
    description = options["program"] or describe(_file(spec.weights), options["outputs"])
    body = Program(description)
    if not any(True for _ in body.parameters()):
        raise InputError(f"the program {spec.weights} has no parameters of floating point: is it a network?")
    shape, raster = description["sizes"][1:], description["raster"]
    transform = _transform(spec, shape, raster=raster)
    frames, height, width = shape[:3] if raster else shape[1:]
    trial = (frames or 8, height or 64, width or 64)
    count = max(2, description["batch"][0])
    return Parts(
        body=body,
        taps=tuple(Tap(f"outputs.{number}") for number in range(1, len(description["outputs"]))),
        transform=transform,
        classes=spec.classes,
        num_classes=num_classes,
        options={**options, "program": description},
        head=None,
        library=NAME,
        trial_shape=trial,
        shapes_only=count * prod(trial) > SMALL,
        batch=tuple(description["batch"]),
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """The file's flat tensors under the names of `Program`."""
    archive = read_archive(path)
    return {f"w{number}": stored.flat for number, stored in enumerate(_used(path, archive).values())}


def describe(path: Path, outputs: Sequence[str | None] | None) -> dict[str, Any]:
    """The program of a .pt2 file as `Program` takes it. InputError for a file that is not accepted."""
    archive = read_archive(path)
    try:
        return _described(path, archive, outputs)
    except StagedKDError:
        raise
    except MANGLED as error:
        refuse(path, f"its graph is damaged ({type(error).__name__}: {error})")


def _described(path: Path, archive: Archive, outputs: Sequence[str | None] | None) -> dict[str, Any]:
    graph = archive.model["graph_module"]["graph"]
    name = _input(path, archive)
    meta = graph["tensor_values"][name]
    sizes = [size.get("as_int") for size in meta["sizes"]]
    raster = meta["dtype"] == BYTE and len(sizes) == 5 and sizes[-1] == 3
    if len(sizes) != 5 or not (raster or meta["dtype"] in (6, 7, 13)):
        refuse(
            path,
            f"it takes sizes {sizes} of number type {meta['dtype']}; wanted: float (B,3,T,H,W) or uint8 (B,T,H,W,3)",
        )
    return {
        "input": name,
        "raster": raster,
        "sizes": [None, *sizes[1:]],
        "batch": _batch(meta["sizes"][0], archive.model.get("range_constraints") or {}),
        "tensors": [_tensor(key, stored) for key, stored in _used(path, archive).items()],
        "nodes": [_node(node) for node in graph["nodes"] if node["target"] != UNCHECKED],
        "outputs": _outputs(path, archive, outputs),
    }


def _input(path: Path, archive: Archive) -> str:
    """The graph's name of the one tensor that it is given."""
    given = [spec["user_input"]["arg"] for spec in _signature(archive)["input_specs"] if "user_input" in spec]
    if len(given) != 1 or "as_tensor" not in given[0]:
        refuse(path, f"it takes {len(given)} inputs; wanted: one tensor of clips")
    return str(given[0]["as_tensor"]["name"])


def _used(path: Path, archive: Archive) -> dict[str, Stored]:
    """Graph's name -> tensor, for each that the graph is given beside the clips."""
    found = {}
    for spec in _signature(archive)["input_specs"]:
        ((kind, said),) = spec.items()
        if kind == "user_input":
            continue
        if kind not in ("parameter", "buffer", "tensor_constant"):
            refuse(path, f"it is given a {kind}; wanted: parameters, buffers and constant tensors")
        name = said[f"{kind}_name"]
        if name not in archive.tensors:
            refuse(path, f"its tensor {name!r} is missing")
        found[str(said["arg"]["name"])] = archive.tensors[name]
    return found


def _outputs(path: Path, archive: Archive, named: Sequence[str | None] | None) -> list[str]:
    """Graph's names of the logits and the features, logits first."""
    given = [next(iter(spec.items())) for spec in _signature(archive)["output_specs"]]
    odd = [kind for kind, said in given if kind != "user_output" or "as_tensor" not in said["arg"]]
    if odd or not given:
        trains = (
            " (it changes its buffers: call eval() on the network before torch.export)"
            if "buffer_mutation" in odd
            else ""
        )
        refuse(path, f"it gives {', '.join(odd) or 'nothing'}; wanted: tensors only{trains}")
    names = [LOGITS, *(f"substage_{n}" for n in range(1, len(given)))] if named is None else list(named)
    if len(names) != len(given) or names.count(LOGITS) != 1:
        raise ConfigError(
            f"option outputs of model {NAME!r} is {names}: the program gives {len(given)} tensors; name each, one of "
            f"them {LOGITS!r}, and null for one that is left out"
        )
    places = [names.index(LOGITS), *(n for n, name in enumerate(names) if name not in (None, LOGITS))]
    return [str(given[place][1]["arg"]["as_tensor"]["name"]) for place in places]


def _signature(archive: Archive) -> Mapping[str, Any]:
    return archive.model["graph_module"]["signature"]


def _node(node: Mapping[str, Any]) -> list[Any]:
    arguments = [[each["name"], each["arg"], each["kind"] == 2] for each in node["inputs"]]
    names = [_result(output, f"{node.get('name')}#{place}") for place, output in enumerate(node["outputs"])]
    if not names or "as_none" in node["outputs"][0]:
        return [node["target"], arguments, None]
    return [node["target"], arguments, names[0] if len(names) == 1 else names]


def _result(output: Mapping[str, Any], unnamed: str) -> Any:
    ((kind, value),) = output.items()
    if kind == "as_tensors":
        return [each["name"] for each in value]
    return value["name"] if kind == "as_tensor" else unnamed if kind == "as_none" else value["as_name"]


def _tensor(name: str, stored: Stored) -> dict[str, Any]:
    number = next(key for key, dtype in DTYPES.items() if dtype is stored.flat.dtype)
    said = {"name": name, "sizes": list(stored.sizes), "strides": list(stored.strides), "offset": stored.offset}
    return said | {"length": len(stored.flat), "dtype": number, "trained": stored.trained}


def _batch(size: Mapping[str, Any], ranges: Mapping[str, Any]) -> list[int | None]:
    """[least, most] clips of a call; the expression is looked at for its symbol's name, never evaluated."""
    if "as_int" in size:
        return [size["as_int"]] * 2
    found = re.match(r"Symbol\('(\w+)'", size["as_expr"]["expr_str"]) or re.match(r"(\w+)", size["as_expr"]["expr_str"])
    said = ranges.get(found[1] if found else "", {})
    return [max(1, int(said.get("min_val") or 1)), said.get("max_val")]


def _transform(spec: NetworkSpec, shape: Sequence[int | None], *, raster: bool) -> Transform:
    if raster:
        if spec.transform and Transform.read(spec.transform, RASTER, spec.model) != RASTER:
            raise ConfigError(f"model {NAME!r}: this program takes the raster and has its own transform: leave it out")
        return RASTER
    channels, _, height, width = shape
    size = (height, width) if height and width else None
    transform = Transform.read(spec.transform, Transform(size, PLAIN.mean, PLAIN.std), spec.model)
    if channels not in (None, transform.channels):
        raise ConfigError(
            f"model {NAME!r}: the program takes {channels} channels, transform gives {transform.channels}"
        )
    return transform


def _file(weights: str | None) -> Path:
    if weights is None or not weights.endswith(SUFFIX):
        raise ConfigError(f"model {NAME!r} is given by its file: set weights to a {SUFFIX} file of torch.export.save")
    return Path(weights)
