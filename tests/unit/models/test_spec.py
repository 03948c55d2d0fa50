import json

import pytest

from pipeline.errors import ConfigError
from pipeline.models.spec import NetworkSpec


def test_a_spec_survives_json_and_equals_its_copy():
    spec = NetworkSpec(
        "compact", ("a", "b"), {"widths": (4, 8), "stem": {"stride": (1, 2, 2)}}, {"size": (8, 8)}, "w.pt"
    )

    copy = NetworkSpec.from_json(json.loads(json.dumps(spec.to_json())))

    assert copy == spec
    assert copy.options["stem"]["stride"] == [1, 2, 2]
    assert copy.classes == ("a", "b")


def test_a_class_that_stands_twice_is_refused_by_name():
    with pytest.raises(ConfigError, match="stand twice: jump"):
        NetworkSpec("compact", ("jump", "run", "jump"))


def test_a_value_without_a_json_form_is_refused():
    with pytest.raises(ConfigError, match=r"options of model 'compact', widths"):
        NetworkSpec("compact", ("a",), {"widths": {4, 8}})


def test_a_description_with_missing_and_unknown_keys_names_them():
    said = NetworkSpec("compact", ("a",)).to_json()
    said["labels"] = said.pop("classes")

    with pytest.raises(ConfigError, match="classes, labels"):
        NetworkSpec.from_json(said)
