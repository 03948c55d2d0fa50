import torch
from torch import nn

from pipeline.models.trial import evaluating, first_dependence, trial_forward, trial_sizes, trial_state


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1))


def test_sizes_are_the_same_with_and_without_data():
    expected = [("0", (8, 6)), ("1", (4, 3)), ("3", (4, 3))], (1, 5, 4, 3)

    assert trial_sizes(body(), ["0", "1", "3"], (1, 3, 8, 6)) == expected
    assert trial_sizes(body(), ["0", "1", "3"], (1, 3, 8, 6), shapes_only=True) == expected


def test_a_trial_leaves_statistics_and_modes_alone():
    module = body()
    module[0].eval()

    trial_sizes(module, ["0"], (2, 3, 8, 8))

    assert int(module[2].num_batches_tracked) == 0
    assert [part.training for part in module] == [False, True, True, True]


def test_each_parameter_belongs_to_the_first_feature_that_depends_on_it():
    module = body()
    parameters, buffers = trial_state(module, shapes_only=False)
    with evaluating(module):
        hidden = trial_forward(module[0], {name[2:]: value for name, value in parameters.items() if name[0] == "0"})
        first = hidden(torch.zeros(1, 3, 4, 4))
        last = trial_forward(module, {**parameters, **buffers})(torch.zeros(1, 3, 4, 4))

    assert first_dependence([first, last], parameters) == {
        "0.weight": 1,
        "0.bias": 1,
        "2.weight": 2,
        "2.bias": 2,
        "3.weight": 2,
        "3.bias": 2,
    }
    assert all(value.grad is None for value in module.parameters())
