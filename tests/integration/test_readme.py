"""README's Python, as it stands there, on what the main job left."""

import os
import re
import subprocess
import sys

import pytest

from tests.integration.conftest import Main
from tests.support.driver import ROOT, summary

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
SAYS = {
    "duckdb.sql": ["logits", "highest", "reason"],
    "ray.data.read_parquet": ["(4, 6)"],
    "training_rows": ["0 ", "1 "],
    "torch.export.load": [],
}


@pytest.mark.parametrize("about", SAYS)
def test_a_block_of_the_readme_runs_as_written(about: str, main: Main) -> None:
    (code,) = [block for block in BLOCKS if about in block]
    told = summary(main.workspace / "runs" / "debug")
    places = {
        "TARGETS": main.workspace / "store" / "targets" / told["keys"]["targets-train"],
        "EXPORT": main.workspace / told["export"],
    }
    env = os.environ | {name: str(path) for name, path in places.items()} | {"PYTHONPATH": str(ROOT)}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    for words in SAYS[about]:
        assert words in done.stdout, done.stdout
