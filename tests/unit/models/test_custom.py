import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.registry import build_network, count_parameters
from pipeline.models.spec import NetworkSpec

CLASSES = ("a", "b")
CODE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_classes, width, channels=3):
        super().__init__()
        self.first = nn.Conv3d(channels, width, 3, padding=1)
        self.tokens = nn.Flatten(2)
        self.last = nn.Linear(width, num_classes)

    def forward(self, clip):
        if float(clip.sum()) != float(clip.sum()):  # looks at values, as a user's code may
            raise ValueError("not a number")
        tokens = self.tokens(self.first(clip)).transpose(1, 2)
        return self.last(torch.cat([tokens[:, :1], tokens], 1).mean(1))

def make(num_classes, width=5, channels=3):
    return Mine(num_classes, width, channels)

def no_module(num_classes):
    return [num_classes]

def wrong_logits(num_classes):
    return Mine(num_classes + 1, 5)
"""


@pytest.fixture(autouse=True)
def user_code(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_users_network_gets_its_options_and_is_cut_where_the_recipe_says():
    spec = NetworkSpec("my_networks:make", CLASSES, {"width": 7, "taps": ["first"]})
    network = build_network(spec).eval()
    raster = torch.zeros(3, 2, 6, 6, 3, dtype=torch.uint8)

    output = network(raster)

    assert network.dims == (7,)
    assert output.logits.shape == (3, 2)
    assert network.head_path == "last"
    assert len(network.parameters_of(1, 1)) == 4
    assert count_parameters(spec) == 7 * 3 * 27 + 7 + 7 * 2 + 2


def test_grey_clips_reach_a_users_network_with_one_channel():
    spec = NetworkSpec("my_networks:make", CLASSES, {"channels": 1, "taps": ["first"]}, {"grey": True})

    assert build_network(spec).body.first.in_channels == 1


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("my_networks:make", {}, r"name the modules to cut at in its option `taps` \(its parts: first, tokens, last\)"),
        ("my_networks:make", {"taps": ["frist"]}, "no module 'frist' to cut at; did you mean 'first'"),
        ("my_networks:mak", {"taps": ["first"]}, "has no 'mak'; did you mean 'make'"),
        ("my_network:make", {"taps": ["first"]}, "no module 'my_network'; is its folder on PYTHONPATH"),
        ("my_networks:no_module", {"taps": ["first"]}, "gives a list; it must give an nn.Module"),
        ("my_networks:wrong_logits", {"taps": ["first"]}, r"gives \(2, 3\) for 2 clips; logits must be \(2, 2\)"),
    ],
)
def test_what_does_not_fit_is_said_when_the_network_is_built(model, options, said):
    with pytest.raises(ConfigError, match=said):
        build_network(NetworkSpec(model, CLASSES, options))


def test_an_import_error_inside_the_users_module_is_shown_as_it_is(tmp_path):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")

    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        build_network(NetworkSpec("needs_more:make", CLASSES, {"taps": ["first"]}))
