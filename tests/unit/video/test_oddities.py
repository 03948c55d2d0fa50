"""Files from the wild: every one decodes or fails with a reason, in time, and the child survives all of them."""

import csv
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.video.raster import RasterView, replay
from pipeline.video.reader import reader_named
from pipeline.video.sandbox import DecodeChild, DecodeFailure
from pipeline.video.views import ViewPolicy, draw, view_keys
from tests.support.videos import ODDITIES, UT_INTERACTION

POLICY = ViewPolicy("eval", (64, 64), 8, clips_per_video=3)
VIEWS = [draw(POLICY, *key) for key in view_keys("v", POLICY)]

# What is wrong with the files that cannot be used; the other damaged ones lose some frames and are used.
REASONS = {
    "bad_empty.mp4": "unreadable",
    "bad_no_moov.mp4": "unreadable",
    "bad_text.mp4": "unreadable",
    "bad_truncated_mdat.mp4": "truncated",
    "mp4parse_bipbop_480wp_1001kbps-cenc-video-key1-init.mp4": "zero_frames",
    "mp4parse_chunk_out_of_range.mp4": "unreadable",
    "mp4parse_opus_audioinit.mp4": "no_video",
    "mp4parse_short-cenc.mp4": "encrypted",
    "mp4parse_zero_empty_stsc.mp4": "truncated",
}


@pytest.fixture(scope="module")
def child() -> Iterator[DecodeChild]:
    with DecodeChild() as child:
        yield child


@pytest.fixture(scope="module")
def outcomes(child: DecodeChild) -> dict[str, list[RasterView] | DecodeFailure]:
    if not ODDITIES.is_dir():
        pytest.skip(f"needs {ODDITIES}")
    start = time.monotonic()
    found = {row["path"]: child.decode(ODDITIES / row["path"], VIEWS, POLICY) for row in manifest(ODDITIES)}
    assert time.monotonic() - start < 60
    return found


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_decodes_or_has_a_reason(outcomes: dict[str, list[RasterView] | DecodeFailure]):
    assert {name: each.reason for name, each in outcomes.items() if isinstance(each, DecodeFailure)} == REASONS


def test_whatever_ffmpeg_reads_is_read(outcomes: dict[str, list[RasterView] | DecodeFailure]):
    for row in manifest(ODDITIES):
        if row["ffmpeg_status"] == "ok":
            outcome = outcomes[row["path"]]
            assert isinstance(outcome, list), (row["path"], outcome)
            assert outcome[0].indices.max() < int(row["frames"]) or "nasa" in row["path"]  # the better of two streams


def test_what_ffmpeg_does_not_read_fails_and_what_it_reads_with_errors_is_used(
    outcomes: dict[str, list[RasterView] | DecodeFailure],
):
    """But for one: half of its frames are missing, of which ffmpeg shows the rest."""
    for row in manifest(ODDITIES):
        outcome = outcomes[row["path"]]
        if row["ffmpeg_status"] == "no_video_frames":
            assert isinstance(outcome, DecodeFailure), row["path"]
        if row["ffmpeg_status"] == "decodes_with_errors":
            assert isinstance(outcome, DecodeFailure) == (row["path"] == "bad_truncated_mdat.mp4"), row["path"]
    readers = {name: each[0].reader for name, each in outcomes.items() if isinstance(each, list)}
    assert readers["torchcodec_av1_video.mkv"] == readers["skate_Kickflip71_hevc_rotated.mov"] == "pyav"
    assert Counter(readers.values()) == {"decord": 22, "pyav": 9}


def test_views_of_odd_files_replay_bit_for_bit(outcomes: dict[str, list[RasterView] | DecodeFailure]):
    for name, outcome in outcomes.items():
        for view in outcome[1:2] if isinstance(outcome, list) else []:
            row = {"times": view.times, "crop": view.crop, "flip": view.flip}
            again = replay(ODDITIES / name, row, POLICY, reader_named(view.reader))
            assert (again == view.frames).all(), (name, view.clip_id, view.reader)


def test_rotation_is_applied(outcomes: dict[str, list[RasterView] | DecodeFailure]):
    for reader in ("decord", "pyav"):
        for name in ("decord_video_90.mov", "decord_video_270.mov"):
            with reader_named(reader).open(ODDITIES / name) as handle:
                assert (handle.facts.width, handle.facts.height) == (320, 568)


def test_real_clips_with_packed_frames_decode(child: DecodeChild):
    if not UT_INTERACTION.is_dir():
        pytest.skip(f"needs {UT_INTERACTION}")
    rows = manifest(UT_INTERACTION)[::10]
    outcomes = [child.decode(UT_INTERACTION / row["path"], VIEWS, POLICY) for row in rows]
    assert Counter(type(outcome) for outcome in outcomes) == {list: len(rows)}
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, list)
        assert outcome[-1].indices.max() < int(row["frames"])
        assert outcome[-1].times.max() < float(row["duration_s"])
