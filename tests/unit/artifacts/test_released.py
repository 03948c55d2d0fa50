"""Artefacts as released versions wrote them (schema 1.0): readers of this version take them."""

from pathlib import Path

import numpy as np

from pipeline.artifacts.dataset import open_dataset
from pipeline.artifacts.schemas import check_schema, column

RELEASED = Path(__file__).parents[2] / "support"


def test_targets_of_schema_1_0_are_read_with_their_values() -> None:
    dataset = open_dataset(RELEASED / "targets-1.0", check=True)
    table = dataset.table()
    check_schema(table.schema, "targets")
    assert table.num_rows == 20
    assert table.column("video_id").to_pylist()[::4] == ["v00.mp4", "v01.mp4", "v02.mp4", "v03.mp4", "v04.mp4"]
    np.testing.assert_array_equal(column(table, "logits"), np.arange(60, dtype=np.float16).reshape(20, 3) / 4)
    np.testing.assert_array_equal(column(table, "substage_1"), np.arange(40, dtype=np.float16).reshape(20, 2) / 8)
    assert table.column("indices").to_pylist()[0] == [0, 15]
    rows = list(dataset.training_rows(0, 1, 0, 0, 5))
    assert [len(batch["clip_id"]) for batch in rows] == [5]
