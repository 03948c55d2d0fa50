"""What a dry run knows of the data, without a write: a scan with a few probed headers, or stated assumptions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pipeline.artifacts.places import is_remote
from pipeline.config.recipe import Recipe
from pipeline.flow.build import manifest_root
from pipeline.manifest.entries import SPLITS, Entry
from pipeline.manifest.probe import Facts, probe_many
from pipeline.manifest.scan import scan
from pipeline.manifest.split import assign_splits
from pipeline.manifest.table import class_names

PROBED = 24


@dataclass(frozen=True)
class Typical:
    """A typical video: frames, width and height in pixels, frames per second."""

    frames: int
    width: int
    height: int
    fps: float

    def __str__(self) -> str:
        return f"{self.frames} frames of {self.width}×{self.height} at {self.fps:g} a second"


@dataclass(frozen=True)
class Data:
    """`videos` per split and `classes`: counts. `source`: where they come from. `found`: per split video_id -> source
    ("bytes:etag") where a folder was scanned, else None. `typical`: a video. `unlabelled`: training videos. `paths`:
    those whose headers were probed. `class_names`: of a scan."""

    videos: Mapping[str, int]
    classes: int
    typical: Typical
    source: str
    found: Mapping[str, Mapping[str, str]] | None = None
    unlabelled: int = 0
    notes: Sequence[str] = field(default_factory=tuple)
    paths: Sequence[str] = ()
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Published:
    """What a published data set holds, about: `videos` of split 1, classes, a typical video."""

    name: str
    videos: Mapping[str, int]
    classes: int
    typical: Typical


PUBLISHED = {
    "ucf101": Published("UCF101", {"train": 9537, "test": 3783}, 101, Typical(186, 320, 240, 25)),
    "hmdb51": Published("HMDB51", {"train": 3570, "test": 1530}, 51, Typical(95, 366, 240, 30)),
    "kinetics": Published(
        "Kinetics-400", {"train": 240_000, "val": 20_000, "test": 40_000}, 400, Typical(300, 340, 256, 30)
    ),
}
UNKNOWN = Published("your videos", {"train": 1000}, 10, Typical(300, 640, 360, 30))


def look(recipe: Recipe) -> Data:
    """The data of a recipe: scanned where the root is there, else assumed. InputError as of a real scan."""
    if not recipe.manifest.root and recipe.simulate is not None:
        root = manifest_root(recipe)
        return scanned(recipe, root) if (root / "manifest.csv").is_file() else _to_be_simulated(recipe, root)
    if not recipe.manifest.root:
        return _assumed(recipe)
    root = manifest_root(recipe)
    return scanned(recipe, root) if is_remote(root) or root.is_dir() else _assumed(recipe)


def scanned(recipe: Recipe, root: Path) -> Data:
    """The videos below `root` with their splits; a few headers are probed."""
    section = recipe.manifest
    entries = scan(root, section.layout, official_split=section.official_split)
    shares = {name: getattr(section.split, name) for name in SPLITS}
    split = section.split
    splits = assign_splits(
        entries, shares, seed=split.seed, val_from_train=split.val_from_train, val_as_test=split.val_as_test
    )
    found: dict[str, dict[str, str]] = {name: {} for name in SPLITS}
    for entry in entries:
        found[splits[entry.video_id]][entry.video_id] = f"{entry.size}:{entry.etag}"
    some = entries[:: max(1, -(-len(entries) // PROBED))]
    facts = probe_many(root, [(entry.uri, entry.size) for entry in some])
    names = class_names([entry.label_name for entry in entries if entry.label_name is not None])
    return Data(
        videos={name: len(videos) for name, videos in found.items()},
        classes=len(names),
        typical=_typical(facts),
        source=f"{root}, scanned; the headers of {len(facts)} videos were probed",
        found=found,
        unlabelled=_unlabelled(recipe, entries, splits),
        notes=_unread(facts),
        paths=tuple(f"{root}/{entry.uri}" for entry in some),
        class_names=names,
    )


def _unlabelled(recipe: Recipe, entries: Sequence[Entry], splits: Mapping[str, str]) -> int:
    train = Counter(entry.label_name is not None for entry in entries if splits[entry.video_id] == "train")
    return train[False] + round(train[True] * (1 - recipe.manifest.label_fraction))


def _typical(facts: Sequence[Facts]) -> Typical:
    def middle(name: str, usual: float) -> float:
        return float(median([getattr(fact, name) for fact in facts if getattr(fact, name)] or [usual]))

    usual = UNKNOWN.typical
    sizes = [round(middle(name, getattr(usual, name))) for name in ("frames", "width", "height")]
    return Typical(sizes[0], sizes[1], sizes[2], round(middle("fps", usual.fps), 2))


def _unread(facts: Sequence[Facts]) -> tuple[str, ...]:
    dark = sum(fact.codec is None for fact in facts)
    return (f"{dark} of {len(facts)} probed files have no readable video header: likely quarantine",) if dark else ()


def _to_be_simulated(recipe: Recipe, root: Path) -> Data:
    from pipeline.manifest.simulate import SimulateOptions

    section, look = recipe.simulate, SimulateOptions()
    assert section is not None
    side = sum(look.sides) // 2
    return Data(
        videos={"train": section.train, "val": section.val, "test": section.test},
        classes=section.shapes * section.directions,
        typical=Typical(sum(look.lengths) // 2, side, side, 15),
        source=f"assumed from recipe.simulate: {root} is not written yet",
    )


def _assumed(recipe: Recipe) -> Data:
    section = recipe.manifest
    known = PUBLISHED.get(section.layout, UNKNOWN)
    missing = f"manifest.root {section.root} is not there" if section.root else "manifest.root is not set"
    what = f"the published size of {known.name}" if known is not UNKNOWN else "1,000 videos of 10 classes"
    return Data(_shared(recipe, known), known.classes, known.typical, f"assumed, {what}: {missing}")


def _shared(recipe: Recipe, known: Published) -> dict[str, int]:
    """Videos per split: as published, with validation taken from training; unknown sets by manifest.split."""
    split = recipe.manifest.split
    if known is UNKNOWN:
        return {name: round(known.videos["train"] * getattr(split, name)) for name in SPLITS}
    counts = {name: known.videos.get(name, 0) for name in SPLITS}
    if split.val_as_test:
        counts |= {"test": counts["val"], "val": 0}
    moved = round(counts["train"] * split.val_from_train)
    return {"train": counts["train"] - moved, "val": counts["val"] + moved, "test": counts["test"]}
