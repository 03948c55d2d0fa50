"""How the views of a video are taken: the policies by the names that the field gives them.

train  temporal  window               a window at a random place
                 segments             one random frame in each of T equal parts of the video (TSN)
       spatial   random_resized_crop  a random share of the frame's area, in a random stretch, anywhere
                 multi_scale_crop     sides out of `scales`, at one of 5 or 13 fixed places (TSN)
eval   temporal  uniform              `clips_per_video` evenly spaced windows
                 dense                a window every `window_stride` frames, `max_windows` at most
                 segments             T equal parts of the video, one frame in each, `clips_per_video` times
       spatial   center_crop          the middle, 1 view per clip
                 three_crop           both ends and the middle of the longer side, 3 views (with 10 windows: 10 × 3)
                 ten_crop             the corners and the middle, and each mirrored, 10 views
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import ConfigError
from pipeline.video.sampling import OVERFLOW

# The first of each is the usual one.
SPATIAL = {
    "train": ("random_resized_crop", "multi_scale_crop"),
    "eval": ("center_crop", "three_crop", "ten_crop"),
}
TEMPORAL = {"train": ("window", "segments"), "eval": ("uniform", "dense", "segments")}
CROPS = {"center_crop": 1, "three_crop": 3, "ten_crop": 10}

# Where a fixed crop stands, as shares of the room it has: corners and middle, then the middles of the edges and the
# quarters, as in TSN.
PLACES = (
    *((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5)),
    *((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0)),
    *((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)),
)
_TUPLES = ("size", "scale", "ratio", "scales")
_COUNTS = ("num_frames", "frame_stride", "views_per_clip", "clips_per_video", "max_windows")


@dataclass(frozen=True)
class ViewPolicy:
    """One policy of each sort, and their numbers; None stands for the usual one of `kind`, `train` or `eval`.

    `size` is (height, width) of the raster in pixels. `scale` and `ratio` bound the area (share of the frame) and the
    stretch of random crops. `scales` are sides of multi-scale crops, `crop` the side of centre crops and of ten crops,
    both as shares of the largest box of the raster's shape. `window_stride` counts frame periods between dense windows;
    None: back to back. ConfigError where the values cannot be.
    """

    kind: str
    size: tuple[int, int]
    num_frames: int
    frame_stride: int = 1
    views_per_clip: int = 1
    clips_per_video: int = 1
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)
    flip: bool = False
    overflow: str = "repeat_last"
    seed: int = 0
    spatial: str | None = None
    temporal: str | None = None
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    places: int = 5
    crop: float = 1.0
    window_stride: int | None = None
    max_windows: int = 64

    def __post_init__(self) -> None:
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for is_wrong, message in _problems(self):
            if is_wrong:
                raise ConfigError(f"views: {message}")
        # One policy, one key: the usual one by its name is the same as none.
        for name, known in (("spatial", SPATIAL), ("temporal", TEMPORAL)):
            if getattr(self, name) == known[self.kind][0]:
                object.__setattr__(self, name, None)

    @property
    def crops(self) -> str:
        """The spatial policy by name."""
        return self.spatial or SPATIAL[self.kind][0]

    @property
    def windows(self) -> str:
        """The temporal policy by name."""
        return self.temporal or TEMPORAL[self.kind][0]

    def to_json(self) -> dict[str, Any]:
        """All fields, tuples as lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ViewPolicy":
        """The inverse of to_json."""
        return cls(**fields)


def _problems(policy: ViewPolicy) -> Iterator[tuple[bool, str]]:
    """(is it so, what to say), in an order in which each may rely on those before."""
    yield policy.kind not in SPATIAL, f"kind is {policy.kind!r}; allowed are 'train' and 'eval'"
    for name, known in (("spatial", SPATIAL), ("temporal", TEMPORAL)):
        value, allowed = getattr(policy, name), known[policy.kind]
        yield value not in (None, *allowed), f"{policy.kind}.{name} is {value!r}; allowed are {', '.join(allowed)}"
    yield policy.overflow not in OVERFLOW, f"overflow is {policy.overflow!r}; allowed are {', '.join(OVERFLOW)}"
    counts = {name: getattr(policy, name) for name in _COUNTS}
    yield min(counts.values()) < 1, f"all of {counts} must be 1 or more"
    stride = policy.window_stride
    yield stride is not None and stride < 1, f"eval.window_stride is {stride}; give 1 frame or more"
    bad_size = len(policy.size) != 2 or min(policy.size) < 1
    yield bad_size, f"size is {policy.size}; give [height, width] in pixels"
    yield from _crop_problems(policy)


def _crop_problems(policy: ViewPolicy) -> Iterator[tuple[bool, str]]:
    low, high = policy.scale[0], policy.scale[-1]
    yield not 0 < low <= high <= 1, f"scale is {policy.scale}; give 0 < smallest <= largest <= 1"
    yield not 0 < policy.ratio[0] <= policy.ratio[-1], f"ratio is {policy.ratio}; give 0 < narrowest <= widest"
    bad_scales = not policy.scales or not all(0 < scale <= 1 for scale in policy.scales)
    yield bad_scales, f"train.scales are {policy.scales}; give shares of the largest crop, each above 0 and up to 1"
    yield policy.places not in (5, 13), f"train.places is {policy.places}; allowed are 5 and 13"
    yield not 0 < policy.crop <= 1, f"eval.crop is {policy.crop}; give a share of the largest crop, up to 1"
    if policy.kind == "eval":
        name, wanted = policy.crops, CROPS[policy.crops]
        many = f"{name} has {wanted} views per clip" if wanted > 1 else "eval has one view per clip"
        yield policy.views_per_clip != wanted, f"{many}; set views_per_clip to {wanted}"
        mirrored = (
            "ten_crop mirrors each crop: set views.flip: true if mirrored videos keep their class, else three_crop"
        )
        yield name == "ten_crop" and not policy.flip, mirrored
        yield name == "ten_crop" and policy.crop == 1, "ten_crop needs room for its corners: set eval.crop below 1"
        yield name == "three_crop" and policy.crop < 1, "three_crop takes the largest crops: leave out eval.crop"
