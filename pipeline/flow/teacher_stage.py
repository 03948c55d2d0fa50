"""The teachers' stage of the precompute graph: rasters in, what is stored of the teachers' answers out, pixels dropped.

All teachers of a recipe live in one actor, so that pixels cross once. torch is imported where a teacher needs it.
"""

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.artifacts.places import place
from pipeline.flow.step import content
from pipeline.models.facts import read_facts
from pipeline.models.plain import is_plain, load_plain
from pipeline.targets.codec import Codec, pack
from pipeline.targets.plain import Labels, PlainLabeler

# Figures are read from all logits, so that the evaluation plan's are never cut to the largest.
WHOLE = ("eval",)


@dataclass(frozen=True)
class TeacherJob:
    """One teacher: its models folder, how it runs, how its targets are stored. `batch`: slots of a micro-batch;
    `whole`: plans of which all logits are kept whatever the codec says."""

    folder: str
    batch: int
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    compile: bool = False
    codec: Codec = field(default_factory=Codec)
    whole: tuple[str, ...] = WHOLE

    def codec_for(self, plan: str) -> Codec:
        return self.codec.whole if plan in self.whole else self.codec


class TeacherStage:
    """Holds the labelers, each built when a row first asks for it; takes and gives rows of `video.micro_batch`."""

    def __init__(self, teachers: tuple[TeacherJob, ...]) -> None:
        self.teachers = teachers
        self._labelers: dict[int, Labels] = {}
        self._digests: dict[int, str] = {}
        self._ended: float | None = None

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """`row`: frames (B, T, H, W, 3) uint8, teachers (JSON: numbers of the teachers that are asked).

        Adds per asked teacher i `t{i}.<column>` (B, …) as packed by its codec and `t{i}.batch` (clips of one forward
        from now on), teacher_s and idle_s (seconds of this call, and since the last one ended), runtime and digests
        (JSON: on what, and by which networks the values were made). `frames` is dropped.
        """
        asked = [int(number) for number in json.loads(row["teachers"])]
        labelers = {number: self._labeler(number) for number in asked}
        began = time.monotonic()
        done = {name: value for name, value in row.items() if name != "frames"}
        for number, labeler in labelers.items():
            packed = pack(labeler(row["frames"]), self.teachers[number].codec_for(row["plan"]))
            done |= {f"t{number}.{name}": values for name, values in packed.items()}
            done[f"t{number}.batch"] = labeler.batch
        digests = json.dumps({number: self._digests[number] for number in asked})
        said = json.dumps(runtime([self.teachers[number] for number in asked], labelers.values()))
        idle, self._ended = began - (self._ended or began), time.monotonic()
        return done | {"teacher_s": self._ended - began, "idle_s": idle, "runtime": said, "digests": digests}

    def _labeler(self, number: int) -> Labels:
        if number not in self._labelers:
            self._labelers[number] = build_labeler(self.teachers[number])
            self._digests[number] = teacher_digest(self.teachers[number].folder)
        return self._labelers[number]


def runtime(jobs: Sequence[TeacherJob], labelers: Iterable[Labels]) -> dict[str, str | None]:
    """What bit-equal values depend on beside the key: the class of hardware, and torch's version where it is used."""
    if all(isinstance(labeler, PlainLabeler) for labeler in labelers):
        return {"hardware": platform.machine(), "torch": None}
    import torch

    if any(job.device == "cuda" for job in jobs):
        return {"hardware": torch.cuda.get_device_name(), "torch": str(torch.__version__)}
    said = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"hardware": said, "torch": str(torch.__version__)}


def teacher_digest(folder: str) -> str:
    """What identifies the network or plain labeler in a models folder, as its model.json says."""
    return str(read_facts(content(place(folder)))["digest"])


def build_labeler(job: TeacherJob) -> Labels:
    """The labeler of a saved network, or the plain one that its folder describes."""
    folder = content(place(job.folder))
    if is_plain(read_facts(folder)):
        return PlainLabeler(load_plain(folder), job.batch)
    import torch

    from pipeline.models.weights import load_network
    from pipeline.targets.labeler import Labeler

    torch.set_num_threads(job.threads)
    return Labeler(load_network(folder), job.batch, job.device, job.dtype, compiled=job.compile)
