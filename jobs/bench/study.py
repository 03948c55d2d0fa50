"""The whole throughput study: splits, isolation, equality of outputs, then the settings one after the other."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from jobs.bench.isolation import measure_isolation
from jobs.bench.rates import decoders_beside
from jobs.bench.report import machine
from jobs.bench.throughput import (
    MICRO_BATCH_SECONDS,
    Found,
    Setting,
    Split,
    Teacher,
    check_equal,
    find_split,
    fitting_slots,
    measure,
    measure_in_turns,
    simulated,
)
from jobs.bench.videos import Films
from jobs.bench.workload import CORES, Workload, torch_teacher
from pipeline.flow.teacher_stage import TeacherJob

LOG = logging.getLogger(__name__)
FILMS = Films(120, 10.0, 340, 256)


@dataclass(frozen=True)
class Study:
    """All choices. Films: 10 s of 340 × 256 pixels, one view of 16 × 112 × 112 each, unless quick."""

    work: Path
    seconds: float
    segment: float
    turn: float
    rounds: int
    settings: tuple[str, ...]
    model: str
    model_size: int
    frames: str
    views: int
    sets: tuple[str, ...] = ()
    naive: str = "actors"
    together: bool = True
    films: Films = FILMS
    size: tuple[int, int] = (112, 112)
    num_frames: int = 16
    frame_stride: int = 2
    slots: int = 16
    batches: int = 8
    trial: float = 20.0
    pairs: int = 200
    most: int = 2 * CORES
    every: float = 2.0

    @classmethod
    def quick(cls, work: Path, **chosen: Any) -> Self:
        """The same way in seconds: tiny films, a tiny network, one round."""
        tiny: dict[str, Any] = {"films": Films(4, 2.0, 96, 64), "size": (32, 32), "num_frames": 4, "slots": 4}
        tiny |= {"batches": 2, "trial": 0.5, "pairs": 4, "most": 1, "every": 0.1, "model": "compact", "model_size": 32}
        return cls(work, **chosen | tiny | {"seconds": 0.1, "segment": 0.5, "turn": 0.5, "rounds": 1})

    @property
    def load(self) -> Workload:
        return Workload(
            self.work,
            self.films,
            self.size,
            self.num_frames,
            self.frame_stride,
            self.views,
            self.slots,
            self.batches,
        )

    def run(self) -> dict[str, Any]:
        """Everything, as the JSON file has it."""
        facts = machine()
        LOG.info("films")
        assert self.load.folder.is_dir()
        load, splits = self._splits()
        found = []
        for setting in self._settings(load, splits):
            LOG.info("%s: are the outputs of both arms equal?", setting.name)
            rows = check_equal(setting, 2 * load.shard_views)
            LOG.info("%s: %d equal rows; now the timed runs", setting.name, rows)
            found.append(self._measure(setting, splits) | {"equal_rows": rows})
        return {
            "bench": "precompute throughput",
            "machine": facts,
            "options": self._options(load),
            "splits": {arm: asdict(split) for arm, split in splits.items()},
            "isolation": asdict(measure_isolation(load, self.pairs)),
            "settings": found,
        }

    def _measure(self, setting: Setting, splits: dict[str, Split]) -> Found:
        if setting.shared:
            return measure_in_turns(setting, self.rounds, self.seconds, self.turn, splits)
        return measure(setting, self.rounds, self.seconds, self.segment, splits)

    def _splits(self) -> tuple[Workload, dict[str, Split]]:
        """Rates of both stages alone, and micro-batches of two seconds or more."""
        counts = range(1, self.most + 1)
        setting = self._shared(self.load)
        LOG.info("decode-only and teacher-only, %d splits each", self.most)
        splits = {"decode": find_split(setting.job("decode", self.trial), counts)}
        if "cuda" in self.settings:
            splits["teacher"] = find_split(self._shared(self.load, "cuda").job("teacher", self.trial), [1])
        else:
            splits["teacher"] = find_split(setting.job("teacher", self.trial), counts)
        slots = fitting_slots(self.load, list(splits.values())) if self.trial > 1 else self.slots
        return self.load.with_slots(slots), splits

    def _settings(self, load: Workload, splits: dict[str, Split]) -> list[Setting]:
        a, b = splits["decode"].processes, splits["teacher"].processes
        found = []
        for name in self.settings:
            device = "cuda" if name == "cuda" else "cpu"
            # The bound has the best split that was found; a user's pools hold no more actors than there are cores.
            shared = replace(self._shared(load, device), name=name, decoders=min(a, CORES), teachers=b)
            if name == "shared":
                beside = decoders_beside(splits["decode"].rate, splits["teacher"].rate, CORES)
                shared = replace(shared, decoders=beside, teachers=min(b, CORES))
                if self.together:  # as many actors as cores, two at least
                    shared = replace(shared, decoders=max(1, CORES - 1), teachers=1, together=True)
            if name == "simulated":
                teacher, rate = simulated(self.work, load, splits["decode"].rate)
                shared = replace(shared, teacher=teacher, teachers=1, device_rate=rate)
            found.append(shared)
        return found

    def _shared(self, load: Workload, device: str = "cpu") -> Setting:
        options = {} if self.model != "compact" else {"widths": [8, 16, 16, 16]}
        folder, section = torch_teacher(self.work, self.model, self.model_size, options)
        teacher = Teacher(TeacherJob(str(folder), load.slots, device), section)
        said: dict[str, Any] = {"sets": self.sets, "every": self.every, "naive": self.naive}
        return Setting("shared", load, teacher, CORES, CORES, self.frames, **said)

    def _options(self, load: Workload) -> dict[str, Any]:
        view = f"{load.num_frames} frames of {load.size[0]}×{load.size[1]}"
        films = f"{self.films.count} H.264 films of {self.films.seconds:g} s, {self.films.width}×{self.films.height}"
        shared = "actors that do both" if self.together else "decoders and teachers"
        return {
            "films": films,
            "view": f"{view}, every {load.frame_stride}., {load.views} a video",
            "teacher": f"{self.model}, input {self.model_size}×{self.model_size}, random weights",
            "micro-batch": f"{load.slots} clips (at least {MICRO_BATCH_SECONDS:g} s of one process in each stage)",
            "shard": f"{load.shard_views} clips",
            "frames": self.frames,
            "naive": f"as many {self.naive} as cores",
            **({"pipeline on shared cores": shared} if "shared" in self.settings else {}),
            "seconds, segment, turn, rounds": f"{self.seconds:g}, {self.segment:g}, {self.turn:g}, {self.rounds}",
            "sets": ", ".join(self.sets) or "none",
        }
