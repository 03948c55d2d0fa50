import math

import numpy as np
import pytest
from scipy import stats

from pipeline.errors import InputError
from pipeline.evaluation.compare import bootstrap_groups_seeds, discordance, holm, paired_difference, paired_interval


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


def test_duplicates_of_a_group_do_not_make_a_difference_significant():
    """Eight scenes; seven differ for the first, by one video. Each video ten times: McNemar calls it certain."""
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 8)) < np.array([[0.8], [0.5]])
    groups = np.arange(8)
    many = [np.repeat(values, 10) for values in (first, second, groups)]
    single, tenfold = paired_interval(first, second, groups), paired_interval(*many)
    assert discordance(many[0], many[1]).p < 0.01
    assert single.word == tenfold.word == "not distinguishable"
    assert tenfold.difference == single.difference
    assert tenfold.low < 0 < tenfold.high
    assert tenfold.method == "t over 8 groups"
    assert tenfold.p is None


@pytest.mark.parametrize(
    ("only_first", "only_second", "said"),
    [(5, 0, "not distinguishable"), (6, 0, "better"), (0, 6, "worse"), (7, 1, "not distinguishable"), (8, 1, "better")],
)
def test_independent_videos_agree_with_the_exact_test(only_first, only_second, said):
    first = np.array([True] * only_first + [False] * only_second + [True] * 100)
    second = np.array([False] * only_first + [True] * only_second + [True] * 100)
    found = paired_interval(first, second, np.arange(len(first)))
    assert found.word == said
    assert (found.p < 0.05) == (said != "not distinguishable")
    assert found.method == f"adjusted Wald over {len(first)} paired videos"


def test_adjusted_wald_by_hand():
    first, second = np.array([1, 1, 1, 1, 0, 0, 1, 0, 1, 1], bool), np.array([1, 0, 0, 0, 1, 0, 1, 0, 1, 1], bool)
    p, q = 4 / 12, 2 / 12
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / 12)
    found = paired_interval(first, second, None)
    assert (found.low, found.high) == pytest.approx((p - q - half, p - q + half))
    assert found.difference == pytest.approx(0.2)


def test_few_groups_have_a_difference_and_no_interval():
    found = paired_interval(np.ones(20, bool), np.zeros(20, bool), np.repeat(np.arange(5), 4))
    assert (found.difference, found.low, found.high, found.word) == (1.0, None, None, "no interval")
    assert found.method == "no interval: 5 groups, at least 6 are needed"


def test_equal_groups_are_not_certain():
    found = paired_interval(np.ones(32, bool), np.ones(32, bool), np.repeat(np.arange(8), 4))
    assert found.word == "not distinguishable"
    assert found.low < -0.2
    assert found.high > 0.2


def test_one_row_pairs_with_every_replicate():
    generator = np.random.default_rng(1)
    students, teacher = generator.random((3, 200)) < 0.7, generator.random(200) < 0.9
    found = paired_interval(students, teacher, None)
    assert found.difference == pytest.approx(students.mean() - teacher.mean())
    assert (found.replicates, found.word) == (3, "worse")
    with pytest.raises(InputError, match="3 replicates of one method, 2 of the other"):
        paired_interval(students, students[:2], None)


def test_satterthwaite_by_hand():
    first, second = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool), np.zeros((3, 4), bool)
    second[:, 0] = True
    values = first.astype(float) - second
    seeds, videos = values.mean(axis=1).var(ddof=1) / 3, values.mean(axis=0).var(ddof=1) / 4
    freedom = (seeds + videos) ** 2 / (seeds**2 / 2 + videos**2 / 3)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(seeds + videos)
    found = paired_interval(first, second, None)
    assert (found.low, found.high) == pytest.approx((max(values.mean() - half, -1), min(values.mean() + half, 1)))


@pytest.mark.parametrize("replicates", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.15])
@pytest.mark.parametrize(("groups", "size"), [(100, 1), (10, 6)])
def test_coverage_over_seeds_and_videos(replicates, spread, groups, size):
    """Two methods of equal mean; seeds spread by `spread`, groups by .2 (uniform). Nominal 95."""
    generator = np.random.default_rng(7)
    group_of = np.repeat(np.arange(groups), size)
    hit, draws = 0, 300
    for _ in range(draws):
        rate = 0.5 + generator.uniform(-0.2, 0.2, groups)[group_of]
        first = generator.random((replicates, len(group_of))) < rate + spread * generator.standard_normal(
            (replicates, 1)
        )
        second = generator.random((replicates, len(group_of))) < 0.5 + spread * generator.standard_normal(
            (replicates, 1)
        )
        found = paired_interval(first, second, group_of)
        hit += found.low <= 0 <= found.high
    assert hit / draws >= 0.91


@pytest.mark.parametrize(("groups", "size"), [(200, 1), (6, 8), (12, 5), (20, 5)])
def test_coverage_of_a_paired_difference(groups, size):
    generator = np.random.default_rng(3)
    group_of = np.repeat(np.arange(groups), size)
    hit, draws = 0, 300
    for _ in range(draws):
        rate = generator.uniform(0.4, 0.9, groups)[group_of]
        first = generator.random(len(group_of)) < rate
        second = generator.random(len(group_of)) < rate - generator.uniform(0, 0.2, groups)[group_of]
        found = paired_interval(first, second, group_of, draws=300)
        hit += found.low <= 0.1 <= found.high
    assert hit / draws >= 0.90
