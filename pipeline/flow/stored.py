"""Targets artefacts as they are stored, with all that is needed to check them: how made, what planned, by whom."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.artifacts.files import folders
from pipeline.artifacts.layout import read_about
from pipeline.flow.build import device, manifest_root
from pipeline.flow.context import Context
from pipeline.flow.plans import manifest_step, plan_step
from pipeline.flow.precompute import frames_step
from pipeline.flow.targets import VERSION
from pipeline.flow.teacher_stage import TeacherJob
from pipeline.manifest.plan import Plan, read_plan
from pipeline.manifest.table import read_manifest
from pipeline.targets.codec import Codec


@dataclass(frozen=True)
class Stored:
    """One targets artefact of one plan: how it was made, as its about.json says, and what it should hold."""

    plan: str
    folder: Path
    fields: Mapping[str, Any]
    teacher: Path
    planned: Plan
    frames: Path
    paths: Mapping[str, str]

    @property
    def codec(self) -> Codec:
        said = dict(self.fields["codec"])
        return Codec(**said | {"temperatures": tuple(said.get("temperatures", ()))})

    @property
    def job(self) -> TeacherJob:
        """As recorded; on the CPU where the recorded accelerator is not here."""
        how = {name: self.fields[name] for name in ("dtype", "threads", "compile")}
        return TeacherJob(str(self.teacher), self.fields["micro_batch"], self.device, codec=self.codec, **how)

    @property
    def device(self) -> str:
        return self.fields["device"] if device("auto") == "cuda" else "cpu"

    def name(self, shard: str) -> str:
        return f"{self.plan} {self.folder.name[:8]} {shard}"


def stored_targets(context: Context, plan: str) -> Iterator[Stored]:
    """Targets over the recipe's frames, whichever teacher made them; a cascade's own networks are left out."""
    frames, planned = frames_step(context, plan), read_plan(plan_step(context.recipe, plan).folder(context.workspace))
    manifest = read_manifest(manifest_step(context.recipe).folder(context.workspace))
    root = manifest_root(context.recipe)
    uris = zip(*(manifest.table.column(n).to_pylist() for n in ("video_id", "uri")), strict=True) if manifest else ()
    paths = {video: f"{root}/{uri}" for video, uri in uris}
    for folder in folders(context.workspace.store("targets", "x").parent):
        about = read_about(folder)
        ours = about.get("version") == VERSION and about.get("inputs", {}).get("frames") == frames.key
        if ours and about.get("by") != "cascade":
            teacher = context.workspace.store("models", about["inputs"]["teacher"])
            place = frames.folder(context.workspace)
            yield Stored(plan, folder, about["fields"], teacher, planned, place, paths)
