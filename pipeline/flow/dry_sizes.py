"""Sizes and times that a dry run works out: views, shards, bytes, seconds of decoding."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from pipeline.config.networks import GivenTeacher, Network, Teacher
from pipeline.config.recipe import Recipe
from pipeline.flow.build import planned_splits, read_classes, view_policy
from pipeline.flow.dry_data import Data, Typical
from pipeline.targets.topk import MOST_SMALL
from pipeline.video.views import view_keys

# Decoding on one slow core: opening a file, then a tenth of a gigapixel a second (H.264, to the end of the file).
OPEN_SECONDS, PIXEL_SECONDS = 0.005, 1e-8
# What a cache holds of a raster's bytes; JPEGs of photographs at quality 95.
CACHED = {"raw": 1.0, "jpeg": 1 / 6, "none": 0.0}
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
# Channels of the substages of networks with their usual options; a test builds each.
CHANNELS: dict[str, tuple[int, ...]] = {
    "compact": (4, 8, 16, 16),
    "efficientnet_lite0": (24, 40, 112, 320),
    "mc3_18": (64, 128, 256, 512),
    "mvit_v1_b": (192, 384, 768, 768),
    "mvit_v2_s": (96, 192, 384, 768),
    "r2plus1d_18": (64, 128, 256, 512),
    "r3d_18": (64, 128, 256, 512),
    "s3d": (192, 480, 832, 1024),
    "swin3d_b": (128, 256, 512, 1024),
    "swin3d_s": (96, 192, 384, 768),
    "swin3d_t": (96, 192, 384, 768),
}


@dataclass(frozen=True)
class Answers:
    """What a teacher gives for a clip: how many logits, and channels of each substage. `seconds`: what it takes for it
    on one actor, where that is known."""

    logits: int
    channels: tuple[int, ...]
    seconds: float | None = None


@dataclass(frozen=True)
class PlanSize:
    """One plan over all its videos. `view_bytes`: of the raster of a view, `cached_bytes`: of what is cached of it,
    `targets_bytes`: of a view's targets by all teachers. `measured`: whether seconds and cached bytes are those of
    decoded videos."""

    name: str
    videos: int
    per_video: int
    shard_views: int
    micro_batch: int
    view_bytes: int
    cached_bytes: float
    targets_bytes: int | None
    video_seconds: float
    measured: bool = False

    @property
    def views(self) -> int:
        return self.videos * self.per_video

    @property
    def videos_per_shard(self) -> int:
        """A shard is rounded up to whole videos."""
        return ceil(self.shard_views / self.per_video)

    def shards_of(self, videos: int) -> int:
        """How many new shards so many new videos make."""
        return ceil(videos / self.videos_per_shard)

    @property
    def micro_batch_seconds(self) -> float:
        """Seconds of decoding of one full micro-batch on one core."""
        return min(self.micro_batch, max(self.views, 1)) / self.per_video * self.video_seconds

    @property
    def shard_seconds(self) -> float:
        return min(self.videos_per_shard, self.videos) * self.video_seconds


@dataclass(frozen=True)
class ToDo:
    """Of one plan. `videos`: to decode, `decoded`: their views; `labels`: views that each teacher has to answer, in
    their order; `views`: those of all shards that lack something."""

    videos: int
    decoded: int
    views: int
    labels: tuple[int, ...] = ()


def plan_size(recipe: Recipe, data: Data, plan: str) -> PlanSize:
    """The plan `plan` (train or eval) over the recipe's data."""
    views = recipe.views
    raster = views.num_frames * views.size[0] * views.size[1] * 3
    return PlanSize(
        name=plan,
        videos=sum(data.videos.get(split, 0) for split in planned_splits(recipe, plan)),
        per_video=len(view_keys("v", view_policy(recipe, plan), data.typical.frames)),
        shard_views=recipe.plan.shard_views,
        micro_batch=recipe.plan.micro_batch,
        view_bytes=raster,
        cached_bytes=raster * CACHED[recipe.precompute.frames],
        targets_bytes=targets_bytes(recipe, known_answers(recipe, data.classes), plan),
        video_seconds=decode_seconds(data.typical),
    )


def decode_seconds(video: Typical) -> float:
    """An estimate for one pass over a typical video on one core."""
    return OPEN_SECONDS + video.frames * video.width * video.height * PIXEL_SECONDS


def known_answers(recipe: Recipe, classes: int) -> tuple[Answers, ...] | None:
    """Of the recipe's own teacher (of so many classes, where nothing else is said) and of the further ones, as far as
    that is known without building them: None where it is not known of each."""
    sections = [recipe.teacher, *recipe.precompute.more_teachers]
    found = []
    for section in sections:
        channels = None if section.labeler else substage_channels(section)
        if channels is None:
            return None
        found.append(Answers(teacher_classes(section) or classes, channels))
    return tuple(found)


def targets_bytes(recipe: Recipe, teachers: Sequence[Answers] | None, plan: str = "train") -> int | None:
    """Of one view's targets by all `teachers`; None if not known."""
    return None if teachers is None else sum(coded_bytes(recipe, teacher, plan) for teacher in teachers)


def coded_bytes(recipe: Recipe, teacher: Answers, plan: str) -> int:
    """C + ΣC_l values of the targets' number type for one teacher's logits and pooled features of a view, before
    compression; of the training plan's logits only what `top_k` keeps."""
    codec = recipe.precompute.codec
    each = 2 if codec.dtype == "float16" else 4
    if codec.top_k is None or plan == "eval":
        return each * (teacher.logits + sum(teacher.channels))
    index = 2 if teacher.logits <= MOST_SMALL else 4
    # Beside indices and logits: mean, s.d. and number of all logits, and two log-sum-exps per temperature.
    return each * (codec.top_k + sum(teacher.channels)) + index * codec.top_k + 4 * (3 + 2 * len(codec.temperatures))


def teacher_classes(section: GivenTeacher) -> int | None:
    """How many classes a given teacher has where the recipe tells: those of its own file, or of torchvision's weights
    for videos, which are all of Kinetics-400."""
    if isinstance(section, Teacher) and section.fit:
        return None
    if section.classes:
        return len(read_classes(section.classes))
    named = section.weights is not None and not re.search(r"/|\.(safetensors|pt|pth)$", section.weights)
    return 400 if named and section.model in CHANNELS.keys() - {"compact", "efficientnet_lite0"} else None


def substage_channels(network: Network) -> tuple[int, ...] | None:
    """C_1..C_L where they are known without building the network."""
    options: Mapping[str, Any] = network.options
    if options.get("taps"):
        return None
    if network.model == "compact" and "widths" in options:
        return tuple(int(width) for width in options["widths"])
    return CHANNELS.get(options.get("backbone", "efficientnet_lite0") if network.model == "frame" else network.model)


def size(count: float) -> str:
    """Bytes for people: 1.5 MB (powers of 1,000)."""
    unit = 0
    while count >= 1000 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
