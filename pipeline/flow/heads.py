"""Fitting a head on stored features without a worker group: the probe, or `auto`, which lets cross-validation choose.

`auto` compares, on training videos alone and over the same whole groups, the probe (with its own inner choice) and the
`ordered` head, trained by the recipe's steps. `shift` needs a backbone that learns, so it is listed as not tried.
"""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.distill.data import DataSpec, Rows, load, load_rows
from pipeline.distill.loop import train
from pipeline.distill.spec import Job
from pipeline.distill.training import process_settings
from pipeline.models.network import VideoNetwork
from pipeline.models.probe import fit_probe, group_error, head_of, left_out
from pipeline.models.registry import build_network

NOT_TRIED = {"head": "shift", "note": "not tried: the backbone is frozen"}


def fit_head(job: Job, data: DataSpec, groups: dict[str, str]) -> tuple[VideoNetwork, dict[str, Any]]:
    """The fitted network in evaluation mode, and `head_choice`: the head, why, and the table of what was compared.

    `groups`: of the videos, those left out are their own.
    """
    rows = load_rows(data)
    names = [groups.get(video, video) for video in rows.videos]
    began = time.monotonic()
    with process_settings(job):
        network = build_network(_with_head(job, "probe"), job.seed)
        choice = fit_probe(head_of(network), rows.values, rows.video, rows.q, rows.weight, names)
    said: dict[str, Any] = {"head": "probe", "reason": choice.reason, "probe": dataclasses.asdict(choice)}
    if job.network.options.get("head") != "auto" or not choice.trials:
        return network.eval(), said
    best = max(choice.trials, key=lambda trial: (round(trial.accuracy, 9), -trial.nll))
    tried = {"head": "probe", "accuracy": best.accuracy, "error": best.error, "seconds": time.monotonic() - began}
    other = _ordered(job, data, rows, names)
    said["table"] = [tried, other, NOT_TRIED]
    if other["accuracy"] > tried["accuracy"]:
        said["head"] = "ordered"
        return train(replace(job, network=_with_head(job, "ordered")), load(data)).network, said
    return network.eval(), said


def in_words(said: dict[str, Any]) -> str:
    """The choice in one line, with the table where there is one."""
    inner = said["probe"]
    how = f"probe on {inner['blocks']} features, strength {inner['strength']:g}"
    if "table" not in said:
        return f"{how} ({said['reason']})"
    tried = [row for row in said["table"] if "accuracy" in row]
    table = ", ".join(f"{row['head']} {100 * row['accuracy']:.1f} ± {100 * row['error']:.1f} %" for row in tried)
    return f"head {said['head']} by {said['reason']}: {table}; shift {NOT_TRIED['note']}; {how}"


def _with_head(job: Job, head: str) -> Any:
    options = {name: value for name, value in job.network.options.items() if name != "head"}
    if head == "probe":
        options = {name: value for name, value in options.items() if name not in ("dropout", "layer_norm")}
    return replace(job.network, options={**options, "head": head})


def _ordered(job: Job, data: DataSpec, rows: Rows, groups: Sequence[str]) -> dict[str, Any]:
    """Left-out accuracy of the `ordered` head, by the folds of the probe."""
    began, right, owner = time.monotonic(), [], []
    for held in left_out(rows.q, rows.weight, groups):
        outside = set(range(len(rows.videos))) - set(held.tolist())
        kept = tuple(rows.videos[place] for place in sorted(outside))
        batch = min(job.batch_size, sum(float(rows.weight[place]) > 0 for place in outside))
        task = replace(job, network=_with_head(job, "ordered"), batch_size=batch)
        network = train(task, load(replace(data, keep=kept))).network
        for place in held:
            with torch.inference_mode():
                logits = network(torch.from_numpy(rows.values[rows.video == place].astype(np.float32))).logits
            assert logits is not None
            right.append(float(logits.softmax(1).mean(0).argmax() == rows.q[place].argmax()))
            owner.append(groups[place])
    error = group_error(np.array(right), np.unique(owner, return_inverse=True)[1])
    return {"head": "ordered", "accuracy": float(np.mean(right)), "error": error, "seconds": time.monotonic() - began}
