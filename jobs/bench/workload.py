"""What is run: films, the teacher saved once, and recipes, all below one work folder that may be deleted afterwards.

work/films/<kind>/              files that many rows of a manifest name
work/teachers/<name>/           a saved teacher, by seed
work/<run>/{videos,workspace}/  root with manifest.csv, and the workspace of one recipe; <run>.yaml beside them
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jobs.bench.accelerator import MODEL
from jobs.bench.videos import Films, class_names, video_name, write_films, write_listing
from pipeline.on_ray.capacity import READ_CPUS
from pipeline.video.views import ViewPolicy, view_keys

CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Workload:
    """Films and how they are looked at; `views` of each video, `slots` of a micro-batch, `batches` of a shard."""

    work: Path
    films: Films
    size: tuple[int, int] = (112, 112)
    num_frames: int = 16
    frame_stride: int = 2
    views: int = 1
    slots: int = 16
    batches: int = 8

    @property
    def folder(self) -> Path:
        """The films, written where they are not there yet."""
        return write_films(self.work / "films", self.films)

    @property
    def policy(self) -> ViewPolicy:
        return ViewPolicy("train", self.size, self.num_frames, self.frame_stride, views_per_clip=self.views)

    @property
    def shard_views(self) -> int:
        return self.slots * self.batches

    def with_slots(self, slots: int) -> "Workload":
        return replace(self, slots=slots)

    def write(self, name: str, clips: int, teacher: Mapping[str, Any], precompute: Mapping[str, Any]) -> Path:
        """Listing and recipe of one run over `clips` views; returns the recipe's path."""
        root = self.work / name
        write_listing(root / "videos", self.folder, -(-clips // self.views))
        recipe = {
            "workspace": str(root / "workspace"),
            "run": {"name": name},
            "manifest": {"root": str(root / "videos"), "name": "bench", "layout": "csv"},
            "plan": {"shard_views": self.shard_views, "micro_batch": self.slots},
            "views": {
                "size": list(self.size),
                "num_frames": self.num_frames,
                "frame_stride": self.frame_stride,
                "train": {"views_per_clip": self.views},
                "eval": {"splits": []},
            },
            "teacher": dict(teacher),
            "precompute": dict(precompute),
            "labels": {"channel": "none"},
            "tracking": {"enabled": False},
        }
        path = self.work / f"{name}.yaml"
        path.write_text(json.dumps(recipe, indent=1))  # which is YAML, too
        return path

    def micro_batches(self, worker: int, workers: int) -> Iterator[dict[str, Any]]:
        """Rows for the decode stage without end: every worker its own videos, as the plan would have them."""
        paths = sorted(self.folder.glob("*.mp4"))
        videos = self.slots // self.views
        number = worker
        while True:
            ids = range(number * videos, (number + 1) * videos)
            yield decode_row(number, [(video_name(n), str(paths[n % len(paths)])) for n in ids], self.policy)
            number += workers


def decode_row(number: int, videos: list[tuple[str, str]], policy: ViewPolicy) -> dict[str, Any]:
    """A row of `video.micro_batch` with all views of some (video_id, path)."""
    keys = [(video, path, clip, view) for video, path in videos for clip, view in view_keys(video, policy)]
    names = ("video_ids", "uris", "clip_ids", "view_ids")
    columns = {name: [key[place] for key in keys] for place, name in enumerate(names)}
    return {"plan": "train", "shard_id": "", "micro_batch": number, "part": "", "teachers": "[0]", **columns}


def pools(decoders: int, teachers: int, *, separate: bool, together: bool = False) -> dict[str, Any]:
    """The precompute section's pools: all actors share all cores but what reading asks for; a teacher on a device of
    its own asks for nearly none of them. `together`: they decode and label in turn."""
    free = CORES - READ_CPUS
    teacher = 0.05 if separate else free / (decoders + teachers)
    decode = (free - teachers * teacher) / decoders
    pool: dict[str, Any] = {
        "decoders": decoders,
        "min_decoders": decoders,
        "teachers": teachers,
        "min_teachers": teachers,
    }
    pool |= {"decode_cpus": _down(decode), "teacher_cpus": _down(teacher)}
    return pool | {"together": together}


def torch_teacher(work: Path, model: str, size: int, options: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """A network with random weights by seed 0, saved once, and the recipe's section that takes it as it is."""
    spec: dict[str, Any] = {"options": dict(options), "transform": {"size": [size, size]}}
    folder = work / "teachers" / f"{model}-{size}"
    classes = work / "teachers" / "classes.txt"
    if not (folder / "model.json").is_file():
        from pipeline.models.registry import build_network
        from pipeline.models.spec import NetworkSpec
        from pipeline.models.weights import save_network

        network = build_network(NetworkSpec(model, tuple(class_names()), **spec), seed=0)
        save_network(folder, network, {"saw_labels": False})
    classes.write_text("".join(f"{name}\n" for name in class_names()))
    given = {"weights": str(folder), "classes": str(classes), "fit": False, "saw_labels": False}
    return folder, {"model": model, **spec, **given}


def plain_teacher(work: Path, seconds: float = 0.0) -> tuple[Path, dict[str, Any]]:
    """A labeler that waits `seconds` a micro-batch, one at a time, and the section that names it."""
    from pipeline.models.plain import save_plain

    folder = work / "teachers" / f"plain-{seconds:g}"
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"seconds": seconds, "lock": str(work / "teachers" / "lock")} if seconds else {}
    save_plain(folder, MODEL, options, {"saw_labels": False})
    return folder, {"model": MODEL, "labeler": True, "options": options, "fit": False, "saw_labels": False}


def _down(share: float) -> float:
    """Ray counts ten-thousandths of a CPU."""
    return int(share * 1000) / 1000
