"""Which labels a network has seen: those it, its first weights or its teachers were fitted on (method.md §4).

A network that was fitted on the labels which are to be judged repeats them: on pure noise such a start gave fold models
97–100 % agreement out of fold instead of 14–16 %. model.json says `saw_labels` and, since this version, `labels_seen`:
the names of the manifests whose labels went into the weights, passed on from teachers and from first weights.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.config.networks import GivenTeacher, Network
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError
from pipeline.flow.build import manifest_name, weights_path
from pipeline.models.facts import FACTS, read_facts

UNNAMED = "?"  # in a list: labels of nobody knows which manifest


def names_seen(folder: Path) -> tuple[str, ...]:
    """Names of the manifests whose labels the saved network in `folder` has seen; UNNAMED for those that it saw without
    a list."""
    return _names(read_facts(folder))


def of_weights(named: str | None) -> tuple[str, ...]:
    """The same of a network's first weights: none for those of a library, UNNAMED for a file without a model.json."""
    facts = _facts(named)
    if facts is None:
        return (UNNAMED,) if named is not None and _is_file(named) else ()
    return _names(facts)


def _names(facts: dict[str, Any]) -> tuple[str, ...]:
    usual = (UNNAMED,) if facts.get("saw_labels", True) else ()
    return tuple(facts.get("labels_seen", usual))


def saw_labels(network: Network, declared: bool | None, manifest: str, where: str) -> bool:
    """Whether the weights of `network` have seen the labels of `manifest`; `declared`: what the recipe says, or None.

    model.json decides by name where it has a list; a declaration decides what it leaves open; else a file of unknown
    origin has seen them, weights of a library by name, or no weights, have not. ConfigError where the recipe declares
    false and the list says otherwise.
    """
    facts = _facts(network.weights)
    if facts is not None and "labels_seen" in facts:
        seen = manifest in facts["labels_seen"]
        if seen and declared is False:
            raise ConfigError(
                f"{where}.saw_labels is false, but {network.weights} was fitted on labels of {manifest!r}, as its "
                f"{FACTS} says: leave the field out (or give another data set of the same name a manifest.name)"
            )
        if seen or declared is not None:
            return seen or bool(declared)
        return UNNAMED in facts["labels_seen"]
    if declared is not None:
        return declared
    if facts is not None:
        return bool(facts.get("saw_labels", True))
    callable_of_a_user = isinstance(network, GivenTeacher) and network.labeler
    return callable_of_a_user or (network.weights is not None and _is_file(network.weights))


def teacher_saw_labels(recipe: Recipe) -> bool:
    """Of the recipe's own teacher."""
    return saw_labels(recipe.teacher, recipe.teacher.saw_labels, _manifest(recipe), "teacher")


def check_starts(recipe: Recipe) -> None:
    """ConfigError where a teacher to be fitted, or a fold model, would start from weights that saw these labels."""
    teacher, section, manifest = recipe.teacher, recipe.labels, _manifest(recipe)
    starts: list[tuple[str, str, Network, bool | None]] = []
    if teacher.fit:
        starts.append(("the teacher", "teacher", teacher, teacher.saw_labels))
    if section.channel != "none" and section.cross_fit:
        own = section.labeller
        labeller = ("labels.labeller", own, own.saw_labels) if own else ("teacher", teacher, teacher.saw_labels)
        starts.append(("fold models", *labeller))
    for what, where, network, declared in starts:
        if network.weights is not None and saw_labels(network, declared, manifest, where):
            raise ConfigError(
                f"{what} would start from {network.weights}, which has seen the labels of {manifest!r} (or does not "
                f"say that it has not): it would repeat them. Start from other weights, set {where}.saw_labels: false "
                "if it never saw these labels, or labels.channel: none where fold models are not needed"
            )


def passed_on(manifest: str, *inherited: Iterable[str]) -> dict[str, Any]:
    """What model.json says of a network that is fitted on labels of `manifest`, with what it inherits."""
    return {"saw_labels": True, "labels_seen": sorted({manifest, *(name for names in inherited for name in names)})}


def _manifest(recipe: Recipe) -> str:
    """The name of the recipe's manifest; "" where a dry run has no root yet."""
    return manifest_name(recipe) if recipe.manifest.name or recipe.manifest.root or recipe.simulate else ""


def _is_file(weights: str) -> bool:
    """As `models.sources.is_path`, without torch."""
    return Path(weights).suffix in (".safetensors", ".pt", ".pth", ".pt2") or "/" in weights or Path(weights).is_dir()


def _facts(named: str | None) -> dict[str, Any] | None:
    """model.json beside the weights, None where there is none."""
    if named is None or not Path(named).exists():
        return None
    path = weights_path(named)
    folder = path if path.is_dir() else path.parent
    return read_facts(folder) if (folder / FACTS).is_file() else None
