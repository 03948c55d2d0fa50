from pathlib import Path

import pytest

from pipeline.manifest.probe import Facts, probe
from tests.support.videos import damaged, write_video


def test_the_header_says_frames_rate_size_and_codec(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=23, size=(48, 64), fps=15)
    assert probe(path) == Facts(frames=23, fps=15.0, width=64, height=48, codec="h264")


def test_what_the_container_does_not_say_is_none(tmp_path: Path) -> None:
    facts = probe(write_video(tmp_path / "a.mkv", frames=9))
    assert facts.frames is None
    assert facts.codec == "h264"


@pytest.mark.parametrize("data", [b"", b"no video at all", b"\x00\x00\x00\x20ftypisom" + bytes(200)])
def test_what_is_no_video_gives_no_facts(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(data)
    assert probe(tmp_path / "a.mp4") == Facts()
    assert probe(tmp_path / "missing.mp4") == Facts()


def test_a_file_cut_short_gives_no_facts(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4")
    assert probe(damaged(source, tmp_path / "b.mp4", keep=0.5)) == Facts()


def test_the_header_is_enough(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", frames=60)
    holed = damaged(source, tmp_path / "b.mp4", hole=(0.1, 0.5))
    assert probe(holed) == probe(source)
    assert probe(holed).frames == 60
