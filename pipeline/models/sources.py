"""Where weights come from: files, saved networks' folders, the libraries. Nothing here unpickles."""

import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.errors import ConfigError, InputError
from pipeline.models.backbones import LITE0
from pipeline.models.facts import FACTS, TENSORS
from pipeline.models.hints import did_you_mean
from pipeline.models.pretrained import lite0_file, lite0_in_timm_names

SUFFIXES = (".safetensors", ".pt", ".pth")
PROGRAM = ".pt2"


def state_of(weights: str, library: str | None) -> dict[str, Tensor]:
    """The state dict that `weights` names: a file, a saved network's folder, or a name among the library's weights of
    `library`. Raises ConfigError for an unknown name, InputError for what cannot be read or downloaded."""
    if is_path(weights):
        path = Path(weights)
        if path.suffix == PROGRAM:
            return _of_program(path, library)
        if library == "huggingface" and path.is_dir() and not (path / FACTS).is_file():
            from pipeline.models.huggingface import read_weights

            return read_weights(path)
        return read_state(path if path.suffix in SUFFIXES else path / TENSORS)
    if library == LITE0 and weights == "imagenet":
        return lite0_in_timm_names(read_state(lite0_file()))
    return _download(torchvision_member(library, weights))


def is_path(weights: str) -> bool:
    """Whether `weights` is a file or a folder, not a name of a library's weights."""
    return Path(weights).suffix in (*SUFFIXES, PROGRAM) or "/" in weights or Path(weights).is_dir()


def _of_program(path: Path, library: str | None) -> dict[str, Tensor]:
    if library != "exported":
        raise ConfigError(f"{path} is an exported program, not weights for another network: set model: exported")
    from pipeline.models.exported import read_weights

    return read_weights(path)


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pt or .pth file; what training scripts wrap around one is taken off.

    Raises InputError where there is no such file, or more in it than tensors.
    """
    if not path.is_file():
        raise InputError(f"there is no weights file {path}")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else _load_tensors(path)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read as weights (only tensors are accepted): {error}") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):
        found = found[wrapper] if isinstance(found, dict) and isinstance(found.get(wrapper), dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict (names of parameters and their tensors)")
    wrapped = all(name.startswith("module.") for name in found)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in found.items()}


def torchvision_member(library: str | None, weights: str) -> Any:
    """The member of torchvision's weights enum of `library` that `weights` names: `KINETICS400_V1`, `DEFAULT`, with the
    enum's name before it or not; `imagenet` is the default. Raises ConfigError for any other name."""
    from torchvision.models import get_model_weights, list_models

    if library not in list_models():
        raise ConfigError(f"there are no weights {weights!r} for {library!r}: give a .safetensors or .pt file")
    members = get_model_weights(library)
    name = "DEFAULT" if weights == "imagenet" else weights.removeprefix(f"{members.__name__}.")
    if name not in members.__members__:
        known = ", ".join(members.__members__)
        hint = did_you_mean(name, members.__members__)
        raise ConfigError(f"{library!r} has no weights {weights!r}{hint} (known: {known}, or a file)")
    return members[name]


def _load_tensors(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _download(member: Any) -> dict[str, Tensor]:
    try:
        return dict(member.get_state_dict(progress=False, check_hash=True))
    except (URLError, OSError) as error:
        mend = "fetch it where there is a network and give the file as weights"
        raise InputError(f"the weights {member} could not be downloaded from {member.url}: {mend} ({error})") from error
