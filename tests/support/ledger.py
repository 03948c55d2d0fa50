"""`make test`: every part of the suite in turn, and at the end what each took. Exit 1 where a part failed.

python -m tests.support.ledger            all parts
python -m tests.support.ledger unit       some of them
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUDGET = 1200


@dataclass(frozen=True)
class Part:
    """One line of the ledger: its name, its commands, and the seconds that it may take on two slow cores."""

    name: str
    budget: int
    commands: tuple[tuple[str, ...], ...]


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def pytest(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pytest", "-q", "-m", "not soak", "--durations=8", *arguments)


PARTS = (
    Part(
        "static checks",
        60,
        (
            (tool("ruff"), "check", "pipeline", "jobs", "tests"),
            (tool("ruff"), "format", "--check", "pipeline", "jobs", "tests"),
            (tool("mypy"),),
            (tool("lint-imports"), "--no-cache"),
        ),
    ),
    Part("unit", 320, (pytest("tests/unit"),)),
    Part("numerics", 150, (pytest("tests/numerics"),)),
    Part(
        "main job and hosts",
        600,
        (
            pytest(
                "tests/integration",
                *(f"--ignore=tests/integration/{name}" for name in ("precompute", "protocol", "storage")),
            ),
        ),
    ),
    Part("commit protocol", 150, (pytest("tests/integration/protocol"),)),
    Part("object store", 90, (pytest("tests/integration/storage"),)),
    Part("precompute", 300, (pytest("tests/integration/precompute"),)),
)


def run(part: Part) -> tuple[bool, float]:
    """Run a part's commands; whether all passed, and the seconds."""
    began, good = time.monotonic(), True
    for command in part.commands:
        words = [Path(word).name if word.startswith("/") else word for word in command]
        print(f"\n== {part.name}: {' '.join(words)}", flush=True)
        good &= subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode == 0
    return good, time.monotonic() - began


def environment() -> dict[str, str]:
    """What a user's shell may have set for Ray or MLflow must not decide a test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}


def main(names: list[str]) -> int:
    """Run the named parts (default: all) and print the ledger."""
    chosen = [part for part in PARTS if not names or part.name.split()[0] in names]
    results = [(part, *run(part)) for part in chosen]
    print(f"\n{'part':<22} {'seconds':>8} {'budget':>8}  result")
    for part, good, seconds in results:
        print(f"{part.name:<22} {seconds:>8.0f} {part.budget:>8}  {'passed' if good else 'FAILED'}")
    total = sum(seconds for _, _, seconds in results)
    print(f"{'all':<22} {total:>8.0f} {BUDGET:>8}")
    print("longer, not here: make soak (kills at more places, the demo from nothing)")
    failed = sum(not good for _, good, _ in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
