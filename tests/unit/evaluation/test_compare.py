import math

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.evaluation.compare import bootstrap_groups_seeds, discordance, holm, paired_difference


def test_t_interval_of_five_replicates():
    first, second = [0.93, 0.92, 0.94, 0.93, 0.93], [0.89, 0.91, 0.88, 0.90, 0.86]
    differences = np.array([0.04, 0.01, 0.06, 0.03, 0.07])
    found = paired_difference(first, second)
    sd = math.sqrt(((differences - 0.042) ** 2).sum() / 4)
    half = 2.7764451052 * sd / math.sqrt(5)  # t(.975, 4 d.f.)
    assert found.mean == pytest.approx(0.042)
    assert found.sd == pytest.approx(sd)
    assert (found.low, found.high) == pytest.approx((0.042 - half, 0.042 + half))
    assert (found.n, found.wins, found.test) == (5, 5, "two-sided, no difference")
    assert half / sd == pytest.approx(1.24, abs=0.005)  # the half-width that the protocol states


def test_the_published_trial_gives_its_p_values():
    """A trial of five replicates: +4.0 ± 2.8 and +6.7 ± 5.2, Holm-adjusted p = .032 both (from rounded figures)."""

    def with_half_width(mean: float, half: float) -> float:
        shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(2.5)  # mean 0, s.d. 1
        return paired_difference(mean + half / 1.2416 * shape, np.zeros(5)).p

    adjusted = holm({"clean": with_half_width(4.0, 2.8), "noisy": with_half_width(6.7, 5.2)})
    assert adjusted["clean"] == pytest.approx(0.032, abs=0.003)
    assert adjusted["noisy"] == pytest.approx(0.032, abs=0.003)


def test_margin_is_a_one_sided_test():
    first, second = [0.90, 0.91, 0.89], [0.90, 0.90, 0.90]
    found = paired_difference(first, second, margin=0.01)
    t = 0.01 / (0.01 / math.sqrt(3))
    assert found.p == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-9)  # exact t tail for 2 d.f.
    assert found.test == "one-sided, not worse by 0.01"


def test_equal_differences_have_no_spread():
    found = paired_difference([0.5, 0.75], [0.25, 0.5])
    assert (found.low, found.high, found.p) == (0.25, 0.25, 0.0)
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p == 1.0


@pytest.mark.parametrize(("first", "second"), [([0.5], [0.4]), ([0.5, 0.6], [0.4])])
def test_replicates_must_pair_and_be_two(first, second):
    with pytest.raises(InputError, match="replicate"):
        paired_difference(first, second)


def test_discordance_counts_and_error():
    first = np.array([1, 1, 1, 1, 0, 0, 1, 0, 1, 1], bool)
    second = np.array([1, 0, 0, 0, 1, 0, 1, 0, 1, 1], bool)
    found = discordance(first, second)
    assert (found.only_first, found.only_second, found.n) == (3, 1, 10)
    assert found.difference == pytest.approx(0.2)
    assert found.error == pytest.approx(0.2)
    assert found.p == pytest.approx(2 * (4 + 1) / 16)
    assert discordance(first, first).p == 1.0


def test_bootstrap_over_groups_and_seeds_by_enumeration():
    # group a: +1 for each of 3 videos, group b: 0 for one, in both seeds: draws are 1 (aa), 3/4 (ab), 0 (bb)
    groups = np.array(list("aaab"))
    first, second = np.array([[1, 1, 1, 1]] * 2, bool), np.array([[0, 0, 0, 1]] * 2, bool)
    wide = bootstrap_groups_seeds(first, second, groups)
    assert (wide.low, wide.high) == (0.0, 1.0)
    narrow = bootstrap_groups_seeds(first, second, groups, level=0.3)
    assert (narrow.low, narrow.high) == (0.75, 0.75)
    assert wide.method == "bootstrap over 2 groups × 2 seeds, 4000 draws"


def test_seeds_are_resampled_too():
    groups = np.array(list("ab"))
    first = np.array([[1, 1], [0, 0]], bool)  # seed 0: +1, seed 1: 0
    found = bootstrap_groups_seeds(first, np.zeros((2, 2), bool), groups)
    assert (found.low, found.high) == (0.0, 1.0)


def test_holm_by_hand():
    found = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.5})
    assert found == pytest.approx({"a": 0.09, "b": 0.04, "c": 0.09, "d": 0.5})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
