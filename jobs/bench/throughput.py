"""How near precompute comes to what its parts allow, and what a plain loop of processes makes of the same cores."""

import contextlib
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.bench.arms import PATIENT, Job
from jobs.bench.crew import Crew, run_crew
from jobs.bench.driver import PipelineRun, decoding, drive, plan_folder, run_pipeline
from jobs.bench.rates import (
    Measured,
    Ratios,
    best_split,
    clips_for,
    compared,
    ratios,
    separate_bound,
    shared_bound,
    slots_for,
)
from jobs.bench.turns import Turns
from jobs.bench.workload import CORES, Workload, plain_teacher, pools
from pipeline.artifacts.commit import read_markers, read_object
from pipeline.errors import JobError
from pipeline.flow.teacher_stage import TeacherJob

MICRO_BATCH_SECONDS = 2.0
ALONE = 0.5  # of a turn for decoding alone and the teacher alone: their rates are steadier than what is compared
Found = dict[str, Any]  # what was measured in a setting, as the JSON file has it


@dataclass(frozen=True)
class Teacher:
    """A saved teacher and the recipe's section that takes it."""

    job: TeacherJob
    section: dict[str, Any]

    def with_slots(self, slots: int) -> "Teacher":
        return replace(self, job=replace(self.job, batch=slots))


@dataclass(frozen=True)
class Split:
    """The best number of processes for an arm, and clips per second of every number tried."""

    processes: int
    rates: dict[int, float]

    @property
    def rate(self) -> float:
        return self.rates[self.processes]


@dataclass(frozen=True)
class Setting:
    """One placement of the teacher. `device_rate`: clips per second of a simulated device; `naive`: what the workers of
    the naive arm are, actors or processes; `together`: the pipeline's actors decode and label in turn."""

    name: str
    load: Workload
    teacher: Teacher
    decoders: int
    teachers: int
    frames: str = "none"
    device_rate: float | None = None
    sets: tuple[str, ...] = ()
    every: float = 2.0
    naive: str = "actors"
    together: bool = False

    @property
    def shared(self) -> bool:
        return self.name == "shared"

    def bound(self, a: float, b: float) -> float:
        return shared_bound(a, b) if self.shared else separate_bound(a, b)

    def recipe(self, name: str, clips: int) -> Path:
        """A scanned and planned recipe over so many clips."""
        pool = pools(self.decoders, self.teachers, separate=not self.shared, together=self.together)
        pool |= {"frames": self.frames, "device": self.teacher.job.device}
        recipe = self.load.write(f"{name}-{self.name}-{clips}", clips, self.teacher.section, pool)
        drive("manifest", recipe)
        return recipe

    def pipeline(self, recipe: Path, **watched: Any) -> tuple[Path, PipelineRun]:
        """One pass over a recipe of this setting; `watched`: as `run_pipeline` has it."""
        return run_pipeline(recipe, self.decoders + self.teachers, self.sets, every=self.every, **watched)

    def job(self, arm: str, seconds: float | None) -> Job:
        return Job(arm, self.load, 0, 1, self.teacher.job, seconds)

    def naive_job(self, recipe: Path) -> tuple[Path, Job]:
        """Of workers over the recipe's plan, from nothing; and the folder of their targets."""
        root = recipe.with_suffix("")
        folders = {name: root / name for name in ("claims", "out")}
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        places = {"plan": plan_folder(recipe), "root": root / "videos", **folders}
        said: dict[str, Any] = {name: str(path) for name, path in places.items()}
        return folders["out"], replace(self.job("naive", None), **said)


def find_split(job: Job, counts: Sequence[int]) -> Split:
    """Try every number of processes for `job.seconds` each."""
    rates = {count: run_crew(job, count).rate for count in counts}
    return Split(best_split(rates), rates)


def fitting_slots(load: Workload, splits: Sequence[Split]) -> int:
    """Slots of a micro-batch that is at least two seconds of work in each stage."""
    fastest = max(split.rate / split.processes for split in splits)
    slots = slots_for(MICRO_BATCH_SECONDS, fastest, load.slots)
    return -(-slots // load.views) * load.views


def simulated(work: Path, load: Workload, a: float) -> tuple[Teacher, float]:
    """A device that takes as long for a micro-batch as all cores take to decode one, and its clips per second."""
    seconds = round(load.slots / a, 3)
    folder, section = plain_teacher(work, seconds)
    return Teacher(TeacherJob(str(folder), load.slots), section), load.slots / seconds


def run_naive(setting: Setting, recipe: Path) -> tuple[Path, Measured]:
    """As many serial workers as cores over the recipe's plan; returns the folder of their targets, too."""
    out, job = setting.naive_job(recipe)
    return out, run_crew(job, CORES, hosted=setting.naive == "actors")


def check_equal(setting: Setting, clips: int) -> int:
    """Both ways over a small plan of its own; JobError where they do not store equal targets. Returns the rows."""
    recipe = setting.recipe("check", clips)
    folder, _ = setting.pipeline(recipe)
    out, _ = run_naive(setting, recipe)
    parts = [read_object(folder, part) for marker in read_markers(folder, "shard-").values() for part in marker.objects]
    ours = _sorted(pa.concat_tables(parts))
    naive = _sorted(pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("*.parquet"))]))
    differing = [name for name in ours.column_names if not ours.column(name).equals(naive.column(name))]
    if ours.num_rows != clips or differing:
        raise JobError(
            f"pipeline and naive arm differ before anything is timed: {ours.num_rows} and {naive.num_rows} rows of "
            f"{clips}, unequal columns {differing}"
        )
    return ours.num_rows


def _sorted(table: pa.Table) -> pa.Table:
    return table.sort_by([("clip_id", "ascending"), ("view_id", "ascending")]).combine_chunks()


def measure(setting: Setting, rounds: int, seconds: float, segment: float, splits: dict[str, Split]) -> Found:
    """The interleaved runs of a setting and their ratios: of decode and teacher each, before, between and after
    (naive, pipeline) × rounds.

    `seconds` each naive or pipeline run at least (at the bound's rate), `segment` each decode-only or teacher-only one.
    """
    b = setting.device_rate or splits["teacher"].rate
    clips = clips_for(seconds, setting.bound(splits["decode"].rate, b), setting.load.shard_views)
    recipe = setting.recipe("timed", clips)
    stages = ["decode"] if setting.device_rate else ["decode", "teacher"]
    alone = lambda: [run_crew(setting.job(arm, segment), splits[arm].processes) for arm in stages]  # noqa: E731
    runs: list[Measured] = []
    pipelines: list[PipelineRun] = []
    for _ in range(rounds):
        runs += [*alone(), run_naive(setting, recipe)[1], *alone()]
        folder, pipeline = setting.pipeline(recipe)
        shutil.rmtree(folder)
        runs.append(pipeline.measured)
        pipelines.append(pipeline)
    runs += alone()
    found = ratios(runs, shared=setting.shared, device_rate=setting.device_rate)
    return _told(setting, clips, runs, pipelines, found)


def measure_in_turns(setting: Setting, rounds: int, seconds: float, turn: float, splits: dict[str, Split]) -> Found:
    """The same for arms that all need the same cores: in each round all four of them in turns of `turn` seconds (the
    stages alone: half of that), until the naive workers and the pipeline are through the plan, in `seconds` of their
    own time at the bound's rate."""
    rate = setting.bound(splits["decode"].rate, splits["teacher"].rate)
    clips = clips_for(seconds, rate, setting.load.shard_views * CORES)
    recipe = setting.recipe("timed", clips)
    runs: list[Measured] = []
    pipelines: list[PipelineRun] = []
    for _ in range(rounds):
        measured, pipeline = _side_by_side(setting, recipe, turn, splits)
        runs += measured
        pipelines.append(pipeline)
    by_arm = [[run.rate for run in runs if run.arm == arm] for arm in ("decode", "teacher", "naive", "pipeline")]
    found = [compared(setting.bound(a, b), *others) for a, b, *others in zip(*by_arm, strict=True)]
    return _told(setting, clips, runs, pipelines, found) | {"turn": turn}


def _side_by_side(
    setting: Setting, recipe: Path, turn: float, splits: dict[str, Split]
) -> tuple[list[Measured], PipelineRun]:
    turns, everyone = Turns(turn), {arm: setting.job(arm, None) for arm in ("decode", "teacher")}
    processes = {arm: splits[arm].processes for arm in everyone} | {"naive": CORES}
    everyone["naive"] = replace(setting.naive_job(recipe)[1], cold=True)
    crews: dict[str, Crew] = {}
    pid: Future[int] = Future()
    with contextlib.ExitStack() as stack:
        for arm, job in everyone.items():
            hosted = arm == "naive" and setting.naive == "actors"
            crews[arm] = stack.enter_context(Crew(job, processes[arm], hosted=hosted))
            turns.add(arm, *crews[arm].pids, part=1.0 if arm == "naive" else ALONE)
        patient = replace(setting, sets=(*setting.sets, f"precompute.deadline={PATIENT}"))
        active = partial(turns.active, "pipeline")
        pipeline = stack.enter_context(ThreadPoolExecutor(1)).submit(
            patient.pipeline, recipe, started=pid.set_result, active=active
        )
        stack.callback(turns.release)
        either: tuple[Future[Any], ...] = (pid, pipeline)
        wait(either, return_when=FIRST_COMPLETED)
        if not pid.done():
            pipeline.result()  # raises what kept it from starting
        turns.add("pipeline", pid.result())
        turns.until("pipeline", lambda: pipeline.done() or decoding(pid.result()))
        for crew in crews.values():
            crew.go()
        turns.run(lambda arm: not pipeline.done() if arm == "pipeline" else crews[arm].going, ("naive", "pipeline"))
        for arm in ("decode", "teacher"):
            with turns.turn(arm):
                crews[arm].stop()
        folder, run = pipeline.result()
        shutil.rmtree(folder)
        return [*(crew.measured(partial(turns.active, arm)) for arm, crew in crews.items()), run.measured], run


def _told(
    setting: Setting, clips: int, runs: list[Measured], pipelines: list[PipelineRun], found: Sequence[Ratios]
) -> Found:
    return {
        "setting": setting.name,
        "clips": clips,
        "together": setting.together,
        "decoders": setting.decoders,
        "teachers": setting.teachers,
        "device_rate": setting.device_rate,
        "runs": [run.to_json() for run in runs],
        "pipelines": [asdict(pipeline) for pipeline in pipelines],
        "ratios": [ratio.to_json() | {"reached": ratio.reached} for ratio in found],
        "finished": time.strftime("%H:%M:%S"),
    }
