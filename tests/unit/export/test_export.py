import builtins
import contextlib
import hashlib
import io
import json
import re

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, InputError, JobError
from pipeline.export import export as module
from pipeline.export.card import CardFacts
from pipeline.export.export import check_parity, export_student, load_program
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network

CLASSES = ("run", "walk", "jump")
RASTER = {"num_frames": 8, "size": [32, 32], "frame_stride": 2}
SPEC = NetworkSpec("compact", classes=CLASSES, options={"norm": "batch"}, transform={"size": [24, 24]})


@pytest.fixture(scope="module")
def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (35, 8, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A saved network with batch statistics that are not the initial ones, so that eval mode matters."""
    folder = tmp_path_factory.mktemp("model")
    network = build_network(SPEC, seed=2).train()
    network(torch.randint(0, 256, (4, 8, 32, 32, 3), dtype=torch.uint8))
    save_network(folder, network, {"saw_labels": True, "raster": RASTER})
    return folder


@pytest.fixture(scope="module")
def exported(model, clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "student"
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # stdout belongs to the command, its last line is a path
        report = export_student(model, out, clips, CardFacts("student", "simulated"), onnx=True)
    assert printed.getvalue() == ""
    return out, report


def test_files_and_their_digests(exported, model):
    out, report = exported
    names = {"model.safetensors", "model.json", "student.pt2", "student.onnx", "MODEL_CARD.md"}
    assert set(report.files) == names
    assert {path.name for path in out.iterdir()} == names | {"export.json"}
    assert report.files["student.pt2"]["sha256"] == hashlib.sha256((out / "student.pt2").read_bytes()).hexdigest()
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    facts = json.loads((out / "model.json").read_text())
    assert (facts["raster"], facts["classes"], facts["saw_labels"]) == (RASTER, list(CLASSES), True)
    assert len(facts["taps"]) == 4
    assert (
        json.loads((out / "export.json").read_text())["parity"][0]["max_abs_difference"]
        == report.parity[0].max_abs_difference
    )


def test_parity_of_program_and_onnx_on_32_clips(exported):
    _, report = exported
    assert [parity.file for parity in report.parity] == ["student.pt2", "student.onnx"]
    for parity in report.parity:
        assert (parity.clips, parity.same_class) == (32, 32)
        assert parity.max_abs_difference <= 1e-4 <= parity.allowed


def test_the_program_is_the_network_for_any_batch(exported, model, clips):
    out, _ = exported
    program, network = load_program(out / "student.pt2"), load_network(model)
    for size in (1, 3, 35):
        raster = torch.from_numpy(clips[:size])
        with torch.no_grad():
            torch.testing.assert_close(program(raster), network(raster).logits, atol=1e-5, rtol=0)


def test_the_exported_folder_is_a_saved_network(exported, model, clips):
    raster = torch.from_numpy(clips[:2])
    again, network = load_network(exported[0]), load_network(model)
    with torch.no_grad():
        assert torch.equal(again(raster).logits, network(raster).logits)


def test_the_five_lines_of_the_card_run(exported, monkeypatch, capsys):
    out, _ = exported
    lines = re.search(r"```python\n(.*?)\n```", (out / "MODEL_CARD.md").read_text(), re.DOTALL).group(1)
    assert len(lines.splitlines()) == 5
    assert "pipeline" not in lines
    monkeypatch.chdir(out)
    exec(compile(lines, "MODEL_CARD.md", "exec"), {})
    assert capsys.readouterr().out.strip() in CLASSES


@pytest.mark.filterwarnings("error:No complete tensor")
def test_without_onnx_there_is_no_onnx(model, clips, tmp_path):
    report = export_student(model, tmp_path, clips[:3], CardFacts("student", "simulated"))
    assert not (tmp_path / "student.onnx").exists()
    assert [(parity.file, parity.clips) for parity in report.parity] == [("student.pt2", 3)]


def test_a_difference_above_the_tolerance_fails_the_job(clips):
    def run(batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), 3), 5.0, np.float32)

    expected = np.full((4, 3), 5.0, np.float32)
    expected[2, 1] = 5.5
    with pytest.raises(JobError, match=r"student.pt2 differ .* up to 5.00e-01 on 4 clips, allowed is 5.50e-02"):
        check_parity("student.pt2", run, clips[:4], expected, 0.01)
    assert check_parity("student.pt2", run, clips[:4], expected, 0.1).max_abs_difference == 0.5


def test_logits_that_are_not_numbers_are_no_parity(clips):
    with pytest.raises(JobError):
        check_parity("p", lambda batch: np.full((len(batch), 2), np.nan), clips[:2], np.zeros((2, 2)), 1.0)


def test_another_batch_size_counts(clips):
    def run(batch: np.ndarray) -> np.ndarray:
        return np.zeros((len(batch), 2)) + (len(batch) == 1)

    with pytest.raises(JobError, match=r"1.00e\+00"):
        check_parity("p", run, clips[:4], np.zeros((4, 2)), 1e-3)


def test_clips_of_another_raster_are_refused(exported, clips, tmp_path):
    with pytest.raises(InputError, match=r"raster \[8, 32, 32\], the clips are \[4, 32, 32\]"):
        export_student(exported[0], tmp_path, clips[:2, :4], CardFacts("student", ""))


def test_onnx_without_its_extra_is_a_wrong_configuration(monkeypatch, tmp_path):
    real = builtins.__import__

    def missing(name: str, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError("no", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; install the extra: pip install 'stagedkd\[onnx\]'"):
        module._write_onnx(None, tmp_path / "x.onnx")
