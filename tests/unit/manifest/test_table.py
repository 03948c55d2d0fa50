from pathlib import Path

import pyarrow as pa

from pipeline.artifacts.schemas import CLEAN, MANIFEST, check_schema
from pipeline.manifest.table import class_names, read_manifest, write_manifest


def manifest(**labels: int | None) -> pa.Table:
    rows = [
        {
            "video_id": name,
            "uri": f"{name}.mp4",
            "label": label,
            "split": "train",
            "group": name,
            "bytes": 7,
            "etag": "1",
        }
        for name, label in labels.items()
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def clean(**labels: int) -> pa.Table:
    rows = [{"video_id": name, "clean_label": label, "clean_name": str(label)} for name, label in labels.items()]
    return pa.Table.from_pylist(rows, schema=CLEAN)


def test_a_manifest_is_read_back_sorted_with_its_classes(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    written = write_manifest(tmp_path, manifest(b=1, a=None), clean(b=0, a=1), ["x", "y"])
    found = read_manifest(tmp_path)
    assert found is not None
    assert (found.version, found.classes) == (1, ("x", "y"))
    assert found.table["video_id"].to_pylist() == ["a", "b"]
    assert found.table["label"].to_pylist() == [None, 1]
    assert found.clean["clean_label"].to_pylist() == [1, 0]
    assert found.table.equals(written.table)
    check_schema(found.table.schema, "manifest")


def test_an_equal_rescan_adds_no_version(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(a=0, b=1), clean(), ["x", "y"])
    before = sorted(path.name for path in tmp_path.iterdir())
    assert write_manifest(tmp_path, manifest(b=1, a=0), clean(), ["x", "y"]).version == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_change_is_a_version_and_the_newest_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(a=0), clean(), ["x", "y"])
    write_manifest(tmp_path, manifest(a=0, b=1), clean(), ["x", "y"])
    write_manifest(tmp_path, manifest(a=0, b=1), clean(a=1), ["x", "y"])
    assert write_manifest(tmp_path, manifest(a=0, b=1), clean(a=1), ["x", "y", "z"]).version == 4
    found = read_manifest(tmp_path)
    assert found is not None
    assert (found.version, found.table.num_rows, found.classes) == (4, 2, ("x", "y", "z"))


def test_known_classes_keep_their_number() -> None:
    assert class_names(["walk", "run", "run"]) == ("run", "walk")
    assert class_names(["jump", "walk", "run"], ("run", "walk")) == ("run", "walk", "jump")
