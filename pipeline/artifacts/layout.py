"""Where things lie in a workspace: one store of artefacts under their keys, and runs that refer to them.

<workspace>/store/<kind>/<key>/     every artefact once; about.json holds readable names
<storage.root>/<kind>/<key>/        the same where the recipe keeps the store elsewhere
<workspace>/runs/<name>/            one run: recipe, summary, report, references to keys
<workspace>/mlflow.db               default tracking store
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.artifacts.files import create_if_absent, read_if_present
from pipeline.artifacts.identity import canonical_json
from pipeline.artifacts.places import place
from pipeline.errors import ConfigError, InputError

SCHEMA = "1.0"
REFERENCES = "references.json"  # in a run's folder: the keys of all artefacts that it stands on
KINDS = (
    "manifest",
    "plan",
    "frames",
    "targets",
    "features",
    "statistics",
    "labels",
    "models",
    "evaluation",
    "export",
    "sweep",
    "gate",
)


def check_version(found: object, what: str) -> None:
    """InputError where version `found` ("major.minor") has another major than ours; every minor of ours is read."""
    if not isinstance(found, str) or not re.fullmatch(r"\d+\.\d+", found):
        raise InputError(f"{what} names no schema version that can be read ({found!r}): was it written by stagedkd?")
    ours = SCHEMA.partition(".")[0]
    if found.partition(".")[0] != ours:
        raise InputError(
            f"{what} has schema {found}; this version of stagedkd reads schema {ours}.x (it writes {SCHEMA}). "
            "Use the version that wrote it, or another workspace."
        )


def write_about(folder: Path, about: Mapping[str, Any]) -> bool:
    """Write about.json, the readable facts of an artefact, unless it exists. False: it was there, and is kept."""
    text = json.dumps(json.loads(canonical_json(dict(about))), indent=2, sort_keys=True)
    return create_if_absent(folder / "about.json", f"{text}\n".encode())


def read_about(folder: Path) -> dict[str, Any]:
    """What about.json says of the artefact in `folder`; {} where none was written. InputError where it is damaged."""
    return read_json(folder / "about.json") or {}


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where the file does not exist. InputError where it is not a JSON object."""
    data = read_if_present(path)
    return None if data is None else parse_json(data, path)


def parse_json(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `data`, which was read from `path`. InputError where it is none."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete it, and what it described is made again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (not a JSON object): delete it, and what it described is made again")
    return value


def _claim(folder: Path, what: str) -> None:
    """Note the schema in a folder that has none yet, and check the one that stands."""
    marker = folder / "workspace.json"
    create_if_absent(marker, canonical_json({"schema": SCHEMA}).encode())
    check_version((read_json(marker) or {}).get("schema"), what)


@dataclass(frozen=True)
class Workspace:
    """A folder with store/ and runs/. Use `Workspace.open`, which checks the version.

    `elsewhere`: the store's folder or s3:// address where it is not `root`/store.
    """

    root: Path
    elsewhere: Path | None = None
    touched: set[str] = field(default_factory=set, compare=False, repr=False)  # keys asked for: a run's references

    @classmethod
    def open(cls, root: str | Path, store: str | Path | None = None) -> Self:
        """Create the workspace (and the `store` elsewhere) where there is none; refuse one of another major schema
        (InputError names both)."""
        path = Path(root).absolute()
        if path.exists() and not path.is_dir():
            raise InputError(f"workspace {path} is a file; name a folder")
        _claim(path, f"workspace {path}")
        elsewhere = None if store is None else place(store)
        if elsewhere is not None:
            _claim(elsewhere, f"store {elsewhere}")
        return cls(path, elsewhere)

    @property
    def store_root(self) -> Path:
        """The folder of all kinds."""
        return self.elsewhere or self.root / "store"

    def store(self, kind: str, key: str) -> Path:
        """The folder of one artefact (made by the first write into it)."""
        assert kind in KINDS, f"{kind!r} is none of {KINDS}"
        assert re.fullmatch(r"[\w.-]+", key), f"{key!r} is not a key"
        self.touched.add(key)
        return self.store_root / kind / key

    def run(self, name: str) -> Path:
        """The folder of one run. ConfigError where the name is not one plain folder name."""
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ConfigError(f"run.name: {name!r} cannot be a folder name; use letters, digits, '-', '_' and '.'")
        return self.root / "runs" / name

    @property
    def tracking_uri(self) -> str:
        """MLflow's default store in this workspace."""
        return f"sqlite:///{self.root / 'mlflow.db'}"
