"""A small data set and what is precomputed of it, for the modules that only look at it or take a copy."""

import shutil
from pathlib import Path

import pytest

from pipeline.flow.context import Context
from pipeline.flow.precompute import frames_step
from pipeline.flow.targets import teacher_steps
from pipeline.flow.teacher import given_step
from tests.unit.flow.precomputed import context, precompute, videos


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def honest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with everything precomputed; nobody writes to it."""
    workspace = tmp_path_factory.mktemp("honest")
    precompute(context(root, workspace))
    return workspace


@pytest.fixture
def made(root: Path, honest: Path, tmp_path: Path) -> tuple[Context, Path]:
    """A copy of it: the context and the folder of the training targets."""
    shutil.copytree(honest, tmp_path, dirs_exist_ok=True)
    opened = context(root, tmp_path)
    keys = {plan: frames_step(opened, plan).key for plan in ("train", "eval")}
    step = teacher_steps(opened, keys, given_step(opened.recipe).key)["train"]
    return opened, step.folder(opened.workspace)
