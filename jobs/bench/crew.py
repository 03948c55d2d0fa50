"""Worker processes side by side: started, ready, told to begin at the same moment, and asked what they did.

The worker's side is `python -m jobs.bench.crew`: a job (one line of JSON) comes in, `ready` goes out, the next line is
the signal, and then the answer: (second, clips) of every micro-batch, and the processor time with that of its child.
Workers may also be actors of a Ray session (jobs.bench.actors), which shares the cores with them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from jobs.bench.processes import tree
from jobs.bench.rates import Measured, crew_rate
from pipeline.errors import JobError

HOME = Path(__file__).parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def environment() -> dict[str, str]:
    """One thread a process, and this checkout importable."""
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}


def run_crew(job: Any, workers: int) -> Measured:
    """`workers` processes that work on `job` (an arms.Job) at the same time. JobError where one of them fails.

    A job with `seconds` is measured by each worker's own last micro-batch, one without by the moment when all is done.
    """
    crew = [_start("jobs.bench.crew") for _ in range(workers)]
    try:
        for number, process in enumerate(crew):
            _send(process, json.dumps(asdict(replace(job, worker=number, workers=workers)), default=str))
        for process in crew:
            _answer(process)
        for process in crew:
            _send(process, "go")
        return _measured(job, [_answer(process) for process in crew])
    finally:
        for process in crew:
            process.kill()
            process.wait()


def run_actors(job: Any, workers: int) -> Measured:
    """The same, but the workers are actors of a Ray session of their own."""
    host = _start("jobs.bench.actors")
    try:
        _send(host, json.dumps(asdict(replace(job, workers=workers)), default=str))
        _answer(host)
        _send(host, "go")
        found = _measured(job, _answer(host)["workers"])
        host.wait()  # Ray ends with it
        return found
    finally:
        host.kill()
        host.wait()


def _measured(job: Any, answers: Sequence[dict[str, Any]]) -> Measured:
    done = [answer["done"] for answer in answers]
    clips = sum(count for worker in done for _, count in worker)
    seconds = max((worker[-1][0] for worker in done if worker), default=0.0)
    if not clips:
        raise JobError(f"the workers of the {job.arm} arm finished nothing")
    rate = clips / seconds if job.seconds is None else crew_rate(done)
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
    step = ARMS[job.arm](job)
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    print(json.dumps(work(job, step)), flush=True)


def work(job: Any, step: Any) -> dict[str, Any]:
    """Do `step` of `job` for its seconds or to its end; the answer."""
    before, began = _cpu(), time.monotonic()
    done: list[tuple[float, int]] = []
    while job.seconds is None or time.monotonic() - began < job.seconds:
        clips = step()
        if clips is None:
            break
        done.append((time.monotonic() - began, clips))
    return {"done": done, "cpu": _cpu() - before}


def _cpu() -> float:
    return sum(process.cpu for process in tree(os.getpid()).values())


if __name__ == "__main__":
    main()
