"""Workers of a crew as actors of Ray, a CPU each: `python -m jobs.bench.actors` hosts them and speaks as one does."""

import json
import os
import sys
from dataclasses import replace
from typing import Any

from jobs.bench.arms import ARMS, Job
from jobs.bench.crew import ONE_THREAD, work
from pipeline.on_ray.session import Session


class Worker:
    """One worker of the crew: ready once it is made."""

    def __init__(self, job: Job) -> None:
        self.job, self.step = job, ARMS[job.arm](job)

    def ready(self) -> bool:
        return True

    def work(self) -> dict[str, Any]:
        return work(self.job, self.step)


def main() -> None:
    """The host's side: a job with the number of its workers comes in."""
    job = Job.from_json(json.loads(sys.stdin.readline()))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints there what its workers print
    os.environ.update(ONE_THREAD)  # what actors inherit
    session = Session(None, dashboard=False)
    session.start()
    try:
        import ray

        actor: Any = ray.remote(Worker).options(num_cpus=1)
        crew = [actor.remote(replace(job, worker=number)) for number in range(job.workers)]
        ray.get([worker.ready.remote() for worker in crew])
        print(json.dumps({"ready": True}), file=answers)
        sys.stdin.readline()
        done = ray.get([worker.work.remote() for worker in crew])
    finally:
        session.close()
    print(json.dumps({"workers": done}), file=answers)


if __name__ == "__main__":
    main()
