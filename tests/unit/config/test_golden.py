"""Frozen: every default of an identity field, and the keys of three recipes."""

import json

from pipeline.artifacts.identity import difference
from pipeline.flow import cascade, evaluate, export, labels, plans, precompute, sweep, targets, teacher
from tests.unit.config.golden import DEFAULTS, KEYS, defaults, golden_keys

REWRITE = "then write the golden files anew: python -m tests.unit.config.golden"
# Whose version to raise where a default of a section changes.
VERSIONS = {
    "simulate": "pipeline.manifest.simulate.GENERATOR",
    "manifest": "flow.plans.MANIFEST_VERSION",
    "classes": "flow.cascade.VERSION",
    "plan": "flow.plans.PLAN_VERSION",
    "views": "flow.plans.PLAN_VERSION",
    "teacher": "flow.teacher.FIT_VERSION and GIVEN_VERSION, flow.labels.FOLD_VERSION",
    "assistants": "flow.cascade.VERSION",
    "student": "flow.cascade.VERSION",
    "precompute": "flow.precompute.FRAMES_VERSION, flow.targets.VERSION",
    "labels": "flow.labels.REFINE_VERSION and FOLD_VERSION",
    "cascade": "flow.cascade.VERSION",
    "distill": "flow.cascade.VERSION",
    "train": "flow.cascade.VERSION, flow.teacher.FIT_VERSION, flow.labels.FOLD_VERSION",
    "sweep": "flow.sweep.VERSION",
    "evaluate": "flow.evaluate.VERSION",
    "export": "flow.export.VERSION",
    "report": "no version: the report has no key",
}


def test_defaults_stand_as_they_were() -> None:
    """Keys hold only what differs from a default, so a changed default would give old artefacts a new meaning."""
    golden, now = json.loads(DEFAULTS.read_text()), defaults()
    for section in sorted(golden.keys() | now.keys()):
        changed = difference(golden.get(section, {}), now.get(section, {}))
        old = [line for line in changed if not line.split(": ")[1].startswith("absent")]
        assert not old, f"defaults of {section} changed: {old}: raise {VERSIONS.get(section)}, {REWRITE}"
        assert not changed, f"{section} has new fields {changed}: no version to raise, {REWRITE}"


def test_every_section_with_identity_fields_names_its_version() -> None:
    found = {section for section, fields in defaults().items() if fields}
    assert found == set(VERSIONS)


def test_the_versions_that_the_message_names_exist() -> None:
    named = {
        (plans, "MANIFEST_VERSION"),
        (plans, "PLAN_VERSION"),
        (teacher, "FIT_VERSION"),
        (teacher, "GIVEN_VERSION"),
        (labels, "FOLD_VERSION"),
        (labels, "REFINE_VERSION"),
        (cascade, "VERSION"),
        (precompute, "FRAMES_VERSION"),
        (targets, "VERSION"),
        (sweep, "VERSION"),
        (evaluate, "VERSION"),
        (export, "VERSION"),
    }
    assert all(isinstance(getattr(module, name), int) for module, name in named)


def test_keys_of_three_recipes_stand_as_they_were() -> None:
    """A key that changes without a reason decodes a data set a second time."""
    changed = difference(json.loads(KEYS.read_text()), golden_keys())
    assert not changed, f"keys changed: {changed}; where the recipe or a step version changed on purpose, {REWRITE}"
