import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, InputError
from pipeline.manifest.entries import Tree
from pipeline.manifest.probe import probe
from pipeline.manifest.scan import class_folders, scan
from pipeline.manifest.simulate import PARAMETERS, SimulateOptions, list_videos, simulate, video_bytes

SMALL = SimulateOptions(videos={"train": 9, "val": 2, "test": 4}, shapes=2, directions=2, seed=1)


def stamps(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_the_folder_is_read_by_scan_with_its_splits(tmp_path: Path) -> None:
    paths = simulate(tmp_path / "new" / "set", SMALL)
    entries = scan(tmp_path / "new" / "set")
    assert len(paths) == len(entries) == 15
    assert Counter(entry.split for entry in entries) == {"train": 9, "val": 2, "test": 4}
    train = Counter(entry.label_name for entry in entries if entry.split == "train")
    assert train == {"square_000": 3, "square_180": 2, "ellipse_000": 2, "ellipse_180": 2}
    assert entries[0].video_id == entries[0].group == "test-00000"
    by_folder = {entry.uri: entry.label_name for entry in class_folders(Tree(tmp_path / "new" / "set"))}
    assert by_folder == {entry.uri: entry.label_name for entry in entries}


def test_files_are_h264_of_the_sizes_asked_for(tmp_path: Path) -> None:
    for path in simulate(tmp_path, SMALL):
        facts = probe(path)
        assert facts.codec == "h264"
        assert facts.frames is not None
        assert 20 <= facts.frames <= 30
        assert min(facts.width or 0, facts.height or 0) >= 40


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    many = SimulateOptions(videos={"train": 20}, seed=3)
    one = [path.read_bytes() for path in simulate(tmp_path / "one", many)]
    two = [path.read_bytes() for path in simulate(tmp_path / "two", SimulateOptions({"train": 20}, seed=3, workers=2))]
    assert one == two
    assert len(set(one)) == 20
    assert video_bytes(SimulateOptions(seed=4), "train", 0) != one[0]


def test_a_second_call_writes_only_what_is_missing(tmp_path: Path) -> None:
    paths = simulate(tmp_path, SMALL)
    before, data = stamps(tmp_path), paths[3].read_bytes()
    simulate(tmp_path, SMALL)
    assert stamps(tmp_path) == before
    paths[3].unlink()
    (paths[3].parent / ".train-00003.mp4.77").write_bytes(data[:100])  # what a killed call leaves behind
    assert len(scan(tmp_path, "folders")) == 14
    simulate(tmp_path, SMALL)
    assert paths[3].read_bytes() == data
    assert {name for name, time in before.items() if stamps(tmp_path)[name] != time} == {
        str(paths[3].relative_to(tmp_path))
    }


def test_more_videos_leave_the_earlier_ones_alone(tmp_path: Path) -> None:
    simulate(tmp_path, SMALL)
    before = stamps(tmp_path)
    simulate(tmp_path, SimulateOptions({"train": 12, "val": 2, "test": 4}, shapes=2, directions=2, seed=1))
    after = stamps(tmp_path)
    assert len(scan(tmp_path)) == 18
    assert [name for name in before if after[name] != before[name]] == ["manifest.csv"]


def test_parameters_are_recorded_and_other_ones_refused(tmp_path: Path) -> None:
    simulate(tmp_path, SMALL)
    record = json.loads((tmp_path / PARAMETERS).read_text(encoding="utf-8"))
    assert record["look"]["seed"] == 1
    assert record["look"]["crf"] == [23, 35]
    assert {"av", "numpy"} <= set(record["made_with"])
    other = SimulateOptions(videos=SMALL.videos, shapes=2, directions=2, seed=2)
    with pytest.raises(InputError, match=r"other options \(seed: 1 != 2\)"):
        simulate(tmp_path, other)


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(InputError, match="files that were not simulated"):
        simulate(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_options_that_cannot_be_are_refused() -> None:
    for options in ({"shapes": 5}, {"shapes": 0}, {"shapes": 1, "directions": 1}, {"difficulty": -1.0}):
        with pytest.raises(ConfigError, match="simulate"):
            SimulateOptions(**options)


def test_the_default_is_twenty_classes_in_turn() -> None:
    options = SimulateOptions(videos={"test": 40})
    assert len(options.classes) == 20
    assert options.classes[:6] == ("square_000", "square_072", "square_144", "square_216", "square_288", "ellipse_000")
    assert Counter(video.label for video in list_videos(options)) == dict.fromkeys(options.classes, 2)
