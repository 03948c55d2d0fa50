"""README's figures are made from a run's files, and stand there as they were made."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.bench import figures
from pipeline.errors import InputError


def facts(**changes: Any) -> dict[str, Any]:
    row = {"low": 0.9, "high": 0.94, "sd": 0.011, "replicates": [0.91, 0.93], "params": 12400, "flops": 3_800_000}
    networks = [
        {**row, "name": "teacher", "role": "teacher", "top1": 0.95, "sd": None, "steps": 0, "replicates": [0.95]},
        {**row, "name": "student", "role": "student", "top1": 0.92, "steps": 1000},
        {**row, "name": "cross-entropy", "role": "control", "top1": 0.1, "steps": 1000, "low": None, "high": None},
    ]
    difference = {"difference": 0.82, "low": 0.79, "high": 0.85, "word": "better"}
    return {
        "run": "demo",
        "finished": "2026-12-01T10:00:00",
        "seconds": {"total": 630.0},
        "networks": networks,
        "comparisons": [
            {"first": "student", "second": "cross-entropy", **difference},
            {"first": "teacher", "second": "cross-entropy", **difference},
        ],
        "majority": {"class": "a", "top1": 0.05, "top1_interval": {"low": 0.04, "high": 0.07}},
        "split": "test",
        "selected": None,
        **changes,
    }


def test_the_block_says_each_accuracy_with_its_interval_and_each_difference_with_its_word() -> None:
    text = figures.block(facts())
    assert "| teacher (given) | 95.0 % | 90.0–94.0 % | 12,400 | 3.8 | – |" in text
    assert "| **student, staged** | 92.0 ± 1.1 % | 90.0–94.0 % | 12,400 | 3.8 | 1000 |" in text
    assert "| control: cross-entropy | 10.0 ± 1.1 % | none |" in text
    assert "| largest training class | 5.0 % | 4.0–7.0 % |" in text
    assert "- student against cross-entropy: **better**, +82.0 points (+79.0 to +85.0)" in text
    assert "teacher against" not in text
    assert "mean ± s.d. of 2 seeds" in text
    assert "10.5 minutes" in text


def test_a_run_is_written_into_the_readme_and_kept_beside_it(tmp_path: Path) -> None:
    run, kept, readme = tmp_path / "run", tmp_path / "kept", tmp_path / "README.md"
    run.mkdir()
    kept.mkdir()
    (run / "summary.json").write_text(json.dumps({**facts(), "sample": "a path of this machine"}))
    (run / "figure.png").write_bytes(b"picture")
    readme.write_text(f"# before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n")
    figures.main(run, readme=readme, kept=kept)
    stored = json.loads((kept / "demo.json").read_text())
    assert "sample" not in stored
    assert readme.read_text() == f"# before\n{figures.BEGIN}\n{figures.block(stored)}\n{figures.END}\nafter\n"
    assert (kept / "demo.png").read_bytes() == b"picture"


def test_what_is_no_run_or_has_no_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no summary\.json"):
        figures.main(tmp_path)
    with pytest.raises(InputError, match="no block of figures"):
        figures.with_block("# a README without marks", "new")


def test_the_readme_stands_as_its_figures_were_made() -> None:
    kept = figures.HERE / "demo.json"
    text = figures.README.read_text()
    assert figures.with_block(text, figures.block(json.loads(kept.read_text()))) == text
