"""An exported program as a module: its nodes are run one after another by operators that `operators` allows.

What a program is here, JSON values only (so that it lives in a saved network's description):

    input       name of the one value that is given      sizes   of it, null where free: [null, 3, 8, 112, 112]
    raster      whether that is the uint8 raster         batch   [least, most or null] clips of a call
    tensors     [{name, sizes, strides, offset, length, dtype, trained}, …] of the stored tensors
    nodes       [target, [[name, argument, by keyword], …], name of the result, list of names, or null for none]
    outputs     names of what is given back

Legend: B clips, c channels, T×H×W positions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError, StagedKDError
from pipeline.models.archive import DTYPES, MANGLED
from pipeline.models.operators import check_steady, may_alias, resolve, written

FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
SYMBOLS = ("int", "float", "bool")
# Given as they are; floats that JSON has no number for are written as text.
BLANK = torch.empty(0)
PLAIN = ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_strings")
NAMED = (
    "as_tensor",
    "as_tensors",
    "as_optional_tensors",
    *(f"as_sym_{kind}{s}" for kind in SYMBOLS for s in ("", "s")),
)
Names = str | list[str] | None
Node = tuple[Callable[..., Any], list[Any], dict[str, Any], Names, list[str]]


class Program(nn.Module):
    """`description` as above. Tensors are flat parameters and buffers `w0`, `w1`, …; each output passes the module
    `outputs.N`, where it can be tapped. InputError where the description names what is not allowed or not there."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        super().__init__()
        self.description = description
        try:
            self._hold(description["tensors"])
            self._nodes = _prepared(description)
            self._check_names()
        except MANGLED as error:
            if isinstance(error, StagedKDError):
                raise
            raise InputError(f"the program's description is damaged ({type(error).__name__}: {error})") from error
        self.outputs = nn.ModuleList(nn.Identity() for _ in description["outputs"])

    def _hold(self, tensors: Sequence[Mapping[str, Any]]) -> None:
        self._tensors: dict[str, tuple[str, tuple[list[int], list[int], int]]] = {}
        for number, said in enumerate(tensors):
            flat = torch.zeros(said["length"], dtype=DTYPES[said["dtype"]])
            if said["trained"]:
                self.register_parameter(f"w{number}", nn.Parameter(flat))
            else:
                self.register_buffer(f"w{number}", flat)
            view = (list(said["sizes"]), list(said["strides"]), int(said["offset"]))
            self._tensors[said["name"]] = (f"w{number}", view)

    def forward(self, clip: Tensor) -> Tensor:
        """float (B,c,T,H,W) -> logits, the first output; others only pass their modules. ConfigError for a clip of
        another shape than was exported."""
        given = clip.permute(0, 2, 3, 4, 1).to(torch.uint8) if self.description["raster"] else clip
        given = given.contiguous()
        check_clip(given.shape, self.description)
        # A view of the flat values: memory as it was when exported, whatever was done to the parameters since.
        values: dict[str, Any] = {
            name: getattr(self, at).as_strided(*view) for name, (at, view) in self._tensors.items()
        }
        values[self.description["input"]] = given
        for call, args, kwargs, names, dead in self._nodes:
            found = call(*(_value(each, values, clip) for each in args), **_values(kwargs, values, clip))
            values.update(_results(names, found))
            for name in dead:
                del values[name]
        results = [tap(values[name]) for tap, name in zip(self.outputs, self.description["outputs"], strict=True)]
        return results[0]

    def _check_names(self) -> None:
        """Every name is made before it is read, so that a forward meets no surprise."""
        known = {*self._tensors, self.description["input"]}
        for _, args, kwargs, names, _ in self._nodes:
            unknown = [name for each in (*args, *kwargs.values()) for name in _read(each) if name not in known]
            if unknown:
                raise InputError(f"the program reads {unknown[0][:80]!r} before anything has made it")
            twice = known & {*_made(names)}
            if twice:
                raise InputError(f"the program makes {min(twice)[:80]!r} twice")
            known.update(_made(names))
        missing = [name for name in self.description["outputs"] if name not in known]
        if missing:
            raise InputError(f"the program gives {missing[0][:80]!r}, which nothing makes")


def check_clip(shape: Sequence[int], description: Mapping[str, Any]) -> None:
    """ConfigError where a program does not take an input of this shape."""
    wanted, (least, most) = description["sizes"], description["batch"]
    fits = len(shape) == len(wanted) and all(
        size in (None, given) for size, given in zip(wanted[1:], shape[1:], strict=True)
    )
    if not fits:
        raise ConfigError(
            f"the exported program takes {wanted[1:]}, and is given {list(shape[1:])} for a clip: set "
            "views.num_frames and transform.size (or views.size) to what it was exported for"
        )
    check_batch(shape[0], least, most)


def check_batch(batch: int, least: int, most: int | None) -> None:
    """ConfigError where a program does not take so many clips at once."""
    if least <= batch and (most is None or batch <= most):
        return
    takes = str(least) if least == most else f"{least} to {most or 'any'}"
    raise ConfigError(
        f"the exported program takes {takes} clips at once, and plan.micro_batch is {batch}: set "
        "plan.micro_batch to fit, or export it with a dynamic batch"
    )


def _check_held(description: Mapping[str, Any]) -> None:
    """Refuse a program that changes its own tensors: the next call would give other values. InputError."""
    held = {said["name"] for said in description["tensors"]}
    for target, arguments, names in description["nodes"]:
        call = resolve(target)
        read = {name: set(_read(value)) & held for name, value, _ in arguments}
        changed = [found for name, found in read.items() if found and name in written(call)]
        if changed:
            raise InputError(
                f"the program changes {min(changed[0])[:80]!r} in place ({target}), so that its answers are not fixed: "
                "call eval() on the network before torch.export"
            )
        if any(read.values()) and may_alias(call):
            held |= {*_made(names)}


def _prepared(description: Mapping[str, Any]) -> list[Node]:
    """The nodes with what they call, and the names that are not needed any more after each."""
    _check_held(description)
    nodes: list[Node] = []
    for target, arguments, names in description["nodes"]:
        call = resolve(target)
        check_steady(call, target, {name: value.get("as_bool", value.get("as_float")) for name, value, _ in arguments})
        args = [value for _, value, by_keyword in arguments if not by_keyword]
        for value in (value for _, value, _ in arguments if next(iter(value)) not in NAMED):
            _value(value, {}, BLANK)  # raises where it is of a kind that is not known
        nodes.append((call, args, {name: value for name, value, by_keyword in arguments if by_keyword}, names, []))
    seen = {*description["outputs"]}
    for _, args, kwargs, names, dead in reversed(nodes):
        read = [name for each in (*args, *kwargs.values()) for name in _read(each)]
        dead += sorted({*_made(names), *read} - seen)
        seen |= {*dead}
    return nodes


def _made(names: Names) -> list[str]:
    return [names] if isinstance(names, str) else names or []


def _results(names: Names, found: Any) -> dict[str, Any]:
    return {names: found} if isinstance(names, str) else dict(zip(names or (), found if names else (), strict=True))


def _read(argument: Mapping[str, Any]) -> list[str]:
    """Names of the values that an argument stands for."""
    ((kind, value),) = argument.items()
    if kind == "as_tensor":
        return [value["name"]]
    if kind in ("as_tensors", "as_optional_tensors"):
        return [name for each in value for name in (_read(each) if kind == "as_optional_tensors" else [each["name"]])]
    items = value if kind.startswith("as_sym") and kind.endswith("s") else [value] if kind.startswith("as_sym") else []
    return [item["as_name"] for item in items if "as_name" in item]


def _values(arguments: Mapping[str, Any], values: Mapping[str, Any], clip: Tensor) -> dict[str, Any]:
    return {name: _value(each, values, clip) for name, each in arguments.items()}


def _value(argument: Mapping[str, Any], values: Mapping[str, Any], clip: Tensor) -> Any:
    """An argument of the schema as a Python value; devices are the clip's own. InputError for one that is not known."""
    ((kind, value),) = argument.items()
    if kind == "as_tensor":
        return values[value["name"]]
    if kind == "as_tensors":
        return [values[each["name"]] for each in value]
    if kind == "as_optional_tensors":
        return [_value(each, values, clip) for each in value]
    if kind.startswith("as_sym_"):
        return [_size(each, values) for each in value] if kind.endswith("s") else _size(value, values)
    if kind in PLAIN:
        return value
    return _constant(kind, value, clip)


def _size(value: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    return values[value["as_name"]] if "as_name" in value else next(iter(value.values()))


def _constant(kind: str, value: Any, clip: Tensor) -> Any:
    if kind == "as_none":
        return None
    if kind == "as_float":
        return float(value)
    if kind == "as_floats":
        return [float(each) for each in value]
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return FORMATS[value]
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_device":
        return clip.device
    raise InputError(f"the program has an argument of kind {kind!r}, which exported programs may not")
