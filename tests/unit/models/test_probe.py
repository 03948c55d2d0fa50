"""The probe: logistic regression on a frozen backbone's features, as a network like any other."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.frame import describe
from pipeline.models.frozen import FrozenPart
from pipeline.models.network import VideoNetwork
from pipeline.models.probe import FIXED, fit_probe, head_of
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network

CLASSES, FRAMES = ("a", "b", "c"), 4
OPTIONS = {"backbone": "mobilenet_v3_small", "head": "probe", "num_frames": FRAMES, "frozen": True}


@pytest.fixture(scope="module")
def network() -> VideoNetwork:
    return build_network(NetworkSpec("frame", CLASSES, OPTIONS), seed=0).eval()


def clips(videos: int, views: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rasters (R,T,32,32,3) whose colour gives the class, the video of each, labels (V,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % 3
    video = np.arange(videos).repeat(views)
    colour = 60 + 130 * np.eye(3)[labels[video]]
    noise = rng.normal(0, 25, (len(video), FRAMES, 32, 32, 3))
    return np.clip(colour[:, None, None, None] + noise, 0, 255).astype(np.uint8), video, labels


def stored(part: FrozenPart, raster: np.ndarray, kind: type = np.float16) -> np.ndarray:
    return np.concatenate([part(raster[start : start + 8]) for start in range(0, len(raster), 8)]).astype(kind)


def evenly(labels: np.ndarray, of: int = 3) -> dict[str, object]:
    """One-hot labels of weight 1, in groups of neighbours."""
    q = np.eye(3, dtype=np.float32)[labels]
    return {"q": q, "weight": np.ones(len(labels), np.float32), "groups": groups(len(labels), of)}


def groups(videos: int, of: int = 3) -> list[str]:
    """Whole rounds of the classes are filmed together."""
    return [f"g{n // of}" for n in range(videos)]


def fitted(network: VideoNetwork, labels: np.ndarray, features: np.ndarray, video: np.ndarray, **changes: object):
    fields = {"q": np.eye(3, dtype=np.float32)[labels], "weight": np.ones(len(labels), np.float32)}
    return fit_probe(head_of(network), features, video, **{**fields, "groups": groups(len(labels)), **changes})


def test_what_is_fitted_on_stored_features_is_what_the_network_says_of_rasters(
    network: VideoNetwork, tmp_path: Path
) -> None:
    raster, video, labels = clips(18)
    part = FrozenPart(network, 8)
    features = np.concatenate([part(raster[start : start + 8]) for start in range(0, len(raster), 8)]).astype(
        np.float16
    )
    choice = fitted(network, labels, features, video)
    assert len(choice.trials) == 15
    assert max(trial.accuracy for trial in choice.trials) > 0.9
    assert "groups of training videos" in choice.reason
    fresh, of, truth = clips(30, 1, seed=9)
    with torch.inference_mode():
        whole, alone = (
            network(torch.from_numpy(fresh)),
            network(torch.from_numpy(np.concatenate([part(fresh[n : n + 8]) for n in range(0, 30, 8)]))),
        )
    assert whole.logits is not None
    assert alone.logits is not None
    torch.testing.assert_close(whole.logits, alone.logits, rtol=1e-4, atol=1e-4)
    assert alone.features == []
    assert (whole.logits.argmax(1).numpy() == truth[of]).mean() > 0.9
    assert [feature.shape[1] for feature in whole.features] == list(network.dims)
    save_network(tmp_path, network, {"saw_labels": True})
    again = load_network(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again(torch.from_numpy(fresh[:4])).logits, network(torch.from_numpy(fresh[:4])).logits)


def test_described_features_are_mean_spread_steps_and_the_frames_in_order() -> None:
    features = torch.tensor([[[1.0, 10.0], [3.0, 20.0], [2.0, 60.0]]])
    found = describe(features, 1)[0]
    assert found[:2].tolist() == [2.0, 30.0]
    torch.testing.assert_close(found[2:4], features[0].std(0, unbiased=False))
    assert found[4:6].tolist() == [1.5, 25.0]
    assert found[6:].tolist() == [10.0, 20.0, 60.0]


def features_of(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    width = 40
    return rng.normal(size=(rows, FRAMES, width)).astype(np.float32)


class Small:
    """A head for features of width 40, the last 8 of which are the embedding."""

    def __new__(cls):
        from pipeline.models.frame import ProbeHead

        return ProbeHead([16, 16, 8], FRAMES, 3)


def test_noise_is_regularised_to_nothing_and_the_same_seed_gives_the_same_weights() -> None:
    """More features than videos and labels without a meaning: left-out accuracy is near chance, and is what is said."""
    labels = np.random.default_rng(1).integers(0, 3, 60)
    heads = [Small(), Small()]
    video = np.arange(60)
    given = {
        "q": np.eye(3, dtype=np.float32)[labels],
        "weight": np.ones(60, np.float32),
        "groups": [f"g{n % 20}" for n in range(60)],
    }
    choices = [fit_probe(head, features_of(60), video, **given) for head in heads]
    assert choices[0] == choices[1]
    assert all(
        torch.equal(a, b) for a, b in zip(heads[0].state_dict().values(), heads[1].state_dict().values(), strict=True)
    )
    assert max(trial.accuracy for trial in choices[0].trials) < 0.6


def test_views_of_a_video_share_its_weight_and_unlabelled_videos_count_nothing() -> None:
    labels = np.arange(30) % 3
    base, video = features_of(30), np.arange(30)
    base[np.arange(30), :, labels] += 2
    one, doubled = Small(), Small()
    fields = {
        "q": np.eye(3, dtype=np.float32)[labels],
        "weight": np.ones(30, np.float32),
        "groups": [f"g{n // 3}" for n in range(30)],
    }
    fit_probe(one, base, video, **fields)
    fit_probe(doubled, base.repeat(3, 0), video.repeat(3), **fields)
    torch.testing.assert_close(one.linear.weight, doubled.linear.weight, rtol=1e-3, atol=1e-4)


def test_too_few_groups_fall_back_to_a_stated_strength() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    fields = {"q": np.eye(3, dtype=np.float32)[labels], "weight": np.ones(6, np.float32)}
    choice = fit_probe(Small(), features_of(6), np.arange(6), groups=["x"] * 6, **fields)
    assert (choice.strength, choice.trials) == (FIXED, ())
    assert "at least 2 groups, one class has 1" in choice.reason
    alone = fit_probe(
        Small(), features_of(6), np.arange(6), groups=list("abcdef"), q=fields["q"][[0] * 6], weight=fields["weight"]
    )
    assert "two classes" in alone.reason


def test_constant_features_and_a_missing_class_are_no_trouble() -> None:
    labels = np.arange(24) % 2
    features = np.zeros((24, FRAMES, 40), np.float32)
    features[:, :, 0] = labels[:, None]
    head = Small()
    fit_probe(
        head,
        features,
        np.arange(24),
        np.eye(3, dtype=np.float32)[labels],
        np.ones(24, np.float32),
        [f"g{n // 2}" for n in range(24)],
    )
    logits = head(torch.from_numpy(features))
    assert torch.isfinite(logits).all()
    assert (logits.argmax(1).numpy() == labels).all()


def test_a_probe_needs_a_frozen_backbone_and_the_number_of_frames() -> None:
    with pytest.raises(ConfigError, match="frozen: true"):
        build_network(NetworkSpec("frame", CLASSES, {**OPTIONS, "frozen": False}), seed=0)
    with pytest.raises(ConfigError, match="num_frames"):
        build_network(NetworkSpec("frame", CLASSES, {**OPTIONS, "num_frames": None}), seed=0)
