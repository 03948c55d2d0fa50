"""The pipeline arm and every other command that is timed: a subprocess of the command line, as users start it."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench.crew import Active, environment
from jobs.bench.processes import CHILD, Process, Sampler, boot_time, tree
from jobs.bench.rates import Done, Measured
from pipeline.artifacts.commit import read_markers
from pipeline.errors import JobError

TOLD = ("clips_per_second", "decode_seconds", "teacher_seconds", "teacher_waited_share", "decode_busy_share", "retries")

Started = Callable[[int], None]


@dataclass(frozen=True)
class Driven:
    """How a command went: its last line of output, seconds from start to end, and what its processes used."""

    last: str
    began: float
    ended: float
    sampler: Sampler

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class PipelineRun:
    """A pipeline's run: `measured` from the first decoding to the last commit, start-up of Ray not counted.

    Clips per second otherwise: `whole` of the command from start to end; `between_commits` from the first commit to the
    last (what was under way at the first one counts as done in this time, so it may exceed the bound). `cpu`: processor
    seconds per clip by kind of process. `told`: what the run's own summary says, its rate (from the graph's start to
    its end) and the share of time that the teacher waited among it.
    """

    measured: Measured
    whole: float
    between_commits: float
    startup: float
    cpu: Mapping[str, float]
    told: Mapping[str, Any]


def drive(
    command: str,
    recipe: Path,
    sets: Sequence[str] = (),
    *,
    every: float = 2.0,
    with_memory: bool = False,
    started: Started | None = None,
) -> Driven:
    """Run `stagedkd COMMAND RECIPE`; its log goes to COMMAND.log beside the recipe. JobError where it fails."""
    log = recipe.with_suffix(f".{command}.log")
    line = [sys.executable, "-m", "jobs", command, str(recipe), *(part for one in sets for part in ("--set", one))]
    return run(line, log, every=every, with_memory=with_memory, started=started)


def run(
    line: Sequence[str],
    log: Path,
    *,
    every: float = 2.0,
    with_memory: bool = False,
    started: Started | None = None,
) -> Driven:
    """As `drive`, for any command line. `started` is told the number of the process."""
    began = time.time()
    with (
        log.open("w") as stream,
        subprocess.Popen(line, stdout=subprocess.PIPE, stderr=stream, env=environment(), text=True) as process,
    ):
        sampler = Sampler(process.pid, every, with_memory).start()
        if started is not None:
            started(process.pid)
        try:
            out, _ = process.communicate()
        finally:
            process.kill()
            sampler.stop()
    if process.returncode != 0:
        raise JobError(f"{' '.join(line[2:5])} ended with code {process.returncode}: see {log}\n{_tail(log)}")
    return Driven(out.strip().splitlines()[-1] if out.strip() else "", began, time.time(), sampler)


def run_pipeline(
    recipe: Path,
    workers: int,
    sets: Sequence[str] = (),
    *,
    every: float = 2.0,
    started: Started | None = None,
    active: Active = lambda begin, end: end - begin,
) -> tuple[Path, PipelineRun]:
    """One pass of precompute over a plan of which nothing is done; returns the folder of targets, too.

    A pass must last several times `every` seconds, or its processes are not seen. `active`: seconds that count between
    two moments of time.time().
    """
    forget(workspace_of(recipe))
    driven = drive("precompute", recipe, sets, every=every, started=started)
    folder, run = Path(driven.last), workspace_of(recipe) / "runs" / recipe.stem
    return folder, _pipeline_run(driven, commits(folder), workers, summary(run), active)


def summary(run: Path) -> dict[str, Any]:
    """What precompute wrote about itself."""
    found = json.loads((run / "precompute.json").read_text())["precompute"]
    return {name: found[name] for name in TOLD}


def forget(workspace: Path) -> None:
    """Remove targets and frames, and nothing else."""
    for kind in ("targets", "frames"):
        shutil.rmtree(workspace / "store" / kind, ignore_errors=True)


def commits(folder: Path) -> list[tuple[float, int]]:
    """(second of time.time(), rows) of every commit, in the order in which they came."""
    markers = read_markers(folder, "shard-")
    return sorted((os.stat(folder / f"{name}.json").st_mtime, marker.rows) for name, marker in markers.items())


def decoding(root: int) -> bool:
    """Whether a driver's graph has begun to decode."""
    return bool(_children(tree(root).values(), root))


def _children(found: Iterable[Process], root: int) -> list[Process]:
    """The graph's decode children. The driver's own one estimates from a few videos, before there is a graph."""
    return [each for each in found if CHILD in each.command and each.parent != root]


def _pipeline_run(driven: Driven, done: Done, workers: int, told: Mapping[str, Any], active: Active) -> PipelineRun:
    clips = sum(rows for _, rows in done)
    started = [child.started for child in _children(driven.sampler.seen.values(), driven.sampler.root)]
    if not done or not started:
        raise JobError("the pipeline committed nothing: its log says why")
    begin, first, end = boot_time() + min(started), done[0][0], done[-1][0]
    cpu = driven.sampler.cpu(begin, end)
    seconds, between = active(begin, end), active(first, end)
    measured = Measured("pipeline", clips, seconds, clips / seconds, sum(cpu.values()), workers)
    return PipelineRun(
        measured,
        whole=clips / active(driven.began, driven.ended),
        between_commits=(clips - done[0][1]) / between if between else 0.0,
        startup=active(driven.began, begin),
        cpu={kind: seconds / clips for kind, seconds in sorted(cpu.items())},
        told=told,
    )


def workspace_of(recipe: Path) -> Path:
    """The workspace that `Workload.write` gave a recipe."""
    return recipe.with_suffix("") / "workspace"


def plan_folder(recipe: Path) -> Path:
    """The training plan's folder of a recipe that was scanned."""
    from pipeline.config.load import read_recipe
    from pipeline.flow.plans import plan_step

    found: Any = read_recipe(recipe)
    return workspace_of(recipe) / "store" / "plan" / str(plan_step(found, "train").key)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
