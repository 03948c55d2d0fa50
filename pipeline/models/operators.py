"""What an exported program may call: PyTorch's own operators on tensors, and arithmetic on sizes. Nothing else.

An operator checks its own arguments by its schema. Refused are those that touch files, reach beyond a tensor's bounds,
or give other values on each call.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pipeline.errors import InputError

NAME = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.([a-z]\w*|_\w+)\.([A-Za-z]\w*)")
# Operators with an underscore are PyTorch's own inner ones; these are met in exported networks.
INNER = re.compile(
    r"_assert_(tensor_metadata|scalar)|_softmax|_log_softmax|_to_copy|_unsafe_view|_adaptive_avg_pool[23]d|_reshape_copy"
    r"|_native_batch_norm_legit(_no_training)?|_scaled_dot_product_\w*attention\w*|_upsample_\w+|_trilinear|_weight_norm"
    r"|_unsafe_index|_local_scalar_dense|_to_cpu|_shape_as_tensor|_conv_depthwise2d|_convolution"
)
REFUSED = re.compile(
    r"from_file|set_?|resize_?|resize_as_?|record_stream|\w*sparse\w*|\w*(data_ptr|storage)\w*|to_mkldnn"
)
SCALARS: Mapping[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
} | {
    "_operator.getitem": operator.getitem,
    "_operator.and_": operator.and_,
    "_operator.or_": operator.or_,
    "_operator.not_": operator.not_,
    "torch.sym_max": max,
    "torch.sym_min": min,
    "torch.sym_not": operator.not_,
    "torch.sym_int": int,
    "torch.sym_float": float,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "math.trunc": math.trunc,
}


def resolve(target: str) -> Callable[..., Any]:
    """What `target` of a node names. InputError where that is not allowed, or not known to this torch."""
    if target in SCALARS:
        return SCALARS[target]
    found = NAME.fullmatch(target)
    if found is None or REFUSED.fullmatch(found[2]) or (found[2].startswith("_") and not INNER.fullmatch(found[2])):
        raise InputError(f"the program calls {target[:80]!r}, which exported programs may not{_mend(target)}")
    if found[1] == "torchvision":
        import torchvision  # noqa: F401 (registers them)
    packet = getattr(getattr(torch.ops, found[1]), found[2], None)
    overload = getattr(packet, found[3], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(overload, torch._ops.OpOverload):
        raise InputError(f"the program calls {target!r}, which this torch ({torch.__version__}) does not have")
    return overload


def check_steady(call: Callable[..., Any], target: str, given: Mapping[str, Any]) -> None:
    """Refuse what was exported in training mode: `given` holds the node's constants by name. InputError."""
    if not isinstance(call, torch._ops.OpOverload):
        return
    mode = given.get("train", given.get("training"))
    trains, silenced = mode is True, mode is False or ("dropout_p" in _arguments(call) and not given.get("dropout_p"))
    if trains or (torch.Tag.nondeterministic_seeded in call.tags and not silenced):
        raise InputError(
            f"the program calls {target} as in training, so that its answers are not fixed: call eval() on the network "
            "before torch.export"
        )


def written(call: Callable[..., Any]) -> set[str]:
    """Names of the arguments that `call` changes in place."""
    if not isinstance(call, torch._ops.OpOverload):
        return set()
    return {each.name for each in call._schema.arguments if each.alias_info is not None and each.alias_info.is_write}


def may_alias(call: Callable[..., Any]) -> bool:
    """Whether what `call` gives may share memory with what it is given."""
    if not isinstance(call, torch._ops.OpOverload):
        return True
    shared = any(each.alias_info is not None for each in call._schema.returns)
    return shared or torch.Tag.maybe_aliasing_or_mutating in call.tags


def _arguments(call: Any) -> list[str]:
    return [argument.name for argument in call._schema.arguments]


def _mend(target: str) -> str:
    return " (export it under torch.no_grad())" if "higher_order" in target else ""
