"""Workers of a crew as actors of Ray, a CPU each: `python -m jobs.bench.actors` hosts them and speaks as one does."""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from jobs.bench.arms import ARMS, Job
from jobs.bench.crew import ONE_THREAD, work
from pipeline.on_ray.session import Session

_steps: dict[int, Any] = {}  # of this actor


def main() -> None:
    """The host's side: a job with the number of its workers comes in."""
    job = Job.from_json(json.loads(sys.stdin.readline()))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints there what its workers print
    os.environ.update(ONE_THREAD)  # what actors inherit
    session = Session(None, dashboard=False)
    session.start()
    try:
        from pipeline.on_ray.pool import WarmPool

        jobs = [replace(job, worker=number) for number in range(job.workers)]
        with WarmPool(job.workers) as pool:
            if not job.cold:
                pool.map(_prepare, jobs)
            print(json.dumps({"ready": True}), file=answers)
            sys.stdin.readline()
            done = pool.map(_work, jobs)  # in the same order, so each by the actor that prepared it
    finally:
        session.close()
    print(json.dumps({"workers": done}), file=answers)


def _prepare(job: Job) -> None:
    _steps[job.worker] = ARMS[job.arm](job)


def _work(job: Job) -> dict[str, Any]:
    return work(job, partial(ARMS[job.arm], job) if job.cold else _steps[job.worker])


if __name__ == "__main__":
    from jobs.bench import actors

    actors.main()  # by its name: actors that import it share its state, those of a __main__ would each have a copy
