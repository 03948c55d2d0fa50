"""What a bench leaves: a JSON file with everything, and Markdown tables on stdout; the file's path comes last."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("stagedkd", "ray", "torch", "torchvision", "numpy", "pyarrow", "decord", "av")


def machine() -> dict[str, Any]:
    """Where this runs and with what: no names, no addresses."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "load_before": round(os.getloadavg()[0], 2),
        "command": " ".join(["stagedkd", *sys.argv[1:]]),
    }


def finish(result: Mapping[str, Any], text: str, out: Path) -> None:
    """Write the JSON, print the Markdown and, as the last line, where the JSON lies."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1, default=str) + "\n")
    print(text)
    print(out)
    sys.stdout.flush()


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def throughput_text(result: Mapping[str, Any]) -> str:
    """Tables of `throughput`."""
    parts = [_heading("precompute: throughput", result["machine"])]
    parts.append(table(("what", "value"), [(key, value) for key, value in result["options"].items()]))
    splits = [
        (arm, *(f"{count}: {rate:.2f}" for count, rate in split["rates"].items()), f"best {split['processes']}")
        for arm, split in result["splits"].items()
    ]
    parts += [f"- {row[0]}, processes: clips/s: {', '.join(row[1:])}" for row in splits]
    cost = result["isolation"]
    parts.append(
        f"- isolation: {cost['child_ms']:.1f} ms a clip in the child, {cost['in_process_ms']:.1f} ms in process: "
        f"{100 * cost['overhead']:+.1f} % ({cost['videos']} pairs)\n"
    )
    parts += [_setting_text(setting) for setting in result["settings"]]
    return "\n".join(parts)


def _setting_text(setting: Mapping[str, Any]) -> str:
    arms = list(dict.fromkeys(run["arm"] for run in setting["runs"]))
    rows = [_arm_row(arm, [run for run in setting["runs"] if run["arm"] == arm]) for arm in arms]
    first = table(("arm", "processes", "clips/s", "each run", "CPU s a clip"), rows)
    names = ("bound", "pipeline_by_bound", "naive_by_bound", "pipeline_by_naive", "reached")
    rounds = [[number, *(ratio[name] for name in names)] for number, ratio in enumerate(setting["ratios"], start=1)]
    values = [[ratio[name] for ratio in setting["ratios"]] for name in names]
    means = [["mean", *map(statistics.fmean, values)]]
    if len(setting["ratios"]) > 1:
        means.append(["standard error", *(statistics.stdev(each) / len(each) ** 0.5 for each in values)])
    head = ("round", "bound, clips/s", "pipeline ÷ bound", "naive ÷ bound", "pipeline ÷ naive", "of bound ÷ naive")
    second = table(head, [*rounds, *means])
    others = [
        [
            number,
            run["whole"],
            run["told"]["clips_per_second"],
            run["between_commits"],
            run["startup"],
            run["told"]["teacher_waited_share"],
            _shares(run["cpu"]),
        ]
        for number, run in enumerate(setting["pipelines"], start=1)
    ]
    columns = ("whole call", "graph", "between commits", "start-up, s", "teacher waited", "CPU s a clip")
    third = table(("pipeline run", *columns), others)
    counts = setting["decoders"], setting["teachers"]
    pools = (
        f"{sum(counts)} actors that do both" if setting["together"] else "{} decoders and {} teachers".format(*counts)
    )
    title = f"### {setting['setting']}: {setting['clips']} clips a run, {pools} in the pipeline"
    return f"{title}\n\n{first}\n{second}\n{third}"


def _arm_row(arm: str, runs: Sequence[Mapping[str, Any]]) -> list[object]:
    rates = [run["rate"] for run in runs]
    cpu = statistics.fmean(run["cpu_per_clip"] for run in runs)
    return [arm, runs[0]["processes"], statistics.fmean(rates), ", ".join(f"{rate:.2f}" for rate in rates), cpu]


def _heading(title: str, facts: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    return (
        f"## {title}\n\n    {facts['command']}\n\n{facts['date']}, {facts['cores']} cores ({facts['processor']}), "
        f"{facts['memory_gib']} GiB, load before {facts['load_before']}; {versions}\n"
    )


def plain_text(title: str, result: Mapping[str, Any], tables: Sequence[str]) -> str:
    """Heading and tables of the other benches."""
    return "\n".join([_heading(title, result["machine"]), *tables])


def _shares(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in parts.items())


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
