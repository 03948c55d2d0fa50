import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.identity import (
    artefact_key,
    canonical_json,
    difference,
    digest,
    file_digest,
    integer,
    source_digest,
    unit_draw,
)
from pipeline.errors import ConfigError, InputError

GOLDEN = [
    (
        {"b": [1, 2.5, None, True], "a": {"ü": "x\n"}},
        r'{"a":{"\u00fc":"x\n"},"b":[1,2.5,null,true]}',
        "71dcb620966d0745569ab7a2dc085c1eb6e4247250c1ef26f97560ea1e424cc6",
    ),
    ((1, (2.0, 1e-4)), "[1,[2.0,0.0001]]", "dc81e27ae0afdf64c0e91ee2672daf46328ec8366914250431048ed3423683da"),
    ({}, "{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
]


@pytest.mark.parametrize(("value", "text", "sha256"), GOLDEN)
def test_canonical_json_and_digest_never_change(value: Any, text: str, sha256: str) -> None:
    assert canonical_json(value) == text
    assert digest(value) == sha256


def test_order_of_keys_and_tuple_or_list_make_no_difference_but_int_or_float_do() -> None:
    assert digest({"a": (1, 2), "b": 1}) == digest({"b": 1, "a": [1, 2]})
    assert digest({"a": 1}) != digest({"a": 1.0})
    assert digest({"a": True}) != digest({"a": 1})


@pytest.mark.parametrize("value", [Path("x"), np.float64(1) * np.ones(2), np.int64(3), b"x", {1, 2}])
def test_values_without_json_form_are_refused_with_their_place(value: Any) -> None:
    with pytest.raises(TypeError, match=r"value\.views\[1\]"):
        canonical_json({"views": [0, value]})


def test_not_finite_numbers_and_keys_that_are_no_strings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"value\.lr: nan"):
        canonical_json({"lr": float("nan")})
    with pytest.raises(ValueError, match="inf"):
        canonical_json([float("-inf")])
    with pytest.raises(TypeError, match="key 1"):
        canonical_json({1: 2})


def test_every_part_of_a_key_counts() -> None:
    base = ("targets", 1, {"dtype": "float16"}, {"teacher": "ab"})
    others = [
        ("frames", *base[1:]),
        (base[0], 2, *base[2:]),
        (*base[:2], {"dtype": "float32"}, base[3]),
        (*base[:3], {"teacher": "ac"}),
    ]
    keys = {artefact_key(*parts) for parts in [base, *others]}
    assert len(keys) == 5
    assert artefact_key(*base) == "6def966a87c449628465780673609fd091b91aed4c6cc931dbab91bb5447a133"


def test_draws_never_change() -> None:
    assert [unit_draw(0, "v1"), unit_draw(0, "v2"), unit_draw("split", 7, "a/b.mp4")] == [
        0.809907431722675,
        0.8006867813876697,
        0.8664305000976326,
    ]
    assert [integer(0, "v1"), integer("shards", 3, 1)] == [7470077558191789535, 8762274754604814959]


def test_draws_are_uniform_and_parts_do_not_run_together() -> None:
    draws = np.array([unit_draw(5, f"video-{n}") for n in range(4000)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, 10, (0, 1))
    assert abs(counts - 400).max() < 90, "4.7 standard deviations of a bin"
    assert unit_draw("ab", "c") != unit_draw("a", "bc")
    assert unit_draw(1) != unit_draw("1")
    assert 0 <= integer("x") < 2**63


def test_file_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_digest(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_source_digest_reads_the_file_and_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_package"
    package.mkdir()
    for name in ("__init__", "nets"):
        (package / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = source_digest("their_package.nets:build")
    assert first == file_digest(package / "nets.py")
    (package / "nets.py").write_text("def build(): ...\n")
    assert source_digest("their_package.nets:build") != first
    assert "their_package" not in sys.modules


def test_source_digest_finds_what_is_installed_in_editable_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a package is not on the path: a finder of the installer knows where it lies."""
    package = tmp_path / "edited_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text("def build(): ...\n")

    class Editable:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            known = name == package.name
            return spec_from_file_location(name, package / "__init__.py") if known else None

    with pytest.raises(InputError, match="no module 'edited_package'"):
        source_digest("edited_package.nets:build")
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    assert source_digest("edited_package.nets:build") == file_digest(package / "nets.py")
    assert "edited_package" not in sys.modules


def test_source_digest_names_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="module:factory"):
        source_digest("no_colon")
    with pytest.raises(InputError, match=r"no module 'pipeline\.nothing'"):
        source_digest("pipeline.nothing.at_all:build")
    with pytest.raises(InputError, match="no Python source"):
        source_digest("math:sqrt")


def test_difference_gives_dotted_paths_with_both_sides() -> None:
    a = {"train": {"lr": 0.1, "steps": 10}, "sizes": [[1, 2], [3]], "same": 1}
    b = {"train": {"lr": 0.2}, "sizes": [[1, 5], [3]], "same": 1, "extra": None}
    assert difference(a, b) == [
        "extra: absent != null",
        "sizes[0][1]: 2 != 5",
        "train.lr: 0.1 != 0.2",
        "train.steps: 10 != absent",
    ]
    assert difference(a, a) == []
    assert difference({"x": [1]}, {"x": [1, 2]}) == ["x: [1] != [1,2]"]
