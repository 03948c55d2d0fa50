"""What the tables of a bench say, read back from Markdown."""

import math
from typing import Any

from jobs.bench.report import throughput_text

NAMES = ("bound", "pipeline_by_bound", "naive_by_bound", "pipeline_by_naive", "reached")


def study(*by_naive: float) -> dict[str, Any]:
    """As `Study.run` gives it, with one round for each pipeline ÷ naive."""
    run = {"arm": "naive", "processes": 2, "rate": 5.0, "cpu_per_clip": 0.3}
    said = {"clips_per_second": 5.0, "teacher_waited_share": 0.0}
    pipeline = {"whole": 5.0, "told": said, "between_commits": 5.0, "startup": 1.0, "cpu": {"driver": 0.1}}
    setting = {
        "setting": "shared",
        "clips": 10,
        "together": True,
        "decoders": 1,
        "teachers": 1,
        "runs": [run for _ in by_naive],
        "pipelines": [pipeline for _ in by_naive],
        "ratios": [dict.fromkeys(NAMES, 1.0) | {"pipeline_by_naive": value} for value in by_naive],
    }
    facts = {"command": "", "date": "", "cores": 2, "processor": "", "memory_gib": 1, "load_before": 0, "versions": {}}
    cost = {"child_ms": 1.0, "in_process_ms": 1.0, "overhead": 0.0, "videos": 1}
    return {"machine": facts, "options": {}, "splits": {}, "isolation": cost, "settings": [setting]}


def row(text: str, name: str) -> list[float] | None:
    """The numbers of the line that begins with `name`."""
    found = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {name} |")]
    return [float(cell) for cell in found[0][1:]] if found else None


def test_the_figure_of_a_setting_is_the_mean_of_its_rounds_with_a_standard_error() -> None:
    text = throughput_text(study(0.94, 0.97, 1.0))
    assert row(text, "mean") == [1.0, 1.0, 1.0, 0.97, 1.0]
    assert row(text, "standard error") == [0.0, 0.0, 0.0, round(0.03 / math.sqrt(3), 3), 0.0]


def test_one_round_has_no_standard_error() -> None:
    text = throughput_text(study(0.94))
    assert row(text, "mean") == [1.0, 1.0, 1.0, 0.94, 1.0]
    assert row(text, "standard error") is None
