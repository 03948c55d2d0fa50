import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.manifest.noise import clean_names, inject, label_fraction

IDS = [f"v{n}" for n in range(4000)]
LABELS = np.arange(4000, dtype=np.int32) % 5


def test_symmetric_noise_hits_its_rate_and_every_other_class_alike() -> None:
    noisy = inject(IDS, LABELS, 5, kind="symmetric", rate=0.4, seed=0)
    steps = np.bincount((noisy - LABELS) % 5, minlength=5) / len(IDS)
    assert steps == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1], abs=0.025)


def test_asymmetric_noise_moves_to_the_next_class() -> None:
    noisy = inject(IDS, LABELS, 5, kind="asymmetric", rate=0.3, seed=0)
    assert set((noisy - LABELS) % 5) == {0, 1}
    assert np.mean(noisy != LABELS) == pytest.approx(0.3, abs=0.025)
    assert noisy[(LABELS == 4) & (noisy != LABELS)].tolist() == [0] * int(np.sum((LABELS == 4) & (noisy != LABELS)))


def test_noise_depends_on_seed_and_video_alone() -> None:
    some = slice(1000, 1500)
    whole = inject(IDS, LABELS, 5, kind="symmetric", rate=0.4, seed=3)
    part = inject(IDS[some], LABELS[some], 5, kind="symmetric", rate=0.4, seed=3)
    np.testing.assert_array_equal(part, whole[some])
    assert not np.array_equal(inject(IDS, LABELS, 5, kind="symmetric", rate=0.4, seed=4), whole)
    less = inject(IDS, LABELS, 5, kind="symmetric", rate=0.2, seed=3)
    assert np.all(whole[less != LABELS] == less[less != LABELS])


def test_unlabelled_stay_unlabelled_and_none_changes_nothing() -> None:
    labels = np.where(np.arange(4000) % 3 == 0, -1, LABELS)
    noisy = inject(IDS, labels, 5, kind="symmetric", rate=0.9, seed=0)
    np.testing.assert_array_equal(noisy < 0, labels < 0)
    copy = inject(IDS, labels, 5, kind="none", rate=0.9, seed=0)
    np.testing.assert_array_equal(copy, labels)
    assert copy is not labels
    with pytest.raises(ConfigError, match=r"manifest\.noise\.kind 'pairs'"):
        inject(IDS, labels, 5, kind="pairs", rate=0.1, seed=0)


def test_label_fractions_are_stratified_nested_and_never_under_two() -> None:
    rare = np.where(np.arange(4000) < 10, 5, LABELS)
    ten, one = (label_fraction(IDS, rare, share, seed=0) for share in (0.1, 0.01))
    counts = {label: int(np.sum(rare == label)) for label in range(6)}
    assert [int(np.sum(ten == label)) for label in range(5)] == [int(np.ceil(counts[c] * 0.1)) for c in range(5)]
    assert int(np.sum(one == 5)) == int(np.sum(ten == 5)) == 2
    assert np.all(ten[one >= 0] == one[one >= 0])
    kept = ten >= 0
    np.testing.assert_array_equal(ten[kept], rare[kept])
    np.testing.assert_array_equal(label_fraction(IDS, rare, 1.0, seed=0), rare)


def test_names_of_labels() -> None:
    assert clean_names(np.array([1, -1, 0]), ("a", "b")) == ["b", None, "a"]
