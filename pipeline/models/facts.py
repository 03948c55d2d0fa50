"""model.json of a saved network or labeler, read without torch."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputError

TENSORS, FACTS = "model.safetensors", "model.json"
SCHEMA = "1.0"


def read_facts(folder: Path) -> dict[str, Any]:
    """model.json of a saved network. Raises InputError where there is none that can be read, or its schema is newer."""
    path = folder / FACTS
    if not path.is_file():
        raise InputError(f"{folder} holds no {FACTS}: a saved network is a folder with {TENSORS} and {FACTS}")
    try:
        facts = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}): copy the network anew") from error
    if str(facts.get("schema")).split(".")[0] != SCHEMA.split(".")[0]:
        raise InputError(f"{path} has schema {facts.get('schema')!r}, this version reads {SCHEMA}: update stagedkd")
    return facts
