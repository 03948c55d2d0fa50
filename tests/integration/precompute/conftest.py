"""A stage for precompute runs: one Ray head, one folder of videos, and scenes that play side by side.

A scene is a function of the stage that starts drivers, kills what it is about, and ends with a finished workspace. Most
of its time is waiting (a dead owner's lease is watched for 30 s), so all scenes that the chosen tests name with
`@plays(scene)` start together, and each test waits for its own.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.integration.conftest import Head
from tests.support.driver import ROOT, Finished, arguments, environment
from tests.support.outcome import Stored, outcome
from tests.support.processes import Cast, send, wait_for
from tests.support.progress import Sight, Watcher
from tests.support.videos import write_video

RECIPE = Path(__file__).with_name("recipe.yaml")
BROKEN = {"empty.mp4": b"", "text.mp4": b"<html>not a video</html>"}
VIDEOS = 40
SIDE_BY_SIDE = 5


plays = pytest.mark.plays.with_args  # the mark called with one function would decorate it


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "plays(scene, waits=False): the scenes whose end a test looks at")


@dataclass(frozen=True)
class Row:
    """One line of the table of kills."""

    victim: str
    moment: str
    sight: Sight

    def __str__(self) -> str:
        return f"{self.victim:<14} {self.moment:<42} {self.sight}"


@dataclass
class Ended:
    """How a scene ended: what was killed, how each driver ended (in order), and where the artefacts lie."""

    workspace: Path
    kills: list[Row] = field(default_factory=list)
    drivers: list[Finished] = field(default_factory=list)

    @property
    def last(self) -> Finished:
        return self.drivers[-1]


class Run:
    """One driver: `stagedkd precompute` as a process that one can watch, stop and kill."""

    def __init__(self, command: list[str], workspace: Path, env: dict[str, str]) -> None:
        self.workspace = workspace
        self.watcher = Watcher(workspace / "store")
        self._said: tuple[IO[str], IO[str]] = tuple(_scratch(workspace, name) for name in ("out", "err"))  # type: ignore[assignment]
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=self._said[0], stderr=self._said[1])
        self.cast = Cast(self.process.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    def look(self) -> Sight:
        return self.watcher.look()

    def until(self, wanted: Callable[[Sight], bool], what: str, *, timeout: float = 200) -> Sight:
        """The first sight that is wanted. AssertionError where the driver ended before."""

        def seen() -> Sight | None:
            sight = self.look()
            assert self.process.poll() is None or wanted(sight), f"ended before: {what}; {self.said()}"
            return sight if wanted(sight) else None

        sight = wait_for(seen, what, timeout=timeout, pause=0.02)
        assert sight is not None
        return sight

    def kill(self) -> Finished:
        """SIGKILL the driver."""
        send(self.pid, signal.SIGKILL)
        return self.end()

    def end(self, timeout: float = 400) -> Finished:
        """Wait until the driver ends."""
        code = self.process.wait(timeout)
        return Finished(code, *(Path(stream.name).read_text() for stream in self._said))

    def said(self) -> str:
        return Path(self._said[1].name).read_text()[-3000:]


def _scratch(workspace: Path, suffix: str) -> IO[str]:
    number = sum(1 for _ in workspace.parent.glob(f"{workspace.name}-*.{suffix}"))
    return open(workspace.parent / f"{workspace.name}-{number}.{suffix}", "w")


class Stage:
    """Starts drivers on the suite's head (or on a session of their own) over one folder of videos."""

    def __init__(self, head: Head, root: Path, folder: Path) -> None:
        self.head, self.root, self.folder = head, root, folder
        self.runs: list[Run] = []

    def workspace(self, name: str) -> Path:
        return self.folder / name

    def start(
        self, workspace: Path, *, own_session: bool = False, env: dict[str, str] | None = None, **sets: Any
    ) -> Run:
        """`stagedkd precompute`, on a session of its own or on the suite's head; `a__b=c` sets a.b."""
        base: dict[str, Any] = {"workspace": workspace, "manifest.root": self.root}
        mine = {"cluster.max_cpus": 2, "cluster.dashboard": "false"}
        base |= mine if own_session else {"cluster.address": self.head.address}
        changes = {name.replace("__", "."): value for name, value in sets.items()}
        whole = environment({"PYTHONPATH": str(ROOT)} | ({} if own_session else self.head.env) | (env or {}))
        run = Run(arguments("precompute", RECIPE, base | changes), workspace, whole)
        self.runs.append(run)
        return run

    def finish(self, workspace: Path, **sets: Any) -> Finished:
        """Run the command to its end."""
        return self.start(workspace, **sets).end()

    def close(self) -> None:
        for run in self.runs:
            if run.process.poll() is None:
                run.kill()


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short videos in three classes, and two files that are none."""
    root = tmp_path_factory.mktemp("clips")
    lines = ["path,label,split"]
    for number in range(VIDEOS):
        path = root / f"class_{number % 3}" / f"v{number:03d}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, frames=24)
        lines.append(f"{path.relative_to(root)},{path.parent.name},{'test' if number % 4 == 0 else 'train'}")
    for name, data in BROKEN.items():
        (root / "class_0" / name).write_bytes(data)
        lines.append(f"class_0/{name},class_0,train")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def stage(head: Head, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(head, clips, tmp_path_factory.mktemp("stage"))
    yield stage
    stage.close()


Scene = Callable[[Stage], Ended]
Artefacts = dict[tuple[str, str], Stored]


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest, stage: Stage) -> Iterator[dict[Scene, "Future[Ended]"]]:
    """The scenes of all chosen tests, each begun once."""
    marks = [mark for item in request.session.items for mark in item.iter_markers("plays")]
    marks.sort(key=lambda mark: not mark.kwargs.get("waits"))  # who mostly waits begins first
    scenes = dict.fromkeys([undisturbed, *(scene for mark in marks for scene in mark.args)])
    with ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool:
        yield {scene: pool.submit(scene, stage) for scene in scenes}
        pool.shutdown(wait=False, cancel_futures=True)
        stage.close()


@pytest.fixture
def ended(request: pytest.FixtureRequest, played: dict[Scene, "Future[Ended]"]) -> Ended:
    """The end of the scene that the test names; what went wrong in it is raised here."""
    (scene,) = next(request.node.iter_markers("plays")).args
    return played[scene].result(timeout=560)


def undisturbed(stage: Stage) -> Ended:
    """What every other scene is compared with."""
    workspace = stage.workspace("undisturbed")
    return Ended(workspace, drivers=[stage.finish(workspace)])


@pytest.fixture(scope="session")
def wanted(played: dict[Scene, "Future[Ended]"]) -> Artefacts:
    """Frames and targets of the undisturbed run."""
    calm = played[undisturbed].result(timeout=560)
    assert calm.last.code == 0, calm.last.err[-3000:]
    return outcome(calm.workspace / "store")
