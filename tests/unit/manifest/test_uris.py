"""Where videos lie, from two columns."""

import pyarrow as pa
import pytest

from pipeline.manifest.uris import Uris

IDS = ["Zoo", "a", "b", "ba", "c", "é", "😀"]  # as Arrow sorts: by bytes of UTF-8


def test_each_video_is_found_whatever_is_asked_for_in_which_order() -> None:
    uris = Uris.of(pa.table({"video_id": IDS, "uri": [f"at/{name}" for name in IDS]}))
    for asked in (IDS, IDS[::-1], ["b"], ["😀", "Zoo", "b", "b"], ["c", "é"]):
        assert uris(pa.array(asked)).to_pylist() == [f"at/{name}" for name in asked]
    assert uris(pa.array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize("asked", [["bb"], ["A"], ["zz", "b"], ["😁"]])
def test_a_video_that_is_not_there_is_named(asked: list[str]) -> None:
    uris = Uris.of(pa.table({"video_id": IDS, "uri": IDS}))
    with pytest.raises(KeyError, match=asked[0]):
        uris(pa.array(asked))


def test_ids_that_are_uris_are_held_once() -> None:
    assert (same := Uris.of(pa.table({"video_id": IDS, "uri": IDS}))).uris is same.ids


def test_the_order_of_a_manifest_is_that_of_the_search() -> None:
    """A manifest is sorted by Arrow, the search compares in Python."""
    mixed = pa.table({"video_id": IDS[::-1], "uri": IDS[::-1]}).sort_by("video_id")
    assert mixed.column("video_id").to_pylist() == IDS == sorted(IDS)
