"""verify: an honest data set passes; each planted lie is found and named, however consistent its marker is."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.artifacts.commit import Marker, new_attempt, read_marker, read_object, write_table
from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.identity import canonical_json, file_digest
from pipeline.artifacts.schemas import column, tensor_array
from pipeline.errors import InputError
from pipeline.flow.context import Context
from pipeline.flow.plans import scan, update_plans
from pipeline.flow.step import content
from pipeline.flow.verify import verify
from pipeline.video.sandbox import DecodeChild, _Problem
from tests.unit.flow.precomputed import SHARD, context, precompute

Change = Callable[[pa.Table], pa.Table]


def overwrite(folder: Path, shard: str, marker: Marker) -> None:
    """A marker in place of another, as no honest process writes one."""
    (folder / f"{shard}.json").write_bytes(canonical_json(marker.to_json()).encode())


def lie(folder: Path, change: Change, shard: str = SHARD) -> pa.Table:
    """Rewrite a shard's rows under a new attempt with a marker that fits them; returns the rows before."""
    marker = read_marker(folder, shard)
    assert marker is not None
    before = read_object(folder, marker.objects[0])
    written = write_table(folder, f"{shard}.{new_attempt()}.parquet", change(before))
    overwrite(folder, shard, replace(marker, objects=(written,)))
    return before


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), table.schema.field(name), values)


def key(table: pa.Table, row: int) -> tuple[str, int]:
    return table.column("clip_id")[row].as_py(), table.column("view_id")[row].as_py()


def test_an_honest_data_set_passes(made: tuple[Context, Path]) -> None:
    found = verify(made[0], sample=1000)
    assert found.findings == []
    assert found.checked["views recomputed"] == found.checked["compared bit for bit"] > 8
    assert found.checked["cached views decoded anew"] == found.checked["views recomputed"]
    assert found.checked["keys"] >= found.checked["views recomputed"]
    assert len(found.folders) == 2


def test_a_video_that_was_buried_before_it_was_made_is_no_finding(root: Path, tmp_path: Path) -> None:
    """It kept its slots, empty ones, in the middle of a micro-batch."""
    left = shutil.copytree(root, tmp_path / "videos")
    opened = context(left, tmp_path / "workspace", "manifest.name=less")
    scanned = scan(opened)
    update_plans(opened, scanned)
    gone = next(scanned.ids[row] for row in scanned.of("train"))
    (left / gone).unlink()
    train = precompute(opened).opened[0]
    assert [gone in train.buried(shard) for shard in train.view.shards].count(True) == 1
    stored = open_dataset(train.targets[0]).table(["video_id"])["video_id"].to_pylist()
    assert stored
    assert gone not in stored
    found = verify(opened, sample=1000)
    assert found.findings == []
    assert found.checked["compared bit for bit"] > len(stored)


@pytest.mark.parametrize("cache", ["raw", "jpeg"])
def test_a_reader_that_failed_once_is_no_finding(
    root: Path, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """decord overran its deadline on a busy machine, so that PyAV answered: its seconds end in other digits."""
    opened = context(root, tmp_path, precompute={"reader": "decord", "frames": cache})
    attempt = DecodeChild._attempt

    def overrun(self: DecodeChild, reader: str, path: Path, *asked: Any) -> Any:
        late = reader == "decord" and path.name == "0.mp4"
        return _Problem(reader, "deadline", "no answer") if late else attempt(self, reader, path, *asked)

    with monkeypatch.context() as patch:
        patch.setattr(DecodeChild, "_attempt", overrun)
        train = precompute(opened).opened[0]
    readers = open_dataset(train.targets[0]).table(["reader"])["reader"].to_pylist()
    assert set(readers) == {"decord", "pyav"}
    found = verify(opened, sample=1000)
    assert found.findings == []
    assert found.checked["compared bit for bit"] >= len(readers)


def test_the_sample_is_whole_micro_batches_that_the_seed_chooses(made: tuple[Context, Path]) -> None:
    found = verify(made[0], sample=1)
    assert 2 <= found.checked["views recomputed"] <= 8
    assert found.findings == []


def test_a_swapped_row_is_named_with_the_view_whose_values_it_holds(made: tuple[Context, Path]) -> None:
    def swap(table: pa.Table) -> pa.Table:
        order = [1, 0, *range(2, table.num_rows)]
        for name in ("logits", "substage_1"):
            table = with_column(table, name, tensor_array(column(table, name)[order]))
        return table

    before = lie(made[1], swap)
    found = {(finding.clip, finding.view): finding.what for finding in verify(made[0], sample=1000).findings}
    assert set(found) == {key(before, 0), key(before, 1)}
    clip, view = key(before, 1)
    assert found[key(before, 0)].endswith(f"these are the values of clip {clip!r}, view {view}")
    assert "logits, substage_1 differ" in found[key(before, 0)]


def test_a_stale_teacher_is_named(made: tuple[Context, Path]) -> None:
    """Other weights under the same key: here another answer of the plain labeler, with a marker that fits."""
    about = json.loads((made[1] / "about.json").read_text())
    folder = made[0].workspace.store("models", about["inputs"]["teacher"])
    marker, facts = read_marker(folder, "done"), content(folder) / "model.json"
    assert marker is not None
    said = json.loads(facts.read_text())
    said["spec"]["options"], said["digest"] = {"classes": 3, "gain": 2.0}, "0" * 64
    facts.write_text(json.dumps(said))
    objects = tuple(replace(o, size=facts.stat().st_size, sha256=file_digest(facts)) for o in marker.objects)
    overwrite(folder, "done", replace(marker, objects=objects))
    found = verify(made[0], sample=4).findings
    stale = [finding for finding in found if "lies under its key is 000000000000" in finding.what]
    assert stale
    assert all("made by the teacher" in finding.what for finding in stale)
    assert any("not what the teacher says of it" in finding.what for finding in found)


def test_a_shifted_view_is_named(made: tuple[Context, Path]) -> None:
    def shift(table: pa.Table) -> pa.Table:
        times = table.column("times").to_pylist()
        times[2] = [time + 0.04 for time in times[2]]
        return with_column(table, "times", pa.array(times, table.schema.field("times").type))

    before = lie(made[1], shift)
    found = verify(made[0], sample=1000).findings
    assert [(each.clip, each.view) for each in found] == [key(before, 2)]
    assert "another view than was drawn: times" in found[0].what


def test_values_of_another_window_are_named(made: tuple[Context, Path]) -> None:
    def move(table: pa.Table) -> pa.Table:
        logits = column(table, "logits").copy()
        logits[3] += np.float16(0.25)
        return with_column(table, "logits", tensor_array(logits))

    before = lie(made[1], move)
    found = verify(made[0], sample=1000).findings
    assert [(each.clip, each.view) for each in found] == [key(before, 3)]
    assert "(logits differ)" in found[0].what


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.slice(1), "missing"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "stored 2 times"),
    ],
)
def test_a_missing_and_a_doubled_key_are_named(made: tuple[Context, Path], change: Change, said: str) -> None:
    before = lie(made[1], change)
    found = verify(made[0], sample=4).findings
    assert [(each.clip, each.view) for each in found if said in each.what] == [key(before, 0)]
    assert SHARD in found[0].shard


def test_a_flipped_byte_is_named_and_the_rest_still_checked(made: tuple[Context, Path]) -> None:
    marker = read_marker(made[1], SHARD)
    assert marker is not None
    path = made[1] / marker.objects[0].name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(path, 0o644)
    path.write_bytes(bytes(data))
    found = verify(made[0], sample=4)
    assert len(found.findings) == 1
    assert "sha256" in found.findings[0].what
    assert marker.objects[0].name in found.findings[0].what
    assert found.checked["views recomputed"] >= 4


def test_cached_frames_of_another_video_are_named(made: tuple[Context, Path]) -> None:
    about = json.loads((made[1] / "about.json").read_text())
    frames = made[0].workspace.store("frames", about["inputs"]["frames"])
    marker = read_marker(frames, SHARD)
    assert marker is not None
    table = read_object(frames, marker.objects[0])
    pixels = column(table, "frames").copy()
    pixels[1] ^= 1
    name = marker.objects[0].name.replace(marker.objects[0].name.split(".")[-2], new_attempt())
    written = write_table(frames, name, with_column(table, "frames", tensor_array(pixels)))
    overwrite(frames, SHARD, replace(marker, objects=(written, *marker.objects[1:])))
    found = verify(made[0], sample=1000).findings
    assert [(each.clip, each.view) for each in found] == [key(table, 1)]
    assert "cached frames are not those of the video" in found[0].what


def test_a_shard_that_is_not_committed_and_another_key_are_named(made: tuple[Context, Path]) -> None:
    (made[1] / f"{SHARD}.json").unlink()
    about = json.loads((made[1] / "about.json").read_text())
    about["fields"]["threads"] = 5
    (made[1] / "about.json").write_text(json.dumps(about))
    found = [finding.what for finding in verify(made[0], sample=4).findings]
    assert "planned and not committed" in found
    assert "says another key" in found


@pytest.mark.parametrize(
    "sets",
    [
        ["precompute.frames=none"],
        ["precompute.frames=jpeg"],
        ["precompute.codec.top_k=2", "precompute.codec.temperatures=[2.0]"],
        ["precompute.codec.dtype=float32"],
    ],
)
def test_other_caches_and_codecs_pass_and_are_told_from_lies(root: Path, tmp_path: Path, sets: list[str]) -> None:
    opened = context(root, tmp_path, *sets)
    folder = precompute(opened).targets[0]["train"].folder(opened.workspace)
    found = verify(opened, sample=1000)
    assert found.findings == []
    assert found.checked["views recomputed"] > 8

    def move(table: pa.Table) -> pa.Table:
        name = "topk_logit" if "topk_logit" in table.column_names else "logits"
        values = column(table, name).copy()
        values[0] = values[0][::-1]
        return with_column(table, name, tensor_array(np.ascontiguousarray(values)))

    before = lie(folder, move)
    assert {(each.clip, each.view) for each in verify(opened, sample=1000).findings} == {key(before, 0)}


def test_on_other_hardware_values_are_compared_within_tolerance(made: tuple[Context, Path]) -> None:
    for path in made[1].glob("shard-*.json"):
        marker = read_marker(made[1], path.stem)
        assert marker is not None
        facts = marker.facts | {"runtime": [{"hardware": "another", "torch": None}]}
        overwrite(made[1], path.stem, replace(marker, facts=facts))

    def nudge(table: pa.Table) -> pa.Table:
        logits = column(table, "logits").copy()
        logits[0] = np.nextafter(logits[0], np.float16(100))
        logits[1] += np.float16(0.5)
        return with_column(table, "logits", tensor_array(logits))

    before = lie(made[1], nudge)
    found = verify(made[0], sample=1000)
    assert [(each.clip, each.view) for each in found.findings] == [key(before, 1)]
    assert "logits is off by 0.5" in found.findings[0].what
    assert found.checked["compared within tolerance"] > 0


def test_nothing_precomputed_is_said(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing of this recipe is precomputed"):
        verify(context(root, tmp_path))
