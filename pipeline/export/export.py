"""From a saved network to the files that a user of the student needs, each checked against the network itself.

Legend: n clips, T frames of H × W, C classes. A raster is uint8 (n, T, H, W, 3), RGB; a program takes any n ≥ 1.
"""

import contextlib
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import ConfigError, InputError, JobError
from pipeline.export.card import CardFacts, model_card
from pipeline.models.network import VideoNetwork
from pipeline.models.weights import FACTS, TENSORS, load_network, read_facts

PROGRAM, ONNX, CARD, REPORT = "student.pt2", "student.onnx", "MODEL_CARD.md", "export.json"
PARITY_CLIPS, _BATCH = 32, 8
Runner = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Parity:
    """How far a file's logits are from the network's: largest absolute difference over `clips` clips."""

    file: str
    clips: int
    max_abs_difference: float
    allowed: float
    same_class: int


@dataclass(frozen=True)
class ExportReport:
    """What lies in the folder: sha256 and bytes of each file, and the parity of each runnable one."""

    files: dict[str, dict[str, Any]]
    parity: tuple[Parity, ...]
    torch: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class _Logits(nn.Module):
    """The network as users call it: raster in, logits out."""

    def __init__(self, network: VideoNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, raster: torch.Tensor) -> torch.Tensor:
        return self.network(raster).logits


def export_student(
    model_folder: Path, out: Path, clips: np.ndarray, facts: CardFacts, *, onnx: bool = False, tolerance: float = 1e-4
) -> ExportReport:
    """Write model.safetensors, model.json, student.pt2, optionally student.onnx, MODEL_CARD.md, export.json into `out`.

    `clips` (n, T, H, W, 3) uint8 give the raster's shape; up to 32 of them are used for the parity check. JobError
    where a file's logits are off by more than tolerance · max(1, largest logit); ConfigError where ONNX is asked for
    and the extra is not installed; InputError where the clips have another raster than model.json says.
    """
    assert clips.ndim == 5, f"clips are (n, T, H, W, 3), not {clips.shape}"
    assert len(clips), "the raster's shape and the parity check need one clip at least"
    out.mkdir(parents=True, exist_ok=True)
    network = load_network(model_folder).eval()
    raster = tuple(int(size) for size in clips.shape[1:4])
    _copy_model(model_folder, out, raster)
    module = _Logits(network).eval()
    chosen = clips[:PARITY_CLIPS]
    expected = _in_batches(_torch_runner(module), chosen, _BATCH)
    program = export_program(module, raster)
    with _without_known_warnings():
        torch.export.save(program, out / PROGRAM)
    parity = [check_parity(PROGRAM, _torch_runner(load_program(out / PROGRAM)), chosen, expected, tolerance)]
    if onnx:
        parity.append(check_parity(ONNX, _write_onnx(program, out / ONNX), chosen, expected, tolerance))
    (out / CARD).write_text(model_card(network, raster, facts, onnx=onnx), encoding="utf-8")
    return _report(out, parity)


def export_program(module: nn.Module, raster: tuple[int, ...]) -> torch.export.ExportedProgram:
    """torch.export of `module` for a uint8 raster (n, *raster, 3) of any n ≥ 1."""
    example = torch.zeros((2, *raster, 3), dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},), strict=False
        )


def load_program(path: Path) -> nn.Module:
    """The module of a saved program, as a user loads it."""
    return torch.export.load(path).module()


def check_parity(file: str, run: Runner, clips: np.ndarray, expected: np.ndarray, tolerance: float) -> Parity:
    """Compare a file's logits with the network's, in full batches and for the first clip alone (another batch size)."""
    found = _in_batches(run, clips, _BATCH)
    alone = run(clips[:1])
    assert found.shape == expected.shape, f"{file} gives {found.shape}, the network {expected.shape}"
    worst = float(max(np.abs(found - expected).max(), np.abs(alone - expected[:1]).max()))
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    if not worst <= allowed:
        raise JobError(
            f"export: logits of {file} differ from the network's by up to {worst:.2e} on {len(clips)} clips, allowed "
            f"is {allowed:.2e}; do not use the file, raise export.tolerance only if you know why they differ"
        )
    same = int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
    return Parity(file, len(clips), worst, allowed, same)


@contextlib.contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Channels-last weights fill their storage without being contiguous; the parity check reads what was written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found in the group")
        warnings.filterwarnings("ignore", category=FutureWarning, message=r".*LeafSpec")
        yield


def _copy_model(source: Path, out: Path, raster: tuple[int, ...]) -> None:
    """The weights byte for byte; model.json with the raster in it, where it does not say more of it already."""
    facts = read_facts(source)
    frames, *size = raster
    said = facts.get("raster", {"num_frames": frames, "size": size})
    if [said["num_frames"], *said["size"]] != list(raster):
        raise InputError(
            f"export: {source / FACTS} says raster {[said['num_frames'], *said['size']]}, the clips are {list(raster)} "
            "(frames, height, width); take the clips from this network's own frames"
        )
    shutil.copyfile(source / TENSORS, out / TENSORS)
    text = json.dumps({**facts, "raster": said}, indent=2, sort_keys=True)
    (out / FACTS).write_text(f"{text}\n", encoding="utf-8")


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> Runner:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise ConfigError(f"export.onnx needs {error.name}; install the extra: pip install 'stagedkd[onnx]'") from error
    try:
        with _without_known_warnings():
            torch.onnx.export(
                program, f=path, input_names=["raster"], output_names=["logits"], external_data=False, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"export: this network has no ONNX form ({reason}); set export.onnx to false") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda clips: session.run(["logits"], {"raster": clips})[0]


def _torch_runner(module: nn.Module) -> Runner:
    def run(clips: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(np.ascontiguousarray(clips))).float().numpy()

    return run


def _in_batches(run: Runner, clips: np.ndarray, batch: int) -> np.ndarray:
    return np.concatenate([run(clips[start : start + batch]) for start in range(0, len(clips), batch)])


def _report(out: Path, parity: list[Parity]) -> ExportReport:
    names = sorted({TENSORS, FACTS, CARD, *(item.file for item in parity)})
    files = {name: _described(out / name) for name in names}
    report = ExportReport(files, tuple(parity), torch.__version__)
    (out / REPORT).write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    return report


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": path.stat().st_size}
