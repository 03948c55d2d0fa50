"""The first steps: simulated videos where the recipe asks for them, the manifest, both plans; without torch."""

import dataclasses
import logging
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts.files import folders
from pipeline.artifacts.layout import read_about, write_about
from pipeline.artifacts.lease import Lease
from pipeline.artifacts.schemas import CLEAN, MANIFEST, column
from pipeline.config.base import identity_fields
from pipeline.config.recipe import Recipe
from pipeline.errors import ConfigError, InputError, JobError
from pipeline.flow.build import PLANS, manifest_name, manifest_root, planned_splits, view_policy
from pipeline.flow.context import Context
from pipeline.flow.step import Step, describe, owner
from pipeline.flow.videos import Videos
from pipeline.manifest.entries import Entry
from pipeline.manifest.noise import check_fraction, clean_names, inject, label_fraction
from pipeline.manifest.plan import Buried, Plan, Shards, difference, extend_plan, read_plan
from pipeline.manifest.probe import Facts, probe_many
from pipeline.manifest.scan import scan as scan_folder
from pipeline.manifest.split import assign_splits
from pipeline.manifest.table import Manifest, class_names, read_manifest, write_manifest
from pipeline.manifest.uris import Uris
from pipeline.video.views import view_keys

LOG = logging.getLogger(__name__)
MANIFEST_VERSION = 1
PLAN_VERSION = 2  # 2: views of one video lie in one micro-batch where they fit into one


@dataclass(frozen=True)
class PlanView:
    """A plan as the graph reads it: its shards (read when asked for), what was buried, and where the files lie."""

    root: Path
    shards: Shards
    tombstones: frozenset[tuple[str, str]]
    uris: Uris

    def paths(self, videos: pa.Array) -> pa.Array:
        """Where the files of these videos lie. JobError for one that was not there when this job looked."""
        try:
            return pc.binary_join_element_wise(str(self.root), self.uris(videos), "/")
        except KeyError as error:
            raise JobError(
                f"{self.root}: the plan holds {error.args[0]!r}, which was not there when this job scanned: another "
                "job extended the plan meanwhile; run the same command again"
            ) from error


def simulate_videos(recipe: Recipe) -> Path:
    """Write the simulated videos that are not there yet; returns their folder."""
    from pipeline.manifest.simulate import SimulateOptions, simulate

    section = recipe.simulate
    if section is None:
        raise ConfigError("the recipe has no simulate section: add one, or name a folder with --set manifest.root=DIR")
    root = manifest_root(recipe)
    counts = {"train": section.train, "val": section.val, "test": section.test}
    options = SimulateOptions(
        videos=counts,
        shapes=section.shapes,
        directions=section.directions,
        difficulty=section.difficulty,
        seed=section.seed,
        workers=section.workers,
    )
    simulate(root, options)
    return root


def manifest_step(recipe: Recipe) -> Step:
    """The (growing) manifest: keyed by its name and what is done to labels and splits, never by its content."""
    fields = identity_fields(recipe.manifest) | {"name": manifest_name(recipe)}
    return Step("manifest", "manifest", MANIFEST_VERSION, fields, {})


def plan_step(recipe: Recipe, plan: str) -> Step:
    """The (growing) plan of one view policy."""
    policy = view_policy(recipe, plan)
    fields = {field.name: getattr(policy, field.name) for field in dataclasses.fields(policy)}
    # What is at its default stays out, so that a field added later leaves old keys as they are.
    fields = {f.name: fields[f.name] for f in dataclasses.fields(policy) if fields[f.name] != f.default}
    fields |= {"shard_views": recipe.plan.shard_views, "micro_batch": recipe.plan.micro_batch}
    fields["splits"] = list(planned_splits(recipe, plan))
    return Step("plan", "plan", PLAN_VERSION, fields, {"manifest": manifest_step(recipe).key}, {"plan": plan})


def scan(context: Context) -> Videos:
    """Bring the manifest up to date with the folder."""
    recipe, timing = context.recipe, context.timing("manifest")
    if recipe.simulate is not None and not recipe.manifest.root:
        simulate_videos(recipe)
    root = manifest_root(recipe)
    entries = scan_folder(root, recipe.manifest.layout, official_split=recipe.manifest.official_split)
    step = manifest_step(recipe)
    folder = step.folder(context.workspace)
    _check_root(folder, root, step)
    context.keys["manifest"] = step.key
    before = read_manifest(folder)
    table, clean, classes = _tables(recipe, root, entries, before)
    timing.skipped = before is not None and before.table.equals(table) and before.classes == classes
    if not timing.skipped:
        with Lease(folder, owner()):
            before = write_manifest(folder, table, clean, classes)
    assert before is not None
    return _videos(root, step.key, before)


def _check_root(folder: Path, root: Path, step: Step) -> None:
    """A name that was used with another root is refused: what was planned under it is other videos."""
    refuse_other_root(folder, root, step)
    write_about(folder, describe(step) | {"root": str(root.resolve())})
    refuse_other_root(folder, root, step)


def refuse_other_root(folder: Path, root: Path, step: Step) -> None:
    """InputError where the manifest's name stands for another root, whatever the labels and splits made of it."""
    for about in map(read_about, folders(folder.parent)):
        known, name = about.get("root"), about.get("fields", {}).get("name")
        if name == step.fields["name"] and known != str(root.resolve()):
            raise InputError(
                f"manifest.name {name!r} was used with the folder {known} in this workspace, now it is "
                f"{root.resolve()}: give this one another name with --set manifest.name=NAME (or move the videos back)"
            )


def _tables(
    recipe: Recipe, root: Path, entries: list[Entry], before: Manifest | None
) -> tuple[pa.Table, pa.Table, tuple[str, ...]]:
    section = recipe.manifest
    shares = {name: getattr(section.split, name) for name in ("train", "val", "test")}
    split = section.split
    splits = assign_splits(
        entries, shares, seed=split.seed, val_from_train=split.val_from_train, val_as_test=split.val_as_test
    )
    names = [entry.label_name for entry in entries if entry.label_name is not None]
    classes = class_names(names, before.classes if before else ())
    if len(classes) < 2:
        raise InputError(f"{root} has {len(classes)} classes ({', '.join(classes) or 'none'}); at least 2 are needed")
    number = {name: index for index, name in enumerate(classes)}
    clean = np.array([number.get(entry.label_name or "", -1) for entry in entries], np.int32)
    labels = _given_labels(recipe, entries, splits, clean, classes)
    rows = _rows(root, entries, splits, labels, classes, before)
    known = pa.table(
        {
            "video_id": [entry.video_id for entry in entries],
            "clean_label": [int(label) if label >= 0 else None for label in clean],
            "clean_name": clean_names(clean, classes),
        },
        schema=CLEAN,
    )
    empty = known.slice(0, 0)
    changed = section.noise.kind != "none"
    return rows, known if changed else empty, classes


def _given_labels(
    recipe: Recipe, entries: list[Entry], splits: dict[str, str], clean: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """The labels that every step sees: noise in the splits that the recipe names, a fraction of the training labels."""
    section = recipe.manifest
    ids = [entry.video_id for entry in entries]
    noisy = inject(ids, clean, len(classes), kind=section.noise.kind, rate=section.noise.rate, seed=section.noise.seed)
    in_noise = np.array([splits[name] in section.noise.splits for name in ids])
    labels = np.where(in_noise, noisy, clean)
    if section.label_fraction < 1:
        train = np.array([splits[name] == "train" for name in ids])
        fewer = label_fraction(ids, np.where(train, labels, -1), section.label_fraction, seed=section.split.seed)
        check_fraction(clean, fewer, classes, section.label_fraction)
        labels = np.where(train, fewer, labels)
    return labels


def _rows(
    root: Path,
    entries: list[Entry],
    splits: dict[str, str],
    labels: np.ndarray,
    classes: tuple[str, ...],
    before: Manifest | None,
) -> pa.Table:
    """The manifest's table, column by column: rows of Python objects take 100 MB more for 100,000 videos."""
    listed: dict[str, Any] = {
        "video_id": pa.array([entry.video_id for entry in entries], pa.string()),
        "uri": pa.array([entry.uri for entry in entries], pa.string()),
        "label": pa.array(labels.astype(np.int32), mask=labels < 0),
        "label_name": pa.array(clean_names(labels, classes), pa.string()),
        "split": pa.array([splits[entry.video_id] for entry in entries], pa.string()),
        "group": pa.array([entry.group for entry in entries], pa.string()),
        "bytes": pa.array([entry.size for entry in entries], pa.int64()),
        "etag": pa.array([entry.etag for entry in entries], pa.string()),
    }
    stood = MANIFEST.empty_table() if before is None else before.table
    columns = listed | _facts(root, entries, listed, stood)
    return pa.table({name: columns[name] for name in MANIFEST.names}, schema=MANIFEST)


def _facts(root: Path, entries: list[Entry], listed: Mapping[str, pa.Array], stood: pa.Table) -> dict[str, pa.Array]:
    """What the headers claim: as it stood, and read from those files that are new or changed."""
    at = pc.index_in(listed["video_id"], value_set=stood.column("video_id").combine_chunks())

    def old(name: str) -> pa.Array:
        return stood.column(name).combine_chunks().take(at)

    same = pc.and_(pc.equal(old("bytes"), listed["bytes"]), pc.equal(old("etag"), listed["etag"])).fill_null(False)
    fresh = pc.invert(same)
    rows = np.flatnonzero(fresh.to_numpy(zero_copy_only=False)).tolist()
    facts = probe_many(root, [(entries[row].uri, entries[row].size) for row in rows])
    found = {}
    for name in Facts.__dataclass_fields__:
        read = pa.array([getattr(each, name) for each in facts], MANIFEST.field(name).type)
        found[name] = pc.replace_with_mask(old(name), fresh, read)
    return found


def _videos(root: Path, key: str, manifest: Manifest) -> Videos:
    table = manifest.table
    ids = tuple(table.column("video_id").to_pylist())

    def names(column: str) -> tuple[str, ...]:
        """Mostly the ids themselves: kept once."""
        same = table.column(column).equals(table.column("video_id"))
        return ids if same else tuple(table.column(column).to_pylist())

    known = dict(zip(*(manifest.clean.column(name).to_pylist() for name in ("video_id", "clean_label")), strict=True))
    clean = np.array([known.get(name) if known.get(name) is not None else -1 for name in ids], np.int64)
    return Videos(
        root=root,
        key=key,
        classes=manifest.classes,
        ids=ids,
        uris=names("uri"),
        labels=column(table, "label", fill=-1).astype(np.int64),
        clean=clean,
        splits=tuple(map(sys.intern, table.column("split").to_pylist())),
        groups=names("group"),
        sources=tuple(
            f"{size}:{etag}" for size, etag in zip(table["bytes"].to_pylist(), table["etag"].to_pylist(), strict=True)
        ),
        frames=tuple(table["frames"].to_pylist()),
    )


Retry = Callable[[str], Collection[Buried]]


def update_plans(context: Context, videos: Videos, retry: Retry = lambda plan: ()) -> dict[str, PlanView]:
    """Extend both plans by what is new, bury what is gone or changed; `retry(plan)` is buried and planned again."""
    uris = Uris.of(pa.table({"video_id": videos.ids, "uri": videos.uris}))
    return {plan: _view(context, _update(context, videos, plan, retry(plan)), uris) for plan in PLANS}


def stored_plans(context: Context, uris: Uris) -> dict[str, PlanView]:
    """Both plans as they are committed; `uris`: of the manifest that they were extended by."""
    folders = {plan: plan_step(context.recipe, plan).folder(context.workspace) for plan in PLANS}
    manifest_step(context.recipe).folder(context.workspace)  # the run stands on it, too
    return {plan: _view(context, read_plan(folder), uris) for plan, folder in folders.items()}


def _view(context: Context, plan: Plan, uris: Uris) -> PlanView:
    return PlanView(manifest_root(context.recipe), plan.shards, frozenset(plan.tombstones), uris)


def _update(context: Context, videos: Videos, name: str, retry: Collection[Buried]) -> Plan:
    recipe, timing = context.recipe, context.timing(f"plan {name}")
    step = plan_step(recipe, name)
    folder = step.folder(context.workspace)
    sources = {videos.ids[row]: videos.sources[row] for row in videos.of(*planned_splits(recipe, name))}
    stands = read_plan(folder)
    new, buried = difference(stands, sources, retry)
    timing.skipped = not new and not buried
    if timing.skipped:
        return stands
    policy, frames = view_policy(recipe, name), dict(zip(videos.ids, videos.frames, strict=True))
    write_about(folder, describe(step))
    with Lease(folder, owner()):
        change = extend_plan(
            folder,
            sources,
            lambda video_id: view_keys(video_id, policy, frames[video_id]),
            shard_views=recipe.plan.shard_views,
            micro_batch=recipe.plan.micro_batch,
            retry=retry,
        )
    LOG.info(
        "plan %s: %d new videos in %d new shards, %d tombstones",
        name,
        len(change.new_videos),
        len(change.new_shards),
        len(change.tombstones),
    )
    return read_plan(folder)
