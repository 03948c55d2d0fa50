"""README's figures from a finished run's own files: nothing in that block is typed.

    runs/<name>/summary.json ─▶ jobs/bench/demo.json ─▶ the block between <!-- figures --> and <!-- /figures -->
    runs/<name>/figure.png   ─▶ jobs/bench/demo.png

demo.json is what the block is made of, kept beside it, so that a test can make it again and compare.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipeline.artifacts.files import replace
from pipeline.errors import InputError

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- figures: written by `make figures` from jobs/bench/demo.json -->", "<!-- /figures -->"
KEPT = ("run", "finished", "seconds", "networks", "comparisons", "majority", "split", "selected")
OWN = {"teacher": "teacher (given)", "student": "**student, staged**"}


def main(
    run: Annotated[Path, Parameter(help="Folder of a finished run, for example workspace/runs/demo")],
    /,
    *,
    readme: Annotated[Path, Parameter(help="The file whose block is written anew")] = README,
    kept: Annotated[Path, Parameter(help="Folder that keeps demo.json and demo.png")] = HERE,
) -> None:
    """Write README's block of figures from the run's summary and picture. Prints the README's path."""
    summary = run / "summary.json"
    if not summary.is_file():
        raise InputError(f"{run} holds no summary.json: name the folder of a finished run (runs/<name> of a workspace)")
    found = json.loads(summary.read_text())
    facts = {name: found[name] for name in KEPT}
    replace(kept / "demo.json", (json.dumps(facts, indent=1) + "\n").encode())
    shutil.copyfile(run / "figure.png", kept / "demo.png")
    replace(readme, with_block(readme.read_text(), block(facts)).encode())
    print(readme)


def with_block(text: str, new: str) -> str:
    """`text` with the block between the two marks replaced. InputError where it has no such marks."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(f"README has no block of figures: it stands between {BEGIN} and {END}")
    return f"{head}{BEGIN}\n{new}\n{END}{tail}"


def block(facts: dict[str, Any]) -> str:
    """Picture, table, and what each difference is, in Markdown."""
    seeds = max(len(row["replicates"]) for row in facts["networks"])
    day, minutes = facts["finished"][:10], facts["seconds"]["total"] / 60
    spread = f", mean ± s.d. of {seeds} seeds" if seeds > 1 else ""
    head = [
        "![Accuracy of the demo's networks, with intervals](jobs/bench/demo.png)",
        "",
        f"| {day}, {facts['split']} videos{spread} | top-1 | 95 % interval | parameters | MFLOPs a clip | steps |",
        "|---|---|---|---|---|---|",
    ]
    rows = [_row(row) for row in facts["networks"]]
    majority = facts["majority"]
    if majority is not None:
        bounds = majority["top1_interval"]
        rows.append(f"| largest training class | {_percent(majority['top1'])} | {_bounds(bounds)} | | | |")
    mine = [item for item in facts["comparisons"] if item["first"] == "student"]
    said = [
        "",
        "Paired, on the same videos and seeds, with 95 % intervals:",
        "",
        *[f"- {_said(item)}" for item in mine],
    ]
    return "\n".join([*head, *rows, *said, "", f"The run took {minutes:.1f} minutes (the teacher's fit apart)."])


def _row(row: dict[str, Any]) -> str:
    name = OWN.get(row["role"], f"control: {row['name']}" if row["role"] == "control" else row["name"])
    spread = "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"
    size = f"{row['params']:,} | {row['flops'] / 1e6:.1f} | {row['steps'] or '–'}"
    return f"| {name} | {100 * row['top1']:.1f}{spread} % | {_bounds(row)} | {size} |"


def _said(item: dict[str, Any]) -> str:
    """One difference with its interval and its word."""
    size = f"{100 * item['difference']:+.1f} points"
    if item["low"] is not None:
        size += f" ({100 * item['low']:+.1f} to {100 * item['high']:+.1f})"
    return f"{item['first']} against {item['second']}: **{item['word']}**, {size}"


def _bounds(row: dict[str, Any]) -> str:
    if row["low"] is None:
        return "none"
    return f"{100 * row['low']:.1f}–{100 * row['high']:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
