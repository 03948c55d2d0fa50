"""Sweeps: Ray Tune over a plain trial function.

A trial that needs at most one device trains in its own (reused) process and reports through `tune.report`. A larger one
is a driver of 0.01 CPU that starts a TorchTrainer, one at a time: were its driver to hold a whole CPU, trials would
wait for each other's workers for ever. A second pass takes what the first has found along.
"""

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune import RunConfig, TuneConfig, Tuner
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.tune.search.optuna import OptunaSearch

from pipeline.errors import JobError

METRIC = "score"
NESTED_CPUS = 0.01
Trial = Callable[[Mapping[str, Any], Callable[[Mapping[str, float]], None]], Mapping[str, Any]]


@dataclass(frozen=True)
class Axis:
    """One axis: `kind` is choice (values), uniform or loguniform (low, high)."""

    kind: str
    values: tuple[Any, ...]

    def sampler(self) -> Any:
        if self.kind == "choice":
            return ray.tune.choice(list(self.values))
        return getattr(ray.tune, self.kind)(*self.values)


@dataclass(frozen=True)
class Plan:
    """How many trials run in their own process and how many nest a worker group, and how they are chosen."""

    own: int
    nested: int
    searcher: str
    seed: int
    max_concurrent: int
    gpus: float = 0.0


@dataclass
class Outcome:
    """One finished trial: where it stood, what it scored, what it returned; `error` where it failed."""

    values: dict[str, Any]
    score: float | None
    result: dict[str, Any]
    nested: bool
    error: str = ""
    seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


def search(own: Trial, nested: Trial, space: Mapping[str, Axis], plan: Plan) -> list[Outcome]:
    """Run both passes; outcomes in the order in which they were started.

    A trial returns its score (higher is better) under "score". Raises JobError when every trial failed. Tune's own
    tables go to stderr: stdout is for the command's result.
    """
    with contextlib.redirect_stdout(sys.stderr):
        found = _run_pass(own, space, plan, plan.own, [], nested=False) if plan.own else []
        found += _run_pass(nested, space, plan, plan.nested, found, nested=True) if plan.nested else []
    if not any(outcome.score is not None for outcome in found):
        raise JobError("every trial of the sweep failed: " + "; ".join(sorted({o.error for o in found if o.error})))
    return found


def _run_pass(
    trial: Trial, space: Mapping[str, Axis], plan: Plan, count: int, before: list[Outcome], *, nested: bool
) -> list[Outcome]:
    cpus, limit = (NESTED_CPUS, 1) if nested else (1.0, plan.max_concurrent)
    config = TuneConfig(
        metric=METRIC,
        mode="max",
        num_samples=count,
        max_concurrent_trials=limit if plan.searcher == "optuna" else None,
        search_alg=_searcher(space, plan, before, limit),
        reuse_actors=not nested,
    )
    with tempfile.TemporaryDirectory(prefix="stagedkd-tune-") as storage:
        run = RunConfig(name="nested" if nested else "own", storage_path=str(Path(storage).resolve()), verbose=0)
        samplers = {} if plan.searcher == "optuna" else {name: axis.sampler() for name, axis in space.items()}
        trainable = ray.tune.with_resources(_Trainable(trial), {"CPU": cpus, "GPU": 0.0 if nested else plan.gpus})
        results = Tuner(trainable, param_space=samplers, tune_config=config, run_config=run).fit()
    return [_outcome(results[index], nested) for index in range(len(results))]


def _Trainable(trial: Trial) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        result = dict(trial(config, lambda metrics: ray.tune.report(dict(metrics))))
        ray.tune.report({METRIC: result["score"], "result": result})

    return run


def _searcher(
    space: Mapping[str, Axis], plan: Plan, before: list[Outcome], limit: int
) -> Searcher | BasicVariantGenerator:
    if plan.searcher == "random":  # Tune passes its own limit on to a Searcher only
        return BasicVariantGenerator(max_concurrent=limit, random_state=plan.seed + len(before))
    known = [outcome for outcome in before if outcome.score is not None]
    return OptunaSearch(
        {name: axis.sampler() for name, axis in space.items()},
        metric=METRIC,
        mode="max",
        seed=plan.seed,
        points_to_evaluate=[outcome.values for outcome in known] or None,
        evaluated_rewards=[outcome.score for outcome in known] or None,
    )


def _outcome(result: Any, nested: bool) -> Outcome:
    metrics = result.metrics or {}
    error = "" if result.error is None else str(result.error).strip().splitlines()[-1]
    return Outcome(
        values=dict(result.config or {}),
        score=metrics.get(METRIC),
        result=dict(metrics.get("result") or {}),
        nested=nested,
        error=error,
        seconds=float(metrics.get("time_total_s") or 0.0),
    )
