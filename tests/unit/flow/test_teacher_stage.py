"""The teachers' stage: several teachers in one actor, packed columns, and no torch for a plain labeler."""

import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.flow.teacher_stage import TeacherJob, TeacherStage, build_labeler
from pipeline.flow.together import Together
from pipeline.models.plain import save_plain
from pipeline.targets.codec import Codec

B, PLAIN = 3, "tests.unit.flow.plain_teacher:build"
ROOT = Path(__file__).parents[3]


def clips() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (B, 4, 8, 8, 3), dtype=np.uint8)


def row(teachers: list[int]) -> dict[str, Any]:
    return {"plan": "train", "shard_id": "shard-00000000", "teachers": json.dumps(teachers), "frames": clips()}


@pytest.fixture
def plain(tmp_path: Path) -> TeacherJob:
    save_plain(tmp_path / "plain", PLAIN, {"classes": 5}, {"saw_labels": True})
    return TeacherJob(str(tmp_path / "plain"), B)


def test_each_asked_teacher_adds_its_packed_columns(plain: TeacherJob) -> None:
    sparse = replace(plain, codec=Codec(top_k=2, temperatures=(2.0,)))
    stage = TeacherStage((plain, sparse))
    done = stage(row([0, 1]))
    assert "frames" not in done
    assert done["t0.logits"].shape == (B, 5)
    assert done["t0.logits"].dtype == np.float16
    assert (done["t1.topk_index"].shape, done["t1.tail_lse"].shape) == ((B, 2), (B, 2, 1))
    assert np.array_equal(done["t1.topk_index"][:, 0], done["t0.logits"].argmax(axis=1))
    assert (done["t0.batch"], done["t1.batch"], done["plan"]) == (B, B, "train")
    expected = clips().mean(axis=(2, 3, 4), dtype=np.float64)[:, [0, 1, 2, 3, 0]] / 16
    np.testing.assert_allclose(done["t0.logits"], expected, rtol=1e-3)


def test_together_is_the_teacher_behind_the_frames_and_decoding_is_not_idle_time(plain: TeacherJob) -> None:
    began, decoded, called, returned, idle = [], [], [], [], []

    def frames(given: Mapping[str, Any]) -> dict[str, Any]:
        began.append(time.monotonic())
        time.sleep(0.2)
        decoded.append(time.monotonic())
        return row([0]) | given

    both, alone = Together(lambda: frames, lambda: TeacherStage((plain,))), TeacherStage((plain,))
    for number in range(2):
        called.append(time.monotonic())
        done = both({"micro_batch": number})
        returned.append(time.monotonic())
        assert np.array_equal(done["t0.logits"], alone(row([0]))["t0.logits"])
        assert (done["micro_batch"], "frames" in done) == (number, False)
        idle.append(done["idle_s"])
    assert idle[0] == 0.0
    assert called[1] - returned[0] <= idle[1] <= began[1] - decoded[0]


def test_a_teacher_that_has_the_shard_is_not_asked(plain: TeacherJob) -> None:
    stage = TeacherStage((TeacherJob("/nowhere", B), plain))
    done = stage(row([1]))
    assert [name for name in done if name.startswith("t0.")] == []
    assert done["t1.logits"].shape == (B, 5)


def test_the_time_between_calls_counts_as_idle(plain: TeacherJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.flow import teacher_stage

    clock = iter([10.0, 12.0, 15.0, 16.0])
    monkeypatch.setattr(teacher_stage, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stage = TeacherStage((plain,))
    first, second = stage(row([0])), stage(row([0]))
    assert (first["teacher_s"], first["idle_s"]) == (2.0, 0.0)
    assert (second["teacher_s"], second["idle_s"]) == (1.0, 3.0)


def test_a_plain_labeler_whose_source_changed_is_another_teacher(plain: TeacherJob) -> None:
    facts = Path(plain.folder) / "model.json"
    facts.write_text(facts.read_text().replace('"code": "', '"code": "0'))
    with pytest.raises(InputError, match="has changed since"):
        build_labeler(plain)


def test_a_plain_labeler_needs_no_torch(plain: TeacherJob) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pipeline.flow.teacher_stage import TeacherJob, TeacherStage\n"
        f"stage = TeacherStage((TeacherJob({plain.folder!r}, {B}),))\n"
        f"done = stage({{'plan': 'train', 'teachers': '[0]', 'frames': np.zeros(({B}, 4, 8, 8, 3), np.uint8)}})\n"
        "assert done['t0.logits'].shape == (3, 5), done\n"
        "print([name for name in ('torch', 'ray', 'mlflow') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.stdout.strip() == "[]", found.stderr


def test_a_saved_network_answers_as_the_labeler_does(tmp_path: Path) -> None:
    from pipeline.models.registry import build_network
    from pipeline.models.spec import NetworkSpec
    from pipeline.models.weights import save_network
    from pipeline.targets.labeler import Labeler

    network = build_network(NetworkSpec("compact", classes=("a", "b", "c")), seed=1)
    save_network(tmp_path / "net", network, {})
    done = TeacherStage((TeacherJob(str(tmp_path / "net"), B, codec=Codec("float32")),))(row([0]))
    expected = Labeler(network, B)(clips())
    assert all(np.array_equal(done[f"t0.{name}"], values) for name, values in expected.items())


def test_the_evaluation_plan_keeps_all_logits_and_the_runtime_is_said(plain: TeacherJob) -> None:
    stage = TeacherStage((replace(plain, codec=Codec(top_k=2, temperatures=(2.0,))),))
    done = stage(row([0]) | {"plan": "eval"})
    assert done["t0.logits"].shape == (B, 5)
    assert "t0.topk_index" not in done
    assert json.loads(done["runtime"]) == {"hardware": platform.machine(), "torch": None}
