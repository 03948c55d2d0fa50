"""Sections that say which videos there are and how they are looked at: simulate, manifest, classes, plan, views."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.base import Section, runtime

Split = Literal["train", "val", "test"]


class Simulate(Section):
    """The generator of H.264 videos whose class is shape × motion; written into `manifest.root`."""

    train: int = Field(1800, ge=0)
    val: int = Field(400, ge=0)
    test: int = Field(800, ge=0)
    shapes: int = Field(4, ge=2, le=4)
    directions: int = Field(5, ge=2, le=8)
    difficulty: float = Field(1.0, ge=0, le=3)
    seed: int = 0
    workers: int = runtime(2, ge=1)


class SplitShares(Section):
    """Shares of groups per split where the data set gives none; the split of a group is a draw from (seed, group).

    `val_from_train`: share of the given training groups that validate. `val_as_test`: the given validation split is
    what figures are quoted on (Kinetics): it becomes the test split, and validation comes from training.
    """

    seed: int = 0
    train: float = Field(0.7, ge=0, le=1)
    val: float = Field(0.15, ge=0, le=1)
    test: float = Field(0.15, ge=0, le=1)
    val_from_train: float = Field(0.0, ge=0, lt=1)
    val_as_test: bool = False

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitShares":
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test must be 1, got {total:g}")
        return self


class Noise(Section):
    """Label noise injected on purpose, to measure what refinement does; the clean labels are kept aside."""

    kind: Literal["none", "symmetric", "asymmetric"] = "none"
    rate: float = Field(0.0, ge=0, lt=1)
    seed: int = 0
    splits: tuple[Split, ...] = ("train",)


class Manifest(Section):
    """The folder of videos. `name` keys the artefact; another root under the same name is refused."""

    root: str = runtime("")
    name: str | None = None
    layout: Literal["auto", "folders", "csv", "ucf101", "hmdb51", "kinetics"] = "auto"
    official_split: int = Field(1, ge=1, le=3)
    split: SplitShares = SplitShares()
    noise: Noise = Noise()
    label_fraction: float = Field(1.0, gt=0, le=1)


class Classes(Section):
    """How a teacher's class names are matched to the manifest's."""

    map: dict[str, str] = {}
    trust_order: bool = False


class Plan(Section):
    """Sizes of shards and micro-batches, in view slots. Both enter the plan's key."""

    shard_views: int = Field(2048, ge=1)
    micro_batch: int = Field(16, ge=1)


class TrainViews(Section):
    """Views of training videos, drawn at random.

    `temporal`: a `window` at a random place, or `segments`, one random frame in each of num_frames equal parts of the
    video (TSN). `spatial`: `random_resized_crop` (area within `scale`, stretch within `ratio`), or `multi_scale_crop`
    (sides out of `scales` of the largest crop, at one of 5 or 13 fixed `places`).
    """

    views_per_clip: int = Field(4, ge=1)
    temporal: Literal["window", "segments"] = "window"
    spatial: Literal["random_resized_crop", "multi_scale_crop"] = "random_resized_crop"
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    places: Literal[5, 13] = 5


class EvalViews(Section):
    """Views of evaluated videos; what a network says of a video is the mean over them.

    `temporal`: `clips_per_video` evenly spaced windows (`uniform`); a window every `window_stride` frames (null: back
    to back), at most `max_windows` (`dense`); or one frame in each of num_frames equal parts (`segments`). `spatial`:
    `center_crop`; `three_crop` along the longer side (3 views of each clip; 10 × 3 testing with clips_per_video 10); or
    `ten_crop`, corners and middle and their mirror images. `crop`: side of the crop, 1 of the largest, for ten_crop
    0.875. `splits` may leave out what is never evaluated.
    """

    clips_per_video: int = Field(3, ge=1)
    temporal: Literal["uniform", "dense", "segments"] = "uniform"
    spatial: Literal["center_crop", "three_crop", "ten_crop"] = "center_crop"
    crop: float | None = Field(None, gt=0, le=1)
    window_stride: int | None = Field(None, ge=1)
    max_windows: int = Field(64, ge=1)
    splits: tuple[Split, ...] = ("train", "val", "test")


class Views(Section):
    """The canonical raster: `num_frames` frames, `frame_stride` frame times apart, resized once to `size` (H, W)."""

    size: tuple[int, int] = (112, 112)
    num_frames: int = Field(16, ge=1)
    frame_stride: int = Field(2, ge=1)
    overflow: Literal["repeat_last", "wrap", "error"] = "repeat_last"
    flip: bool = Field(False, description="true says that mirrored videos keep their class")
    allow_upscale: bool = False
    seed: int = 0
    train: TrainViews = TrainViews()
    eval: EvalViews = EvalViews()

    @field_validator("size")
    @classmethod
    def _positive(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 8:
            raise ValueError(f"a raster needs at least 8×8 pixels, got {size[0]}×{size[1]}")
        return size
