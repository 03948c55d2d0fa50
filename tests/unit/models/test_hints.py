import pytest

from pipeline.errors import ConfigError
from pipeline.models.hints import did_you_mean, nearest, read_options, triple, whole


def test_the_nearest_name_is_found_whatever_the_case():
    assert nearest("HUGING", ["kicking", "Hugging", "pointing"]) == ["Hugging"]
    assert did_you_mean("zzz", ["kicking"]) == ""


def test_an_unknown_option_names_the_nearest_and_all():
    with pytest.raises(ConfigError, match=r"no option 'widht'; did you mean 'width'\? \(its options: depth, width\)"):
        read_options({"widht": 1}, {"width": 2, "depth": 3}, "m")
    assert read_options({"width": 1}, {"width": 2, "depth": 3}, "m") == {"width": 1, "depth": 3}


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None])
def test_what_is_no_positive_whole_number_is_refused(value):
    with pytest.raises(ConfigError, match="whole number of at least 1"):
        whole(value, "x")


def test_one_number_stands_for_three():
    assert triple(2, "x") == (2, 2, 2)
    assert triple([1, 2, 3], "x") == (1, 2, 3)
    with pytest.raises(ConfigError, match="one number, or three"):
        triple([1, 2], "x")
