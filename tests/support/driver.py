"""Drivers as users start them: subprocesses of the command line, on a Ray head of the test session or on their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "jobs" / "recipes"


@dataclass(frozen=True)
class Finished:
    """How a driver ended."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line of stdout: the artefact's path."""
        return self.out.strip().splitlines()[-1]


def arguments(command: str, recipe: Path, sets: dict[str, Any]) -> list[str]:
    pairs = [part for path, value in sets.items() for part in ("--set", f"{path}={value}")]
    return [sys.executable, "-m", "jobs", command, str(recipe), *pairs]


def listing_imports(command: Sequence[str], names: Sequence[str]) -> list[str]:
    """A driver's command line (of `arguments`) that prints last which modules of `names` it imported."""
    script = (
        f"import sys\nsys.argv = {list(command[2:])!r}\n"
        "from jobs.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('imported:', [name for name in {list(names)!r} if name in sys.modules])\n"
    )
    return [sys.executable, "-c", script]


def drive(command: Sequence[str], *, timeout: float = 1200, env: dict[str, str] | None = None) -> Finished:
    """Run a driver to its end; the limit only ends one that hangs, on a machine however busy."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment(env), capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def kill_when(
    command: Sequence[str], seen: Callable[[], bool], *, timeout: float = 900, env: dict[str, str] | None = None
) -> None:
    """Start a driver and send it SIGKILL as soon as `seen()` is true. AssertionError where it ended before."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(env), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        until = time.monotonic() + timeout
        while not seen():
            ended = process.poll() is not None or time.monotonic() > until
            if ended:
                process.kill()
                raise AssertionError(f"not seen before the driver ended: {process.communicate()[1][-2000:]}")
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)


def environment(extra: dict[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return clean | {"OMP_NUM_THREADS": "1"} | (extra or {})


def marker(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def summary(folder: str | Path) -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "summary.json").read_text()))


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder with its time of change: equal before and after means that nothing was written."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()
    }


def weights(workspace: Path, key: str) -> bytes:
    """model.safetensors of a finished models artefact."""
    folder = workspace / "store" / "models" / key
    return (folder / marker(folder, "done")["attempt"] / "model.safetensors").read_bytes()
