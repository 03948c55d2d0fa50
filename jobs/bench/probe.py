"""One process that does one thing and says what it took: `python -m jobs.bench.probe {command,plan,synthetic} …`.

command RECIPE OUT [profile]     `stagedkd precompute RECIPE`, then which heavy modules it imported, its peak memory
synthetic PLAN TARGETS VIEWS     commit a plan of so many views, a marker per shard; prints its peak memory
plan PLAN TARGETS OUT VIEWS      what a resume decides from: read that plan, compare it, look for what is open
"""

import cProfile
import io
import json
import pstats
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.bench.videos import video_name

HEAVY = ("torch", "ray", "mlflow", "decord", "av", "pandas", "pyarrow")
VIEWS_PER_VIDEO, SHARD_VIEWS, MICRO_BATCH, TOP = 4, 2048, 16, 25


def command(recipe: str, out: str, profile: str = "") -> None:
    """The command in this very process."""
    from jobs.cli import main as cli

    sys.argv = ["stagedkd", "precompute", recipe]
    profiler = cProfile.Profile() if profile else None
    began = time.monotonic()
    try:
        profiler.runcall(cli) if profiler else cli()
    except SystemExit as ended:
        if ended.code:
            raise
    facts: dict[str, Any] = {"seconds": time.monotonic() - began, "peak_mib": peak_mib()}
    facts["planner_peak_mib"] = peak_mib(resource.RUSAGE_CHILDREN)
    facts["imported"] = [name for name in HEAVY if name in sys.modules]
    if profiler:
        facts["profile"] = _top(profiler)
    Path(out).write_text(json.dumps(facts))


def synthetic(plan: str, targets: str, views: str) -> None:
    """A plan whose videos have four views each."""
    from pipeline.artifacts.commit import Marker, commit, new_attempt, write_bytes
    from pipeline.manifest.plan import extend_plan, read_plan
    from pipeline.video.views import ViewPolicy, view_keys

    policy = ViewPolicy("train", (112, 112), 16, 2, views_per_clip=VIEWS_PER_VIDEO)
    extend_plan(
        Path(plan),
        sources(int(views)),
        lambda video_id: view_keys(video_id, policy),
        shard_views=SHARD_VIEWS,
        micro_batch=MICRO_BATCH,
    )
    for shard in read_plan(Path(plan)).shards:
        attempt = new_attempt()
        obj = write_bytes(Path(targets), f"{shard}.{attempt}.parquet", b"nothing", SHARD_VIEWS)
        commit(Path(targets), Marker(shard, attempt, (obj,), None, {"device": "cpu", "micro_batch": MICRO_BATCH}))
    print(peak_mib())


def plan(folder: str, targets: str, out: str, views: str) -> None:
    """Each part with its seconds and the memory of this process behind it."""
    import pyarrow as pa

    from pipeline.flow.open_plan import OpenPlan
    from pipeline.flow.plans import PlanView
    from pipeline.manifest.plan import difference, read_plan
    from pipeline.manifest.uris import Uris

    given = sources(int(views))
    steps: dict[str, Any] = {"the manifest's side, as it is passed": {"seconds": 0.0, "mib": now_mib()}}
    found = _timed(steps, "read the plan", lambda: read_plan(Path(folder)))
    new, buried = _timed(steps, "compare it with the manifest", lambda: difference(found, given))
    nowhere = Uris(pa.array([], pa.string()), pa.array([], pa.string()))
    view = PlanView(Path(folder), found.shards, frozenset(found.tombstones), nowhere)
    frames = Path(targets) / "none"
    opened = _timed(steps, "look for open shards", lambda: OpenPlan("train", view, frames, False, (Path(targets),)))
    assert not new, f"{len(new)} videos are not planned"
    assert not buried, f"{len(buried)} tombstones"
    assert not opened.todo, f"{len(opened.todo)} shards are open"
    facts = {"views": found.views, "shards": len(found.shards), "videos": len(given), "steps": steps}
    Path(out).write_text(json.dumps(facts | {"peak_mib": peak_mib()}))


def sources(views: int) -> dict[str, str]:
    """video_id -> "bytes:etag" of so many views."""
    return {video_name(n): f"{1_000_000 + n}:{1_700_000_000_000_000_000 + n}" for n in range(views // VIEWS_PER_VIDEO)}


def peak_mib(whose: int = resource.RUSAGE_SELF) -> float:
    """Of this process, or the largest of its children that have ended."""
    return resource.getrusage(whose).ru_maxrss / 1024


def now_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def _timed(steps: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    began = time.monotonic()
    found = work()
    steps[name] = {"seconds": time.monotonic() - began, "mib": now_mib()}
    return found


def _top(profiler: cProfile.Profile) -> list[str]:
    """The functions in which most time goes by, with what they call."""
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("cumulative").print_stats(TOP)
    lines = text.getvalue().splitlines()
    first = next(number for number, line in enumerate(lines) if "ncalls" in line)
    return [line.strip() for line in lines[first:] if line.strip()]


PROBES: dict[str, Callable[..., None]] = {"command": command, "synthetic": synthetic, "plan": plan}

if __name__ == "__main__":
    PROBES[sys.argv[1]](*sys.argv[2:])
