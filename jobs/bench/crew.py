"""Worker processes side by side: started, ready, told to begin at the same moment, and asked what they did.

The worker's side is `python -m jobs.bench.crew`: a job (one line of JSON) comes in, `ready` goes out, the next line is
the signal, and then the answer: (second, clips) of every micro-batch, and the processor time with that of its child.
Workers may also be actors of a Ray session (jobs.bench.actors), which shares the cores with them.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from jobs.bench.processes import tree
from jobs.bench.rates import Measured, crew_rate
from pipeline.errors import JobError

Active = Callable[[float, float], float]
HOME = Path(__file__).parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def environment() -> dict[str, str]:
    """One thread a process, and this checkout importable."""
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}


class Crew:
    """Workers that are ready and wait for the signal: processes, or actors of a Ray session of their own (`hosted`).

    JobError where one of them fails. A `cold` job's workers make themselves ready once their time runs.
    """

    def __init__(self, job: Any, workers: int, *, hosted: bool = False) -> None:
        self.job, self.workers = job, workers
        module, jobs = "jobs.bench.crew", [replace(job, worker=number, workers=workers) for number in range(workers)]
        if hosted:
            module, jobs = "jobs.bench.actors", [replace(job, workers=workers)]
        self._hosted = hosted
        self._answers: list[dict[str, Any]] = []
        self._processes = [_start(module) for _ in jobs]
        try:
            for process, one in zip(self._processes, jobs, strict=True):
                _send(process, json.dumps(asdict(one), default=str))
            for process in self._processes:
                _answer(process)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def going(self) -> bool:
        return any(process.poll() is None for process in self._processes)

    def go(self) -> None:
        """The signal; their time runs once they get it."""
        for process in self._processes:
            _send(process, "go")

    def stop(self) -> None:
        """Each ends after the micro-batch that it works on; returns once all have."""
        for process in self._processes:
            process.terminate()
        self._end()

    def measured(self, active: Active = lambda begin, end: end - begin) -> Measured:
        """What they did, to their end. `active`: seconds that count between two moments of time.time()."""
        self._end()
        answers = [dict(answer) for answer in self._answers]
        for answer in answers:
            began = answer["began"]
            answer["done"] = [(active(began, began + second), clips) for second, clips in answer["done"]]
        return _measured(self.job, answers)

    def _end(self) -> None:
        if not self._answers:
            self._answers = [_answer(process) for process in self._processes]
            for process in self._processes:  # a host ends with its Ray session
                process.wait()
            if self._hosted:
                self._answers = self._answers[0]["workers"]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def run_crew(job: Any, workers: int, *, hosted: bool = False) -> Measured:
    """`workers` that work on `job` (an arms.Job) at the same time. JobError where one of them fails.

    The naive arm is measured by the moment when all is done, the others by each worker's own last micro-batch.
    """
    with Crew(job, workers, hosted=hosted) as crew:
        crew.go()
        return crew.measured()


def _measured(job: Any, answers: Sequence[dict[str, Any]]) -> Measured:
    done = [answer["done"] for answer in answers]
    clips = sum(count for worker in done for _, count in worker)
    seconds = max((worker[-1][0] for worker in done if worker), default=0.0)
    if not clips:
        raise JobError(f"the workers of the {job.arm} arm finished nothing")
    rate = clips / seconds if job.arm == "naive" else crew_rate(done)
    return Measured(job.arm, clips, seconds, rate, sum(answer["cpu"] for answer in answers), len(answers))


def _start(module: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", module]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())


def _send(process: "subprocess.Popen[bytes]", line: str) -> None:
    stream: IO[bytes] | None = process.stdin
    assert stream is not None
    stream.write(line.encode() + b"\n")
    stream.flush()


def _answer(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise JobError(f"a worker ended with code {process.wait()} before it was done; what it said stands above")
    return dict(json.loads(line))


def main() -> None:
    """The worker's side."""
    from jobs.bench.arms import ARMS, Job

    job = Job.from_json(json.loads(sys.stdin.readline()))
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    build = partial(ARMS[job.arm], job)
    step = build if job.cold else build()
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    print(json.dumps(work(job, step, told)), flush=True)


def work(job: Any, step: Any, told: threading.Event | None = None) -> dict[str, Any]:
    """Do `step` of `job` for its seconds, to its end or until `told` to stop; the answer. A cold one is made first."""
    before, began, clock = _cpu(), time.time(), time.monotonic()
    if job.cold:
        step = step()
    done: list[tuple[float, int]] = []
    while (job.seconds is None or time.monotonic() - clock < job.seconds) and not (told and told.is_set()):
        clips = step()
        if clips is None:
            break
        done.append((time.monotonic() - clock, clips))
    return {"began": began, "done": done, "cpu": _cpu() - before}


def _cpu() -> float:
    """Of this process and its children, those among them that have ended."""
    ended = os.times()
    return sum(process.cpu for process in tree(os.getpid()).values()) + ended.children_user + ended.children_system


if __name__ == "__main__":
    main()
