"""Bytes per view of stored targets, dense and top-k, with and without features and replay columns.

    python -m jobs.bench.bytes_per_view [--views 1024] [--videos FOLDER]

Logits: of EfficientNet-Lite0's ImageNet head (1,000 classes, `stagedkd[pretrained]`) on random crops of frames; of 400
classes, the first 400 of the same rows. Without the extra: normal logits, s.d. 2.5, and it is said.
Features: normal, rectified, as of R(2+1)D-18 (64, 128, 256, 512 channels).
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq

from pipeline.artifacts.commit import write_table
from pipeline.artifacts.schemas import REPLAY
from pipeline.targets.codec import Codec, pack, table

CLASSES, KEPT, TEMPERATURES = (400, 1000), (5, 10, 100), (2.0,)
FEATURES, FRAMES, VIEWS_PER_VIDEO = (64, 128, 256, 512), 16, 4
PEERS = "TinyViT 404 B at k = 100, FKD 29–57 B at k = 5 (as published; logits alone, keyed by file or position)"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--views", type=int, default=1024)
    parser.add_argument("--videos", type=Path, help="a folder of videos in place of simulated ones")
    given = parser.parse_args()
    count = given.views
    logits, source = real_logits(count, given.videos)
    print(f"{count} views in one shard, logits: {source}\n\nPeers: {PEERS}\n")
    print("| C | kept | plain fp16 | logits | as stored, with replay columns | with features | byte_stream_split |")
    print("|---|---|---|---|---|---|---|")
    for line in lines(logits):
        print(line)
    print(f"\nReplay columns by name, bytes per view: {replay_shares(logits)}")


def lines(logits: np.ndarray) -> Iterator[str]:
    """One row per number of classes and of kept logits."""
    for classes in CLASSES:
        for kept in (None, *KEPT):
            codec = Codec(top_k=kept, temperatures=TEMPERATURES if kept else ())
            split = Codec(byte_stream_split=True, top_k=kept, temperatures=codec.temperatures)
            some, features = logits[:, :classes], with_features(logits[:, :classes])
            plain = 2 * classes if kept is None else _plain(kept, classes)
            found = sizes(some, codec)
            full, packed = sizes(features, codec), sizes(features, split)
            name = "all" if kept is None else f"top {kept}"
            cells = [plain, found["values"], found["file"], full["file"], packed["file"]]
            yield f"| {classes} | {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |"


def _plain(kept: int, classes: int) -> int:
    """Index, logit, mean, s.d. and two log-sum-exps per temperature, nothing compressed."""
    return kept * (2 if classes <= 1 << 15 else 4) + 2 * kept + 8 + 8 * len(TEMPERATURES)


def sizes(outputs: np.ndarray | Mapping[str, np.ndarray], codec: Codec) -> dict[str, float]:
    """Bytes per view: `file` (as committed), `values` (compressed columns that are no replay column)."""
    given = {"logits": outputs} if isinstance(outputs, np.ndarray) else outputs
    rows = len(given["logits"])
    with tempfile.TemporaryDirectory() as folder:
        coded = table(pack(given, codec), replay(rows), codec)
        written = write_table(Path(folder), "shard.parquet", coded, byte_stream_split=codec.byte_stream_split)
        columns = column_bytes(Path(folder) / written.name)
    values = sum(size for name, size in columns.items() if name not in REPLAY)
    return {"file": written.size / rows, "values": values / rows} | {n: size / rows for n, size in columns.items()}


def column_bytes(path: Path) -> dict[str, int]:
    """Compressed bytes by top-level column."""
    found: dict[str, int] = {}
    meta = pq.read_metadata(path)
    for group in range(meta.num_row_groups):
        for number in range(meta.num_columns):
            part = meta.row_group(group).column(number)
            name = part.path_in_schema.split(".")[0]
            found[name] = found.get(name, 0) + part.total_compressed_size
    return found


def replay_shares(logits: np.ndarray) -> str:
    """What each replay column takes of a view."""
    found = sizes(logits[:, :400], Codec())
    return ", ".join(f"{name} {found[name]:.1f}" for name in REPLAY)


def replay(rows: int) -> dict[str, Any]:
    """Replay columns as of V random views of Kinetics-like videos: 16 frames at a stride of 4 of 30 per second."""
    rng = np.random.default_rng(0)
    videos = [f"class {n % 400:03d}/video_{n:08x}" for n in range(-(-rows // VIEWS_PER_VIDEO))]
    start = rng.integers(0, 236, rows)
    indices = start[:, None] + 4 * np.arange(FRAMES)
    corner = rng.uniform(0, 0.2, (rows, 2))
    names = [videos[row // VIEWS_PER_VIDEO] for row in range(rows)]
    return {
        "clip_id": [f"{name}#random1of1" for name in names],
        "view_id": [row % VIEWS_PER_VIDEO for row in range(rows)],
        "video_id": names,
        "times": (indices * 1001 / 30000).tolist(),
        "indices": indices.tolist(),
        "crop": np.hstack([corner, corner + rng.uniform(0.7, 0.8, (rows, 2))]).astype(np.float32),
        "flip": [False] * rows,
        "reader": ["decord"] * rows,
    }


def with_features(logits: np.ndarray) -> dict[str, np.ndarray]:
    """The logits with rectified normal features of four substages."""
    rng = np.random.default_rng(1)
    features = {
        f"substage_{n}": np.abs(rng.standard_normal((len(logits), dim))).astype(np.float32)
        for n, dim in enumerate(FEATURES, start=1)
    }
    return {"logits": logits, **features}


def real_logits(rows: int, videos: Path | None) -> tuple[np.ndarray, str]:
    """(rows, 1000) float32 of a trained classifier on random crops of frames, and where they come from."""
    try:
        import timm  # noqa: F401
    except ImportError:
        values = 2.5 * np.random.default_rng(2).standard_normal((rows, max(CLASSES)))
        return values.astype(
            np.float32
        ), "synthetic (normal, s.d. 2.5); pip install 'stagedkd[pretrained]' for real ones"
    if videos is not None:
        return _of_lite0(_crops(videos, rows)), f"EfficientNet-Lite0 (ImageNet) on crops of frames of {videos.name}"
    from pipeline.manifest.simulate import SimulateOptions, simulate

    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), SimulateOptions(videos={"train": 24}))
        return _of_lite0(
            _crops(Path(folder), rows)
        ), "EfficientNet-Lite0 (ImageNet) on crops of frames of simulated videos"


def _of_lite0(pictures: np.ndarray) -> np.ndarray:
    import timm
    import torch

    from pipeline.models.pretrained import lite0_file, lite0_in_timm_names
    from pipeline.models.sources import read_state

    torch.set_num_threads(1)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    network.load_state_dict(lite0_in_timm_names(read_state(lite0_file())))
    with torch.inference_mode():
        parts = [torch.from_numpy(pictures[n : n + 32]).permute(0, 3, 1, 2) for n in range(0, len(pictures), 32)]
        return torch.cat([network((part / 255 - 0.498) / 0.502) for part in parts]).float().numpy()


def _crops(folder: Path, count: int) -> np.ndarray:
    """(count, 224, 224, 3) uint8: random crops of frames from all over the videos below `folder`."""
    rng = np.random.default_rng(3)
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".mp4", ".avi", ".mkv", ".webm"))
    each = -(-count // len(files))
    return np.stack([crop for path in files for crop in _some(path, each, rng)])[:count]


def _some(path: Path, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    for _ in range(count):
        picture = frames[rng.integers(len(frames))]
        side = int(min(picture.size) * rng.uniform(0.5, 1.0))
        left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
        yield np.asarray(picture.crop((left, top, left + side, top + side)).resize((224, 224)))


if __name__ == "__main__":
    main()
