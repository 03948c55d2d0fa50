"""What precompute takes when nothing is to do: over real targets of 100,000 clips, and for a plan of ten million views.

The first runs the command itself, in a process that says afterwards whether torch or Ray was imported; a second time
under cProfile. The second is made by the plan's own functions, without files of videos: what is measured is what a
resume decides from.
"""

import json
import logging
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.bench.driver import drive, run, workspace_of
from jobs.bench.memory import recipe_for, tiny_load
from jobs.bench.report import finish, machine, plain_text, table

LOG = logging.getLogger(__name__)
QUICK_CLIPS, QUICK_VIEWS = 64, 8192


def main(work: Path, out: Path, clips: int, views: int, teacher: str, *, quick: bool) -> None:
    """Both parts; prints and writes."""
    clips, views = (QUICK_CLIPS, QUICK_VIEWS) if quick else (clips, views)
    facts = machine()
    real = noop(work, clips, teacher, quick)
    planned = synthetic(work, views)
    result = {"bench": "precompute resume", "machine": facts, "teacher": teacher, "noop": real, "synthetic": planned}
    finish(result, plain_text("precompute: a resume with nothing to do", result, _tables(real, planned)), out)


def noop(work: Path, clips: int, teacher: str, quick: bool) -> dict[str, Any]:
    """The command over finished targets; those that are not there yet are made first."""
    recipe = recipe_for(tiny_load(work, quick), clips, teacher)
    if not (workspace_of(recipe) / "store" / "targets").is_dir():
        LOG.info("%d clips have to be done first", clips)
    drive("precompute", recipe)
    plain, profiled = (_command(recipe, profile) for profile in ("", "profile"))
    return {"clips": clips, **plain, "profile": profiled["profile"]}


def synthetic(work: Path, views: int) -> dict[str, Any]:
    """A plan of so many views with a marker of targets for each shard: made in one process, decided on in another."""
    root = work / f"synthetic-{views}"
    if not (root / "made").is_file():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for name in ("plan", "targets"):
            (root / name).mkdir()
        driven = run(_line("synthetic", root / "plan", root / "targets", views), root / "synthetic.log")
        (root / "made").write_text(json.dumps({"seconds": driven.seconds, "peak_mib": float(driven.last)}))
    answer = root / "plan.json"
    driven = run(_line("plan", root / "plan", root / "targets", answer, views), root / "plan.log")
    return dict(json.loads(answer.read_text())) | {
        "whole_seconds": driven.seconds,
        "made": json.loads((root / "made").read_text()),
    }


def _command(recipe: Path, profile: str) -> dict[str, Any]:
    answer = recipe.with_suffix(".noop.json")
    driven = run(_line("command", recipe, answer, profile), recipe.with_suffix(".noop.log"), every=0.2)
    return dict(json.loads(answer.read_text())) | {"whole_seconds": driven.seconds}


def _line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "jobs.bench.probe", *(str(argument) for argument in arguments)]


def _tables(real: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    heavy = [name for name in ("torch", "ray") if name in real["imported"]]
    rows: list[tuple[object, object]] = [
        ("seconds of the process", real["whole_seconds"]),
        ("seconds of the command, Python started", real["seconds"]),
        ("peak memory of the driver, MiB", real["peak_mib"]),
        ("peak memory of the process that scans and plans, MiB", real["planner_peak_mib"]),
        ("torch or Ray imported", ", ".join(heavy) or "neither"),
        ("imported", ", ".join(real["imported"])),
    ]
    top = "\n".join(f"    {line}" for line in real["profile"])
    steps = [(name, step["seconds"], step["mib"]) for name, step in planned["steps"].items()]
    made = planned["made"]
    steps.append(("peak", planned["whole_seconds"], planned["peak_mib"]))
    steps.append(("before: planned, and a marker per shard (peak)", made["seconds"], made["peak_mib"]))
    sizes = f"{planned['views']:,} views in {planned['shards']:,} shards of {planned['videos']:,} videos"
    first = table((f"{real['clips']:,} clips, nothing to do", "value"), rows)
    return [first, f"Profile:\n\n{top}\n", table((sizes, "s", "MiB after"), steps)]
