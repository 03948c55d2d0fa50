"""The arguments of the benches."""

import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from jobs.common import Sets

Work = Annotated[
    Path | None, Parameter(help="Folder for films, workspaces and results, kept and used again; default: a new one")
]
Out = Annotated[Path | None, Parameter(help="The JSON file; default: in the work folder")]
Quick = Annotated[bool, Parameter(negative=(), help="Seconds instead of minutes: shows that it runs, measures nothing")]
Settings = Annotated[
    list[Literal["shared", "simulated", "cuda"]] | None,
    Parameter(help="Where the teacher runs: on the same cores, on a simulated device, on an accelerator", negative=()),
]
Naive = Annotated[
    Literal["actors", "processes"],
    Parameter(help="Workers of the naive arm: actors of Ray, or processes that have the cores to themselves"),
]

Together = Annotated[
    bool,
    Parameter(
        negative="--apart", help="On shared cores: actors that decode and label in turn, or decoders and teachers"
    ),
]


def throughput(
    *,
    work: Work = None,
    out: Out = None,
    quick: Quick = False,
    seconds: float = 300.0,
    segment: float = 60.0,
    turn: float = 10.0,
    rounds: int = 2,
    setting: Settings = None,
    model: str = "r3d_18",
    model_size: int = 64,
    frames: Literal["none", "raw", "jpeg"] = "none",
    views: int = 1,
    naive: Naive = "actors",
    together: Together = True,
    sets: Sets = None,
) -> None:
    """Decode-only, teacher-only, a plain loop in every worker and precompute itself, so that a drift of the machine
    cancels: on shared cores all four of them in turns of `turn` seconds, the others paused; with a device of its own,
    which cannot be paused, one after the other. The figure of a setting is the mean of its rounds.

    Each naive and pipeline run lasts at least `seconds` of its own at the bound's rate, with a device each decode-only
    and teacher-only one `segment`; `rounds` of all four. `--set` changes the pipeline's recipe.
    """
    from jobs.bench import report
    from jobs.bench.study import Study

    folder = _folder(work)
    settings = tuple(setting or ("shared", "simulated"))
    chosen: dict[str, Any] = {
        "seconds": seconds,
        "segment": segment,
        "turn": turn,
        "rounds": rounds,
        "settings": settings,
    }
    chosen |= {"model": model, "model_size": model_size, "frames": frames, "views": views, "naive": naive}
    chosen |= {"together": together, "sets": tuple(sets or ())}
    study = Study.quick(folder, **chosen) if quick else Study(folder, **chosen)
    result = study.run()
    report.finish(result, report.throughput_text(result), out or folder / "throughput.json")


def memory(
    *,
    work: Work = None,
    out: Out = None,
    quick: Quick = False,
    clips: Annotated[list[int] | None, Parameter(help="Sizes of the runs", negative=())] = None,
    teacher: Literal["plain", "compact"] = "plain",
    sets: Sets = None,
) -> None:
    """Peak memory of driver, actors and children over 2,000 and over 100,000 clips, as read from the system."""
    from jobs.bench import memory as bench

    folder = _folder(work)
    bench.main(folder, out or folder / "memory.json", clips, teacher, tuple(sets or ()), quick=quick)


def resume(
    *,
    work: Work = None,
    out: Out = None,
    quick: Quick = False,
    clips: int = 100_000,
    views: Annotated[int, Parameter(help="Views of the synthetic plan")] = 10_000_000,
    teacher: Literal["plain", "compact"] = "plain",
) -> None:
    """What precompute takes when nothing is to do. Uses the workspace that `memory` left in the work folder."""
    from jobs.bench import resume as bench

    folder = _folder(work)
    bench.main(folder, out or folder / "resume.json", clips, views, teacher, quick=quick)


def _folder(work: Path | None) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="stagedkd-bench-")) if work is None else work.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
