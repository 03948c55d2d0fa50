"""Each check by itself: what is right passes, what is planted is found and named."""

from typing import Any

import numpy as np
import pytest

from pipeline.targets.codec import Codec, pack
from pipeline.targets.verify import (
    Finding,
    check_drawing,
    check_keys,
    check_order,
    close_values,
    same_bits,
    tolerance,
    whose,
)

A, B, C = ("a#1", 0), ("a#1", 1), ("b#1", 0)
PLANNED = {A: "a", B: "a", C: "b"}


def outputs(rows: int = 3, classes: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "logits": (5 * rng.standard_normal((rows, classes))).astype(np.float32),
        "substage_1": rng.standard_normal((rows, 4)).astype(np.float32),
    }


@pytest.mark.parametrize(
    ("stored", "quarantined", "buried", "said"),
    [
        ([A, B, C], [], [], []),
        ([A, B], ["b"], [], []),
        ([A, B], [], ["b"], []),
        ([C], [], ["a"], []),
        ([A, B], [], [], ["s, clip 'b#1', view 0: missing: it is planned and its video is not in quarantine"]),
        ([A, B, C], ["b"], [], ["s, clip 'b#1', view 0: stored, and its video 'b' is in quarantine as well"]),
        ([A, A, B, C], [], [], ["s, clip 'a#1', view 0: stored 2 times"]),
        ([A, B, C, ("b#1", 7)], [], [], ["s, clip 'b#1', view 7: stored, and never planned"]),
    ],
)
def test_keys(stored: list[Any], quarantined: list[str], buried: list[str], said: list[str]) -> None:
    assert [str(finding) for finding in check_keys("s", PLANNED, stored, quarantined, buried)] == said


def test_order_is_named_by_its_first_difference() -> None:
    assert list(check_order("s", [A, B, C], [A, B, C])) == []
    assert list(check_order("s", [A, C, B], [A, B, C])) == [
        Finding("s", "rows of targets and frames differ from row 1 on", *C)
    ]
    assert [found.clip for found in check_order("s", [A], [A, B])] == ["a#1"]


def test_drawing_names_what_differs() -> None:
    row = {
        "clip_id": "a#1",
        "view_id": 1,
        "video_id": "a",
        "times": [0.0, 0.1],
        "indices": [0, 3],
        "crop": [0.0, 0.0, 1.0, 0.5],
        "flip": False,
        "reader": "pyav",
    }
    assert list(check_drawing("s", row, dict(row))) == []
    changes = {"times": [0.0, 0.2], "indices": [0, 3, 6], "crop": [0, 0, 1, 1], "flip": True, "video_id": "b"}
    for name, value in changes.items():
        (found,) = check_drawing("s", row | {name: value}, row)
        assert (found.clip, found.view) == ("a#1", 1)
        assert name in found.what


@pytest.mark.parametrize("codec", [Codec(), Codec("float32"), Codec(top_k=3, temperatures=(2.0,))])
def test_packed_values_are_the_same_bits_and_near_their_outputs(codec: Codec) -> None:
    fresh = outputs()
    stored = pack(fresh, codec)
    for row in range(3):
        assert same_bits(stored, pack(fresh, codec), row, row) == []
        assert close_values(stored, fresh, row, row) == []
    assert same_bits(stored, stored, 0, 1) != []
    assert whose(stored, stored, 2) == 2
    assert whose({name: values[:2] for name, values in stored.items()}, stored, 2) is None


def test_one_bit_is_found() -> None:
    stored, again = pack(outputs(), Codec()), pack(outputs(), Codec())
    again["substage_1"].view(np.uint16)[1, 2] ^= 1
    assert same_bits(stored, again, 1, 1) == ["substage_1"]
    assert close_values(again, outputs(), 1, 1) == []


def test_tolerance_is_four_units_of_the_largest_value() -> None:
    assert tolerance(np.array([0.1, -1.0])) == 4 * 2.0**-10
    assert tolerance(np.array([9.0, 3.0])) == 4 * 2.0**-7
    fresh, stored = outputs(), pack(outputs(), Codec("float32"))
    room = tolerance(fresh["logits"][0])
    stored["logits"][0, 0] += 0.9 * room
    assert close_values(stored, fresh, 0, 0) == []
    stored["logits"][0, 0] += 0.2 * room
    (said,) = close_values(stored, fresh, 0, 0)
    assert said.startswith("logits is off by")


def test_another_largest_class_is_found() -> None:
    stored, fresh = pack(outputs(), Codec("float32")), outputs()
    stored["logits"][0, fresh["logits"][0].argmin()] = 100.0
    said = close_values(stored, fresh, 0, 0)
    assert len(said) == 2
    assert f"largest class is {fresh['logits'][0].argmin()} instead of {fresh['logits'][0].argmax()}" in said[1]


def test_topk_that_is_not_the_largest_is_found() -> None:
    fresh, codec = outputs(), Codec(top_k=3, temperatures=(2.0,))
    stored = pack(fresh, codec)
    least = np.argsort(fresh["logits"][0])[0]
    stored["topk_index"][0, 2], stored["topk_logit"][0, 2] = least, fresh["logits"][0, least]
    assert close_values(stored, fresh, 0, 0) == ["a class that is larger than a kept one is not among the kept"]
    stored = pack(fresh, codec)
    stored["topk_logit"][1, 0] += 1
    stored["logit_mean"][1] += 1
    assert [said.split()[0] for said in close_values(stored, fresh, 1, 1)] == ["topk_logit", "logit_mean"]
