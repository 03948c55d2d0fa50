"""The whole way with the store and the videos in an object store; runs and reports stay in the workspace."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import DEBUG, Main
from tests.support.driver import Finished, arguments, drive, files, summary, weights
from tests.support.servers import BUCKET, S3, s3_server

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def server(main: Main, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """On the port where the head's workers look for it, with the main job's videos in it."""
    at = main.head.store
    folder = tmp_path_factory.mktemp("s3-main")
    with s3_server(folder, port=at.port, key=at.key, secret=at.secret) as started:
        started.client().put(str(main.root), f"{BUCKET}/clips", recursive=True)
        yield started


def _objects(server: S3) -> dict[str, Any]:
    """Every stored object with when it came."""
    found = server.client().find(f"{BUCKET}/store", detail=True)
    return {name: (info["size"], info["LastModified"]) for name, info in found.items()}


def _run(main: Main, workspace: Path) -> Finished:
    sets = main.sets(storage__root=f"s3://{BUCKET}/store", manifest__root=f"s3://{BUCKET}/clips", workspace=workspace)
    return drive(arguments("run", DEBUG, sets), env=main.head.env)


def test_the_whole_way_on_an_object_store_gives_the_student_of_a_folder(main: Main, server: S3, tmp_path: Path) -> None:
    first = _run(main, tmp_path)
    assert first.code == 0, first.err[-4000:]
    told, local = summary(first.last), summary(main.workspace / "runs" / "debug")
    assert _table(told) == _table(local)
    assert _weights(server, told["keys"]["student"]) == weights(main.workspace, local["keys"]["student"])
    assert not (tmp_path / "store").exists()
    before, here = _objects(server), files(tmp_path)
    second = _run(main, tmp_path)
    assert second.out == first.out
    assert _objects(server) == before
    assert files(tmp_path) == here


def _table(told: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in ("name", "top1", "low", "high", "params")) for row in told["networks"]]


def _weights(server: S3, key: str) -> bytes:
    client = server.client()
    return bytes(client.cat_file(client.glob(f"{BUCKET}/store/models/{key}/*/model.safetensors")[0]))
