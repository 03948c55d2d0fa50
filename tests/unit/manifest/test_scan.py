import os
from pathlib import Path

import pytest

from pipeline.artifacts.places import place
from pipeline.errors import InputError
from pipeline.manifest.entries import Entry, Tree, is_video
from pipeline.manifest.scan import detect, scan
from tests.support.objects import fake_store
from tests.support.videos import UT_INTERACTION
from tests.unit.manifest.folders import touch, write


def test_class_folders_give_id_label_and_a_group_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, ["run/b.mp4", "run/deep/a.AVI", "jump/c.mkv", "jump/notes.txt", ".cache/x.mp4", "run/.part.mp4"])
    assert scan(tmp_path) == [
        Entry("jump/c.mkv", "jump/c.mkv", "jump", "jump/c.mkv"),
        Entry("run/b.mp4", "run/b.mp4", "run", "run/b.mp4"),
        Entry("run/deep/a.AVI", "run/deep/a.AVI", "run", "run/deep/a.AVI"),
    ]


def test_a_root_with_manifest_csv_is_read_through_it(tmp_path: Path) -> None:
    touch(tmp_path, ["v/a.mp4", "v/b.mp4", "v/unlisted.mp4"])
    rows = ["path,label,fps,group,split,video_id", "v/b.mp4,run,30,scene 1,validation,clip-b", "./v/a.mp4,,25,,,"]
    write(tmp_path / "manifest.csv", rows)
    assert scan(tmp_path) == [
        Entry("clip-b", "v/b.mp4", "run", "scene 1", "val"),
        Entry("v/a.mp4", "v/a.mp4", None, "v/a.mp4", None),
    ]


def test_a_csv_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    touch(tmp_path, ["a.mp4"])
    (tmp_path / "manifest.csv").write_bytes("\ufeffpath,label\r\na.mp4,große Sprünge\r\n".encode())
    assert scan(tmp_path) == [Entry("a.mp4", "a.mp4", "große Sprünge", "a.mp4")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["file,label", "a.mp4,x"], "no column path .it has file, label"),
        (["path,label", "a.mp4,x", "gone.mp4,x"], "line 3: gone.mp4 does not exist"),
        (["path,label", ",x"], "line 2: the path is empty"),
        (["path,label", "../a.mp4,x"], "line 2: .* below"),
        (["path,label", "/a.mp4,x"], "line 2: .* relative"),
        (["path,label,split", "a.mp4,x,tain"], "split 'tain' is none of train, val, test"),
        (["path,label,video_id", "a.mp4,x,one", "b.mp4,x,one"], "1 video ids stand twice, for example 'one'"),
        (["path,label"], "holds no video"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    touch(tmp_path, ["a.mp4", "b.mp4"])
    write(tmp_path / "manifest.csv", rows)
    with pytest.raises(InputError, match=message):
        scan(tmp_path)


def test_a_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes("path,label\na.mp4,große\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"manifest\.csv is no CSV in UTF-8"):
        scan(tmp_path)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.root: .*nowhere is no folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no video"):
        scan(tmp_path)
    touch(tmp_path, ["run/a.mp4", "empty/notes.txt"])
    with pytest.raises(InputError, match="the class 'empty' holds no video"):
        scan(tmp_path)
    touch(tmp_path, ["loose.mp4"])
    with pytest.raises(InputError, match=r"1 videos lie outside the class folders, for example loose\.mp4"):
        scan(tmp_path)


def test_unknown_layouts_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'ucf101'"):
        scan(tmp_path, "ucf-101")
    with pytest.raises(InputError, match=r"manifest\.csv not found"):
        scan(tmp_path, "csv")


def test_published_layouts_are_known_by_their_files(tmp_path: Path) -> None:
    places = {
        "ucf101": "ucfTrainTestlist/trainlist01.txt",
        "hmdb51": "testTrainMulti_7030_splits/run_test_split1.txt",
        "folders": "run/a.mp4",
    }
    for layout, name in places.items():
        assert detect(Tree(touch(tmp_path / layout, [name]))) == layout
    write(tmp_path / "kinetics" / "annotations" / "val.csv", ["label,youtube_id,time_start,time_end,split"])
    assert detect(Tree(tmp_path / "kinetics")) == "kinetics"
    write(tmp_path / "folders" / "train.csv", ["name,score"])
    assert detect(Tree(tmp_path / "folders")) == "folders"


@pytest.mark.skipif(not UT_INTERACTION.is_dir(), reason="the UT-Interaction clips do not lie beside this checkout")
def test_the_real_clips_are_read_with_their_sequences() -> None:
    found = scan(UT_INTERACTION)
    assert len(found) == 120
    assert len({entry.label_name for entry in found}) == 6
    test = {entry.group for entry in found if entry.split == "test"}
    assert test == {"ut_seq03", "ut_seq07", "ut_seq13", "ut_seq17"}


def test_an_entry_carries_what_the_listing_said(tmp_path: Path) -> None:
    for name in ("run/a.mp4", "run/bb.mp4"):
        touch(tmp_path, [name])
        os.utime(tmp_path / name, ns=(0, len(name)))
    assert [(entry.size, entry.etag) for entry in scan(tmp_path)] == [(9, "9"), (10, "10")]
    write(tmp_path / "manifest.csv", ["path,label", "run/bb.mp4,run"])
    assert [(entry.size, entry.etag) for entry in scan(tmp_path)] == [(10, "10")]


@pytest.mark.parametrize("layout", ["folders", "csv", "ucf101", "hmdb51", "kinetics"])
def test_an_object_store_gives_what_a_folder_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    files = {
        "folders": {"run/a.mp4": "", "run/deep/b.mp4": "", "jump/c.mkv": "", ".cache/x.mp4": ""},
        "csv": {"v/a.mp4": "", "v/b.mp4": "", "manifest.csv": "path,label\nv/b.mp4,run\n"},
        "ucf101": {
            "Run/v_Run_g01_c01.avi": "",
            "Run/v_Run_g02_c01.avi": "",
            "ucfTrainTestlist/trainlist01.txt": "Run/v_Run_g01_c01.avi 1\n",
            "ucfTrainTestlist/testlist01.txt": "Run/v_Run_g02_c01.avi\n",
        },
        "hmdb51": {
            "run/film_run_u_cm_np1_fr_goo_0.avi": "",
            "testTrainMulti_7030_splits/run_test_split1.txt": "film_run_u_cm_np1_fr_goo_0.avi 1\n",
        },
        "kinetics": {
            "abc_000001_000011.mp4": "",
            "lists/val.csv": "label,youtube_id,time_start,time_end,split\nrun,abc,1,11,val\n",
        },
    }[layout]
    store = fake_store(monkeypatch)
    for name, text in files.items():
        touch(tmp_path / "root", [name]).joinpath(name).write_text(text)
        store.objects[f"bkt/root/{name}"] = (text.encode(), {})
    here, there = scan(tmp_path / "root"), scan(place("s3://bkt/root"))
    assert there == here
    assert there
    assert {operation for operation, _ in store.asked} <= {"list", "get", "head"}
    videos = [key for operation, key in store.asked if operation in ("get", "head") and is_video(key)]
    assert videos == [], "a request per video"


def test_an_address_without_videos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_store(monkeypatch)
    with pytest.raises(InputError, match=r"manifest\.root: s3://bkt/none is no folder"):
        scan(place("s3://bkt/none"))
