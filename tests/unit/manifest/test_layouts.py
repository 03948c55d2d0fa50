import logging
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.manifest.entries import Entry
from pipeline.manifest.scan import scan
from tests.unit.manifest.folders import touch, write

HMDB = ["Film_1_run_f_cm_np1_ba_goo_0", "Film_1_run_f_cm_np1_ba_goo_1", "Other_run_u_nm_np2_le_med_3", "Rest_run_x"]


def ucf(root: Path) -> Path:
    names = ["v_Archery_g08_c01", "v_Archery_g08_c02", "v_Archery_g01_c01", "v_Surfing_g08_c01"]
    touch(root / "UCF-101", [f"{name.split('_')[1]}/{name}.avi" for name in names])
    lists = root / "ucfTrainTestlist"
    train = ["Archery/v_Archery_g08_c01.avi 1", "Archery/v_Archery_g08_c02.avi 1", "Surfing/v_Surfing_g08_c01.avi 2"]
    write(lists / "trainlist01.txt", train)
    write(lists / "testlist01.txt", ["Archery/v_Archery_g01_c01.avi"])
    return root


@pytest.mark.parametrize("inner", ["", "UCF-101"])
def test_ucf101_takes_groups_from_names_and_splits_from_the_lists(tmp_path: Path, inner: str) -> None:
    found = scan(ucf(tmp_path) / inner, "ucf101")
    facts = [(entry.uri.rpartition("/")[2], entry.label_name, entry.group, entry.split) for entry in found]
    assert facts == [
        ("v_Archery_g01_c01.avi", "Archery", "Archery_g01", "test"),
        ("v_Archery_g08_c01.avi", "Archery", "Archery_g08", "train"),
        ("v_Archery_g08_c02.avi", "Archery", "Archery_g08", "train"),
        ("v_Surfing_g08_c01.avi", "Surfing", "Surfing_g08", "train"),
    ]


def test_ucf101_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    root = ucf(tmp_path)
    with pytest.raises(InputError, match=r"no ucfTrainTestlist/trainlist02\.txt there or beside it"):
        scan(root, "ucf101", official_split=2)
    write(root / "ucfTrainTestlist" / "testlist01.txt", ["Archery/v_Archery_g02_c01.avi"])
    with pytest.raises(InputError, match=r"testlist01\.txt names v_Archery_g02_c01"):
        scan(root)
    write(root / "ucfTrainTestlist" / "testlist01.txt", ["Archery/archery.avi"])
    with pytest.raises(InputError, match="not of the form"):
        scan(root)


def hmdb(root: Path, uses: str) -> Path:
    touch(root / "run", [f"{name}.avi" for name in HMDB])
    lines = [f"{name}.avi {use} " for name, use in zip(HMDB, uses, strict=True)]
    write(root / "testTrainMulti_7030_splits" / "run_test_split1.txt", lines)
    return root


def test_hmdb51_takes_the_film_as_group_and_leaves_zeros_out(tmp_path: Path) -> None:
    found = [(entry.group, entry.label_name, entry.split) for entry in scan(hmdb(tmp_path, "1120"))]
    assert found == [("Film_1_run", "run", "train"), ("Film_1_run", "run", "train"), ("Other_run", "run", "test")]


def test_an_official_split_that_tears_a_group_is_kept_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = [(entry.group, entry.split) for entry in scan(hmdb(tmp_path, "1200"))]
    assert found == [("Film_1_run (train)", "train"), ("Film_1_run (test)", "test")]
    assert "1 groups on two sides, for example Film_1_run" in caplog.text


def test_kinetics_files_are_found_by_id_and_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, ["train/jump rope/abc_d-1_000002_000012.mp4", "val/run/xyz_000100_000110.mp4", "val/run/more.mp4"])
    head = "label,youtube_id,time_start,time_end,split"
    write(tmp_path / "train.csv", [head, "jump rope,abc_d-1,2,12,train", "run,gone,0,10,train"])
    write(tmp_path / "val.csv", [head, "run,xyz,100,110,validate"])
    with caplog.at_level(logging.WARNING):
        found = scan(tmp_path)
    first, second = "train/jump rope/abc_d-1_000002_000012.mp4", "val/run/xyz_000100_000110.mp4"
    assert found == [
        Entry(first, first, "jump rope", "abc_d-1", "train"),
        Entry(second, second, "run", "xyz", "val"),
    ]
    assert "1 of 3 listed videos are not there" in caplog.text


def test_kinetics_lists_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no train\.csv"):
        scan(tmp_path, "kinetics")
    write(tmp_path / "train.csv", ["label,youtube_id,time_start", "run,abc,0"])
    with pytest.raises(InputError, match="no column time_end"):
        scan(tmp_path, "kinetics")
    write(tmp_path / "train.csv", ["label,youtube_id,time_start,time_end", "run,abc,zero,10"])
    with pytest.raises(InputError, match="line 2: time_start and time_end must be seconds"):
        scan(tmp_path, "kinetics")
