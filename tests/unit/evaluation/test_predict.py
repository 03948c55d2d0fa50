import numpy as np
import pytest
import torch

from pipeline.errors import JobError
from pipeline.evaluation.predict import by_video, predict, softmax, top_classes
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

CLASSES = ("a", "b", "c")


@pytest.fixture(scope="module")
def network():
    return build_network(NetworkSpec("compact", classes=CLASSES, options={"norm": "batch"}), seed=1)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 8, 32, 32, 3), dtype=np.uint8)


def test_predict_is_the_network_in_eval_mode(network, frames):
    network.train()
    found = predict(network, frames, batch=8)
    assert network.training
    network.eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(frames)).logits.numpy()
    network.train()
    assert found.shape == (5, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_clip_does_not_depend_on_its_neighbours(network, frames):
    together = predict(network, frames, batch=4)
    alone = np.concatenate([predict(network, frames[i : i + 1], batch=4) for i in range(5)])
    np.testing.assert_array_equal(together, alone)
    assert predict(network, frames[:0]).shape == (0, 3)


def test_logits_that_are_not_finite_name_the_clip(network, frames):
    broken = build_network(NetworkSpec("compact", classes=CLASSES), seed=1)
    with torch.no_grad():
        list(broken.parameters())[-1][0] = float("nan")
    with pytest.raises(JobError, match=r"clip 0 \(5 of 5\)"):
        predict(broken, frames)


def test_by_video_sorts_and_averages():
    logits = np.log(np.array([[0.2, 0.8], [0.5, 0.5], [0.6, 0.4]]))
    ids, probabilities = by_video(["z", "b", "z"], logits)
    assert ids == ("b", "z")
    np.testing.assert_allclose(probabilities, [[0.5, 0.5], [0.4, 0.6]])


def test_softmax_with_temperature_does_not_overflow():
    np.testing.assert_allclose(softmax(np.array([2000.0, 0.0]), 1000.0), [np.e**2 / (1 + np.e**2), 1 / (1 + np.e**2)])


def test_top_classes_best_first():
    assert top_classes(np.array([0.1, 0.6, 0.3]), CLASSES, k=2) == [("b", 0.6), ("c", 0.3)]
