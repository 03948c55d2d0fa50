"""Exported programs: a small one, and copies of an archive with something planted in it."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

Change = Callable[[Any], None]


class Small(nn.Module):
    """Two substages with norms, a reshape of what a convolution gives, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.second, self.drop = nn.Conv3d(4, 6, 3, stride=2, padding=1), nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = self.norm(self.first(clip)).relu()
        second = self.second(first).relu()
        pooled = second.reshape(clip.shape[0], 6, -1).mean(2)
        return self.head(self.drop(pooled)), first, second


class Damage:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def planted(source: Path, path: Path, entry: str, change: Change, extra: dict[str, bytes] | None = None) -> Path:
    """A copy with one JSON entry changed, and entries added or replaced."""
    extra = extra or {}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            top, _, name = info.filename.partition("/")
            data = old.read(info)
            if name == entry:
                said = json.loads(data)
                change(said)
                data = json.dumps(said).encode()
            if name not in extra:
                new.writestr(info.filename, data)
        for name, data in extra.items():
            new.writestr(f"{top}/{name}", data)
    return path


def nodes(model: Any) -> Any:
    return model["graph_module"]["graph"]["nodes"]


def first_weight(config: Any) -> Any:
    return next(iter(config["config"].values()))
