"""Videos to measure with: some distinct H.264 files, and a manifest.csv that names each as often as clips are wanted.

A row of the manifest has its own video_id, so that every row is planned, decoded and labelled by itself; only the bytes
repeat. Files of one kind lie in a folder of their own and are written once.
"""

import csv
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from pipeline.errors import InputError
from pipeline.manifest.encode import encode_mp4
from pipeline.manifest.scan import MANIFEST_CSV

CLASSES = 400
FILMS = "films"
FPS, GOP, CRF = 25, 250, 23  # a key frame each ten seconds, as x264 sets them by itself
_PATCH = 48


@dataclass(frozen=True)
class Films:
    """`count` files of `seconds` s, `width` × `height` pixels."""

    count: int
    seconds: float
    width: int
    height: int

    @property
    def name(self) -> str:
        return f"{self.count}x{self.width}x{self.height}x{self.seconds:g}s"


def class_names() -> list[str]:
    return [f"class {number}" for number in range(CLASSES)]


def write_films(root: Path, films: Films) -> Path:
    """The folder root/<name>/ with `count` files; those that lie there already are kept."""
    folder = root / films.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:05d}.mp4" for number in range(films.count)]
    missing = [(path, number, films) for number, path in enumerate(paths) if not path.is_file()]
    if missing:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
            list(pool.map(_write, *zip(*missing, strict=True)))
    return folder


def write_listing(root: Path, films: Path, videos: int) -> None:
    """root/manifest.csv with `videos` rows that name the files of the folder `films` in turn, all for training.

    root/films is made a link to that folder. InputError where it holds no file.
    """
    names = sorted(path.name for path in films.glob("*.mp4"))
    if not names:
        raise InputError(f"{films} holds no film")
    root.mkdir(parents=True, exist_ok=True)
    if not (root / FILMS).is_symlink():
        (root / FILMS).symlink_to(films.absolute())
    rows = ((names[n % len(names)], f"class {n % len(names) % CLASSES}", video_name(n)) for n in range(videos))
    partial = root / f".{MANIFEST_CSV}.{os.getpid()}"
    with partial.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("path", "label", "group", "split", "video_id"))
        writer.writerows((f"{FILMS}/{name}", label, video, "train", video) for name, label, video in rows)
    partial.replace(root / MANIFEST_CSV)


def video_name(number: int) -> str:
    return f"video-{number:08d}"


def film(number: int, films: Films) -> np.ndarray:
    """Frames uint8 (T, H, W, 3): a camera that pans over a rough ground, things that move on it, and grain."""
    rng = np.random.default_rng(number)
    count, height, width = round(films.seconds * FPS), films.height, films.width
    ground = _ground(rng, 2 * height, 2 * width)
    pan = rng.uniform(0.3, 1.0, 2) * (height, width) / count
    things = [(rng.uniform(0, (height, width)), rng.normal(0, 2.0, 2), rng.uniform(0, 255, 3)) for _ in range(4)]
    frames = np.empty((count, height, width, 3), np.uint8)
    side = min(_PATCH, height // 2, width // 2)
    for index in range(count):
        top, left = (pan * index).astype(int)
        frame = ground[top : top + height, left : left + width].copy()
        for start, speed, colour in things:
            y, x = ((start + speed * index) % (height - side, width - side)).astype(int)
            frame[y : y + side, x : x + side] = 0.5 * frame[y : y + side, x : x + side] + 0.5 * colour
        frame += rng.normal(0, 4.0, (height, width, 1)).astype(np.float32)
        frames[index] = np.clip(frame, 0, 255)
    return frames


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of several scales, float32 (height, width, 3) in 0..255."""
    total = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64):
        coarse = rng.uniform(0, 255, (height // scale + 2, width // scale + 2, 3)).astype(np.float32)
        total += coarse.repeat(scale, 0).repeat(scale, 1)[:height, :width] / 3
    return total


def _write(path: Path, number: int, films: Films) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(encode_mp4(film(number, films), fps=FPS, crf=CRF, gop=GOP))
    partial.replace(path)
