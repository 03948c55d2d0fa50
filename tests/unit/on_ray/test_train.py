"""What our trainer leaves out of Ray's."""

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from pipeline.on_ray.train import _Trainer


def kinds(trainer: TorchTrainer) -> set[type]:
    return {type(callback) for callback in trainer._create_default_callbacks()}


def test_everything_but_the_cleaner_that_asks_other_clusters() -> None:
    assert kinds(TorchTrainer(print)) - kinds(_Trainer(print)) == {PlacementGroupCleanerCallback}
