"""A Hugging Face video classifier from a folder: config.json, model.safetensors, preprocessor_config.json.

Configuration and safetensors alone are read: no pickle (pytorch_model.bin), no code of the folder, no network. The body
is transformers' own class for the folder's model_type, the cuts are 1/4, 1/2, 3/4 and 1 of its encoder's layers. The
whole configuration enters the network's options, so that a saved network is built again without the folder.

Shapes: B clips, T frames; transformers wants pixel_values (B,T,C,H,W).
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError
from pipeline.models.backbones import IMAGENET_INPUT
from pipeline.models.facts import TENSORS
from pipeline.models.hints import read_options
from pipeline.models.network import Parts
from pipeline.models.spec import NetworkSpec
from pipeline.models.taps import Tap, check_path, quarters
from pipeline.models.transform import Transform

EXTRA = "pip install 'stagedkd[huggingface]'"
NAME = "huggingface"
# config: of the folder, filled in when the weights are first read. prefix_tokens: leading tokens without a position.
DEFAULTS: dict[str, Any] = {"config": None, "prefix_tokens": None}
CLASS_TOKEN = ("timesformer", "vivit")
SMALL = 64


def build(spec: NetworkSpec, num_classes: int, common: Mapping[str, Any]) -> Parts:
    """The classifier that the folder's config.json (or the option `config`) describes, without weights.

    ConfigError where transformers is not installed or knows no such video classifier, where it wants code of its
    own, or other classes; InputError where the folder lacks a file.
    """
    options = read_options(spec.options, {**common, **DEFAULTS}, spec.model)
    config = dict(options["config"] or _config(spec.weights))
    body = _body(config, num_classes)
    size, frames = _side(config), int(config.get("num_frames", 16))
    defaults = Transform(size, *_normalisation(spec.weights))
    paths = options["taps"] or quarters(_layers(body))
    prefix = options["prefix_tokens"]
    prefix = int(config["model_type"] in CLASS_TOKEN) if prefix is None else int(prefix)
    return Parts(
        body=body,
        taps=tuple(Tap(check_path(body, path, spec.model), prefix=prefix) for path in paths),
        transform=Transform.read(spec.transform, defaults, spec.model),
        classes=spec.classes,
        num_classes=num_classes,
        options={**options, "config": config, "prefix_tokens": prefix},
        head="classifier",
        library=NAME,
        trial_shape=(frames, *size),
        shapes_only=max(size) > SMALL,
    )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The folder's tensors under the names of transformers' present class, which it renames itself where they changed.

    InputError where some are missing or have another shape.
    """
    from transformers import CONFIG_MAPPING, MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING

    kind: Any = MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING[CONFIG_MAPPING[_config(str(folder))["model_type"]]]
    try:
        body, said = kind.from_pretrained(folder, use_safetensors=True, local_files_only=True, output_loading_info=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{folder} cannot be read as a {kind.__name__}: {error}") from error
    lacking = sorted(said["missing_keys"])
    if lacking:
        raise InputError(f"{folder} has no weights for {', '.join(lacking[:5])}: is it a classifier's folder?")
    return dict(body.state_dict())


def categories(weights: str) -> tuple[str, ...]:
    """Class names by the numbers of id2label; empty where they are transformers' own LABEL_0, LABEL_1, …"""
    labels = _config(weights).get("id2label") or {}
    names = tuple(str(labels[number]) for number in sorted(labels, key=int))
    return () if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _config(weights: str | None) -> dict[str, Any]:
    if weights is None:
        raise ConfigError(f"model {NAME!r} is given by its folder: set weights to it")
    folder = Path(weights)
    if not (folder / TENSORS).is_file():
        there = sorted(path.name for path in folder.glob("*.bin")) if folder.is_dir() else []
        mend = f" ({there[0]} is a pickle and is not read: save the model with save_pretrained)" if there else ""
        raise InputError(f"{folder} holds no {TENSORS}{mend}")
    return _json(folder / "config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}: a Hugging Face classifier's folder has it") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): copy the folder anew") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is no JSON object: copy the folder anew")
    return found


def _body(config: Mapping[str, Any], num_classes: int) -> nn.Module:
    try:
        from transformers import CONFIG_MAPPING, MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
    except ImportError as error:
        raise ConfigError(f"model {NAME!r} needs transformers, which is not installed: {EXTRA}") from error
    kind = str(config.get("model_type"))
    if "auto_map" in config:
        raise ConfigError(f"this {kind!r} wants code of its own (auto_map in config.json), which is never run")
    # Not `get`, which this mapping answers with None until [] has loaded the class.
    known = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401
    if known is None or known not in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING:
        names = ", ".join(sorted(each.model_type for each in MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING))
        raise ConfigError(f"transformers has no video classifier of model_type {kind!r} (it has: {names})")
    wanted = known.from_dict(dict(config))
    if wanted.num_labels != num_classes:
        raise ConfigError(f"the {kind!r} has {wanted.num_labels} classes, the recipe names {num_classes}")
    classifier: Any = MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING[known]
    return _as_clips(classifier(wanted), config.get("num_frames"))


def _as_clips(body: nn.Module, frames: int | None) -> nn.Module:
    """The module itself, taking float (B,3,T,H,W) and giving logits: its parameters keep the folder's names."""

    def turn(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if frames is not None and inputs[0].shape[2] != frames:
            raise ConfigError(
                f"the network takes {frames} frames, the views have {inputs[0].shape[2]}: views.num_frames"
            )
        return (inputs[0].transpose(1, 2),)

    body.register_forward_pre_hook(turn)
    body.register_forward_hook(lambda _module, _inputs, output: output.logits)
    return body


def _layers(body: nn.Module) -> list[str]:
    """Paths of the encoder's layers: the longest list of modules."""
    lists = {name: part for name, part in body.named_modules() if isinstance(part, nn.ModuleList) and len(part)}
    if not lists:
        raise ConfigError(f"model {NAME!r}: no list of layers to cut at; name modules in the option `taps`")
    name = max(lists, key=lambda path: len(lists[path]))
    return [f"{name}.{number}" for number in range(len(lists[name]))]


def _side(config: Mapping[str, Any]) -> tuple[int, int]:
    side = config.get("image_size", 224)
    return (int(side[0]), int(side[-1])) if isinstance(side, list | tuple) else (int(side), int(side))


def _normalisation(weights: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and s.d. of the folder's image processor, ImageNet's where it names none."""
    path = Path(weights or "") / "preprocessor_config.json"
    said = _json(path) if weights and path.is_file() else {}
    if said.get("do_normalize", True) is False:
        return (0.0,) * 3, (1.0,) * 3
    return tuple(said.get("image_mean", IMAGENET_INPUT[0])), tuple(said.get("image_std", IMAGENET_INPUT[1]))
