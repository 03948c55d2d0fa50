"""Frozen: every default of an identity field, and the keys of three recipes."""

import importlib
import json

import pytest

from pipeline.artifacts.identity import difference
from tests.unit.config.golden import DEFAULTS, KEYS, defaults, golden_keys

REWRITE = "then write the golden files anew: python -m tests.unit.config.golden"
FOLDS = "flow.folds.FOLD_VERSION"
# Whose version to raise where a default of a section changes; the report has no key.
VERSIONS: dict[str, tuple[str, ...]] = {
    "simulate": ("manifest.simulate.GENERATOR",),
    "manifest": ("flow.plans.MANIFEST_VERSION",),
    "classes": ("flow.cascade.VERSION",),
    "plan": ("flow.plans.PLAN_VERSION",),
    "views": ("flow.plans.PLAN_VERSION",),
    "teacher": ("flow.teacher.FIT_VERSION", "flow.teacher.GIVEN_VERSION", FOLDS),
    "assistants": ("flow.cascade.VERSION",),
    "student": ("flow.cascade.VERSION",),
    "precompute": ("flow.precompute.FRAMES_VERSION", "flow.targets.VERSION"),
    "labels": ("flow.labels.REFINE_VERSION", FOLDS),
    "cascade": ("flow.cascade.VERSION",),
    "distill": ("flow.cascade.VERSION",),
    "train": ("flow.cascade.VERSION", "flow.teacher.FIT_VERSION", FOLDS),
    "sweep": ("flow.sweep.VERSION",),
    "evaluate": ("flow.evaluate.VERSION",),
    "export": ("flow.export.VERSION",),
    "report": (),
}


def test_defaults_stand_as_they_were() -> None:
    """Keys hold only what differs from a default, so a changed default would give old artefacts a new meaning."""
    golden, now = json.loads(DEFAULTS.read_text()), defaults()
    for section in sorted(golden.keys() | now.keys()):
        changed = difference(golden.get(section, {}), now.get(section, {}))
        old = [line for line in changed if not line.split(": ")[1].startswith("absent")]
        assert not old, (
            f"defaults of {section} changed: {old}: raise {' and '.join(VERSIONS.get(section, ()))}, {REWRITE}"
        )
        assert not changed, f"{section} has new fields {changed}: no version to raise, {REWRITE}"


def test_every_section_with_identity_fields_names_its_version() -> None:
    found = {section for section, fields in defaults().items() if fields}
    assert found == set(VERSIONS)


@pytest.mark.parametrize("name", sorted({name for names in VERSIONS.values() for name in names}))
def test_the_versions_that_the_message_names_exist(name: str) -> None:
    module, _, version = name.rpartition(".")
    assert getattr(importlib.import_module(f"pipeline.{module}"), version) >= 1


def test_keys_of_three_recipes_stand_as_they_were() -> None:
    """A key that changes without a reason decodes a data set a second time."""
    changed = difference(json.loads(KEYS.read_text()), golden_keys())
    assert not changed, f"keys changed: {changed}; where the recipe or a step version changed on purpose, {REWRITE}"
