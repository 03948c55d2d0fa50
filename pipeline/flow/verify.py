"""`verify`: stored targets of the recipe's teachers, read back, recomputed for a random sample, and compared.

Per plan and targets artefact: identity → checksums, schema and keys of every shard → a sample of whole micro-batches,
decoded anew with the recorded reader and answered anew as recorded. In this process, without Ray. Nothing is written.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts.commit import Marker, MissingError, object_path, read_marker, read_object
from pipeline.artifacts.compacted import read_compacted
from pipeline.artifacts.identity import artefact_key
from pipeline.artifacts.layout import read_about
from pipeline.artifacts.schemas import declaration
from pipeline.errors import ConfigError, InputError, JobError, StorageError
from pipeline.flow.build import PLANS
from pipeline.flow.context import Context
from pipeline.flow.open_plan import committed_shards
from pipeline.flow.recompute import Recomputer, quarantined
from pipeline.flow.step import content
from pipeline.flow.stored import Stored, stored_targets
from pipeline.models.facts import read_facts
from pipeline.targets import verify as check
from pipeline.targets.codec import pack, table
from pipeline.targets.verify import Finding, Key

KEYS = ["clip_id", "view_id", "video_id"]
Facts = Mapping[str, Any]  # model.json
LOG = logging.getLogger(__name__)


@dataclass
class Verified:
    """What was looked at (how often), and what was found."""

    checked: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def add(self, what: str, count: int, found: Iterable[Finding] = ()) -> None:
        self.checked[what] += count
        self.findings += list(found)


def verify(context: Context, *, sample: int = 64, seed: int = 0) -> Verified:
    """Check all targets of both plans, and about `sample` views of each artefact by recomputing them.

    InputError where nothing of the recipe is precomputed.
    """
    found = Verified()
    for plan in PLANS:
        for stored in stored_targets(context, plan):
            found.folders.append(stored.folder)
            LOG.info("verify: %s targets %s", plan, stored.folder.name[:8])
            facts = _identity(stored, found)
            whole = _shards(stored, facts, found)
            if facts is not None:
                _recompute(context, stored, whole, found, sample, random.Random(f"{seed} {plan}"))
    if not found.folders:
        raise InputError("nothing of this recipe is precomputed in this workspace: run `stagedkd precompute` first")
    return found


def _identity(stored: Stored, found: Verified) -> Facts | None:
    """The key is that of what about.json says, and the teacher's files are those that its marker names. Returns its
    model.json; None where there is none that can be read."""
    about = read_about(stored.folder)
    key = artefact_key(about["step"], about["version"], about["fields"], about["inputs"])
    said = [] if key == stored.folder.name == about["key"] else [Finding(stored.name("about.json"), "says another key")]
    found.add("identities", 1, said)
    marker = read_marker(stored.teacher, "done")
    if marker is None:
        found.add("teachers", 1, [Finding(stored.name("teacher"), f"{stored.teacher} is not there any more")])
        return None
    found.add("teachers", 1, _damage(stored.name("teacher"), stored.teacher, marker))
    try:
        return read_facts(content(stored.teacher))
    except InputError as error:
        found.add("teachers", 0, [Finding(stored.name("teacher"), str(error))])
        return None


def _damage(name: str, folder: Path, marker: Marker) -> Iterator[Finding]:
    """Objects whose bytes are not those of the marker; of compacted ones whose own file went, those of the record."""
    for obj in (*marker.objects, *([marker.quarantine] if marker.quarantine else [])):
        try:
            try:
                object_path(folder, obj, check=True)
            except MissingError:
                read_compacted(folder, obj, [], check=True)
        except StorageError:
            raise  # of the store, not of the file
        except JobError as error:
            yield Finding(name, str(error))


def _shards(stored: Stored, facts: Facts | None, found: Verified) -> dict[str, pa.Table]:
    """All shards: checksums, schema, keys. Returns the rows' keys of those that can be read. `facts`: the teacher's."""
    done, whole = committed_shards(stored.folder), {}
    for shard in stored.planned.shards:
        buried = {video for video, where in stored.planned.tombstones if where == shard}
        if shard not in done:
            rows = stored.planned.shards[shard].column("video_id").to_pylist()
            lost = set(rows) - buried
            found.add("shards", 1, [Finding(stored.name(shard), "planned and not committed")] if lost else [])
            continue
        marker = read_marker(stored.folder, shard)
        assert marker is not None, shard
        damage = list(_damage(stored.name(shard), stored.folder, marker))
        found.add("files", len(marker.objects) + 1, damage)
        found.add("shards", 1, _stale(stored, shard, marker, facts))
        if not damage:
            whole[shard] = _keys(stored, shard, marker, buried, facts, found)
    return whole


def _stale(stored: Stored, shard: str, marker: Marker, facts: Facts | None) -> Iterator[Finding]:
    made, now = marker.facts.get("teacher"), facts and facts["digest"]
    if made and now and made != [now]:
        names = " and ".join(digest[:12] for digest in made)
        yield Finding(stored.name(shard), f"made by the teacher {names}, the one that lies under its key is {now[:12]}")


def _keys(
    stored: Stored, shard: str, marker: Marker, buried: set[str], facts: Facts | None, found: Verified
) -> pa.Table:
    name = stored.name(shard)
    rows = pa.concat_tables([read_object(stored.folder, obj, KEYS) for obj in marker.objects])
    lost = quarantined(stored.folder, marker)
    planned = stored.planned.shards[shard]
    wanted = dict(zip(_key_list(planned), planned.column("video_id").to_pylist(), strict=True))
    found.add("keys", len(wanted), check.check_keys(name, wanted, _key_list(rows), lost, buried))
    if facts is not None:
        found.add("schemas", len(marker.objects), _schema(stored, name, marker, facts))
    cached = read_marker(stored.frames, shard)
    if cached is not None:
        kept = _frame_keys(stored, cached, lost | quarantined(stored.frames, cached))
        found.add("orders", 1, check.check_order(name, _key_list(rows), kept))
    return rows


def _frame_keys(stored: Stored, marker: Marker, lost: set[str]) -> list[Key]:
    rows = pa.concat_tables([read_object(stored.frames, obj, KEYS) for obj in marker.objects])
    videos = rows.column("video_id").to_pylist()
    return [key for key, video in zip(_key_list(rows), videos, strict=True) if video not in lost]


def _schema(stored: Stored, name: str, marker: Marker, facts: Facts) -> Iterator[Finding]:
    """Columns as the codec and the teacher's classes and substages say."""
    widths = {"logits": facts["num_classes"]} | {f"substage_{n}": dim for n, dim in enumerate(facts["dims"], start=1)}
    blank = {column_name: np.zeros((0, width), np.float32) for column_name, width in widths.items()}
    expected = table(pack(blank, stored.codec), [], stored.codec).schema
    for obj in marker.objects:
        schema = read_object(stored.folder, obj).schema
        same = (schema.names, schema.types) == (expected.names, expected.types)
        if not same or declaration(schema) != declaration(expected):
            yield Finding(name, f"{obj.name} has other columns than its codec and its teacher say")


def _key_list(table: pa.Table) -> list[Key]:
    return list(zip(table.column("clip_id").to_pylist(), map(int, table.column("view_id").to_pylist()), strict=True))


def _recompute(
    context: Context, stored: Stored, whole: Mapping[str, pa.Table], found: Verified, sample: int, rng: random.Random
) -> None:
    """Whole micro-batches in random order until `sample` views were compared; a finding where the teacher cannot be
    asked again (its module is not here, or is another now)."""
    shards = stored.planned.shards
    batches = [(shard, n) for shard in whole for n in sorted(set(shards[shard].column("micro_batch").to_pylist()))]
    rng.shuffle(batches)
    try:
        again = Recomputer(context, stored)
    except (ConfigError, InputError) as error:
        found.add("teachers", 0, [Finding(stored.name("teacher"), f"its values are not recomputed: {error}")])
        return
    with again:
        for shard, number in batches:
            if again.checked["views recomputed"] >= sample:
                break
            found.findings += again.compare(shard, number)
            views = again.checked["views recomputed"]
            LOG.info("verify: %d of about %d views of %s recomputed", views, sample, stored.folder.name[:8])
    found.checked += again.checked
