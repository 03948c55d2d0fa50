"""Weights in and out: library weights and files into a network, a network into a folder and back, bit for bit.

A saved network is a folder with model.safetensors (the state dict) and model.json (the spec and what else is known).
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import InputError
from pipeline.models.facts import FACTS, SCHEMA, TENSORS, read_facts
from pipeline.models.hints import did_you_mean
from pipeline.models.network import VideoNetwork
from pipeline.models.sources import read_state, state_of
from pipeline.models.spec import NetworkSpec

SHOWN = 5
__all__ = ["FACTS", "TENSORS", "load_network", "load_weights", "network_digest", "read_facts", "save_network"]


def load_weights(network: VideoNetwork, weights: str | Path, *, new_head: bool = False) -> None:
    """Fills `network` from a file (.safetensors, .pt, .pth), a saved network's folder, or the library's weights by name
    (torchvision's enum member, or `imagenet`).

    Every tensor must fit, names and shapes. A frame network may be given its backbone's weights and keeps its own head;
    `new_head` leaves out a classifier of another shape. Raises InputError that says what does not fit.
    """
    own = network.state_dict()
    state = _placed(network, state_of(str(weights), network.library), own)
    head = _head_names(network, own)
    if new_head:
        state.update({name: own[name] for name in head if name not in state or state[name].shape != own[name].shape})
    _check_fit(state, own, str(weights), head)
    network.load_state_dict(state)


def save_network(folder: Path, network: VideoNetwork, extras: Mapping[str, Any]) -> None:
    """Writes model.safetensors, then model.json: spec, taps, dims, parameters, digest, and `extras` beside them (JSON
    values, such as raster and saw_labels). A file appears whole or not at all."""
    facts = _facts(network)
    double = sorted(set(facts) & set(extras))
    assert not double, f"model.json says {double} itself"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    partial = _partial(folder, TENSORS)
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / TENSORS)
    partial = _partial(folder, FACTS)
    partial.write_text(json.dumps({**facts, **extras}, indent=2, sort_keys=True, allow_nan=False) + "\n")
    os.replace(partial, folder / FACTS)


def load_network(folder: Path) -> VideoNetwork:
    """The network that `save_network` wrote, on the CPU, in evaluation mode; for `module:factory` that module is run.

    Raises InputError where a file is missing, of a newer schema, or not what model.json says it is.
    """
    from pipeline.models.registry import build_network

    facts = read_facts(folder)
    spec = NetworkSpec.from_json(facts["spec"])
    network = build_network(NetworkSpec(spec.model, spec.classes, spec.options, spec.transform))
    state = read_state(folder / TENSORS)
    _check_fit(state, network.state_dict(), str(folder / TENSORS), ())
    network.load_state_dict(state)
    network.spec = spec
    if network_digest(network) != facts["digest"]:
        raise InputError(f"{folder / TENSORS} is not what {FACTS} beside it describes (digests differ): copy both anew")
    return network.eval()


def network_digest(network: VideoNetwork) -> str:
    """sha256 over the spec and every tensor (name, type, shape, bytes), 64 hex digits.

    Where the weights once came from does not count, nor does the memory order of the tensors.
    """
    said = {**network.spec.to_json(), "weights": None}
    said["options"] = {name: value for name, value in said["options"].items() if name != "new_head"}
    total = hashlib.sha256(json.dumps(said, sort_keys=True, allow_nan=False).encode())
    for name, value in sorted(network.state_dict().items()):
        flat = value.detach().cpu().contiguous().reshape(-1)
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(memoryview(flat.view(torch.uint8).numpy()))
    return total.hexdigest()


def _partial(folder: Path, name: str) -> Path:
    return folder / f".{name}.{uuid.uuid4().hex[:12]}"


def _facts(network: VideoNetwork) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "spec": network.spec.to_json(),
        "classes": list(network.classes),
        "num_classes": network.num_classes,
        "transform": network.transform.to_json(),
        "taps": [tap.path for tap in network.taps],
        "dims": list(network.dims),
        "norm": network.spec.options.get("norm"),
        "parameters": sum(value.numel() for value in network.parameters()),
        "digest": network_digest(network),
    }


def _placed(network: VideoNetwork, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` under this network's names: as it is where it came from one, else under the part the library knows."""
    if any(name.startswith("body.") for name in state):
        return dict(state)
    if not network.library_root:
        return {f"body.{name}": value for name, value in state.items()}
    # A backbone's weights: the library's classifier has no place here, and the temporal head is our own.
    root = f"body.{network.library_root}."
    state = {name: value for name, value in state.items() if name not in network.library_without}
    kept = {root + name: value for name, value in state.items() if root + name in own or not _of_classifier(name)}
    return {**kept, **{name: own[name] for name in _head_names(network, own)}}


def _of_classifier(name: str) -> bool:
    return name.split(".")[0] in ("fc", "classifier", "head", "heads")


def _head_names(network: VideoNetwork, own: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if network.head_path and name.startswith(f"body.{network.head_path}.")]


def _check_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str, head: Sequence[str]) -> None:
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [f"{name}{did_you_mean(name, missing)}" for name in state if name not in own]
    differing = [name for name in own if name in state and state[name].shape != own[name].shape]
    shapes = [f"{name} {tuple(state[name].shape)}, here {tuple(own[name].shape)}" for name in differing]
    said = [
        f"  {what}: {', '.join(names[:SHOWN])}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        for what, names in (("missing", missing), ("unknown", unknown), ("other shape", shapes))
        if names
    ]
    if differing and set(differing) <= set(head):
        said.append("to train a new classifier on them, set the model's option new_head: true")
    if said:
        raise InputError("\n".join([f"the weights {source} do not fit the network:", *said]))
