"""Classes by name: which logit of a teacher speaks of which class of the manifest."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from pipeline.errors import InputError
from pipeline.models.hints import did_you_mean, nearest

NO_RENAMES: Mapping[str, str] = MappingProxyType({})
SHOWN = 8


def match_classes(
    teacher: Sequence[str] | int,
    manifest: Sequence[str],
    rename: Mapping[str, str] = NO_RENAMES,
    trust_order: bool = False,
) -> np.ndarray:
    """The teacher's column for each class of the manifest: int64 (C_manifest,), so that logits[:, index] are in the
    manifest's order. The manifest may name a subset of the teacher's classes.

    teacher: class names in the order of the logits, or their number where they have no names.
    rename: `classes.map`, manifest's name -> teacher's name.
    trust_order: where the names do not tell, equal counts are taken in order.
    Raises InputError that names each class without a partner, with the nearest of the teacher's.
    """
    named = [] if isinstance(teacher, int) else list(teacher)
    count = teacher if isinstance(teacher, int) else len(named)
    wanted = [rename.get(name, name) for name in manifest]
    _check_renames(rename, named, manifest)
    column = {name: index for index, name in enumerate(named)}
    unmatched = [place for place, name in enumerate(wanted) if name not in column]
    if unmatched and trust_order and not rename:
        return _in_order(count, column, wanted)
    if not named:
        raise InputError(_without_names(count, len(wanted)))
    if unmatched:
        raise InputError(_unmatched([(manifest[place], wanted[place]) for place in unmatched], named))
    _check_unique(manifest, wanted)
    return np.array([column[name] for name in wanted], dtype=np.int64)


def _in_order(count: int, column: Mapping[str, int], wanted: Sequence[str]) -> np.ndarray:
    if count != len(wanted):
        raise InputError(
            f"classes.trust_order takes the teacher's classes in order, but it has {count} and the manifest "
            f"{len(wanted)}: give the teacher's class names"
        )
    elsewhere = [name for place, name in enumerate(wanted) if column.get(name, place) != place]
    if elsewhere:
        raise InputError(
            f"classes.trust_order is set, but the teacher has {elsewhere[0]!r} at another place than the manifest: "
            "the order cannot be trusted; write the pairs that differ into classes.map"
        )
    return np.arange(count, dtype=np.int64)


def _without_names(teacher_count: int, manifest_count: int) -> str:
    mend = "give its class names"
    if teacher_count == manifest_count:
        mend += ", or set classes.trust_order: true if they stand in the manifest's order"
    return f"the teacher has {teacher_count} logits without class names, the manifest {manifest_count} classes: {mend}"


def _unmatched(pairs: Sequence[tuple[str, str]], teacher: Sequence[str]) -> str:
    lines = []
    for name, target in pairs[:SHOWN]:
        near = ", ".join(repr(found) for found in nearest(target, teacher, count=3))
        lines.append(f"  {name!r}" + (f" (the teacher's nearest: {near})" if near else " (nothing near)"))
    more = [f"  and {len(pairs) - SHOWN} more"] if len(pairs) > SHOWN else []
    head = f"{len(pairs)} of the manifest's classes have no class of that name among the teacher's {len(teacher)}:"
    mend = "write the pairs into classes.map (manifest's name: teacher's name)"
    return "\n".join([head, *lines, *more, mend])


def _check_renames(rename: Mapping[str, str], teacher: Sequence[str], manifest: Sequence[str]) -> None:
    for name, target in rename.items():
        if name not in manifest:
            hint = did_you_mean(name, manifest)
            raise InputError(f"classes.map renames {name!r}, which the manifest does not have{hint}")
        if target not in teacher:
            hint = did_you_mean(target, teacher)
            raise InputError(f"classes.map gives {name!r} the name {target!r}, which the teacher does not have{hint}")


def _check_unique(manifest: Sequence[str], wanted: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, target in zip(manifest, wanted, strict=True):
        if target in first:
            both = f"{first[target]!r} and {name!r}"
            raise InputError(f"{both} of the manifest are the same class {target!r} of the teacher: mend classes.map")
        first[target] = name
