"""Which steps train what, in every schedule."""

from itertools import pairwise

import pytest

from pipeline.distill.phases import plan_phases
from pipeline.distill.spec import Objective
from pipeline.errors import ConfigError


def test_progressive_lets_substages_join_while_labels_stay_on() -> None:
    phases = plan_phases("progressive", 700, 0.05, 4, Objective())
    assert [(p.first_step, p.stop) for p in phases] == [(0, 35), (35, 70), (70, 105), (105, 700)]
    assert [p.active for p in phases] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    assert [p.groups for p in phases] == [(), ((1, 2),), ((1, 2), (1, 2, 3)), ((1, 2), (1, 2, 3), (1, 2, 3, 4))]
    assert all(p.spread == p.trained == (1, 2, 3, 4) and p.labels and p.upto is None and p.rise(0) == 1 for p in phases)


def test_frozen_trains_the_first_substages_alone_without_labels() -> None:
    phases = plan_phases("frozen", 100, 0.1, 4, Objective())
    assert [p.trained for p in phases] == [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]
    assert [p.active for p in phases] == [p.spread for p in phases] == [p.trained for p in phases]
    assert [p.upto for p in phases] == [1, 2, 3, None]
    assert [p.labels for p in phases] == [False, False, False, True]


def test_deep_first_trains_the_last_substages() -> None:
    phases = plan_phases("deep_first", 100, 0.1, 4, Objective(combinations="pairs"))
    assert [p.trained for p in phases] == [(4,), (3, 4), (2, 3, 4), (1, 2, 3, 4)]
    assert phases[1].groups == ((3, 4),)
    assert [p.upto for p in phases] == [4, 4, 4, None]


def test_joint_has_one_phase_whose_feature_terms_rise_over_the_first_twentieth() -> None:
    (phase,) = plan_phases("joint", 200, 0.05, 4, Objective())
    assert (phase.first_step, phase.stop, phase.active) == (0, 200, (1, 2, 3, 4))
    assert [phase.rise(step) for step in (0, 4, 9, 10, 199)] == [0.1, 0.5, 1.0, 1.0, 1.0]


def test_a_phase_without_an_active_term_does_not_exist() -> None:
    only_comb = Objective(lambda_corr=0, lambda_dist=0)
    phases = plan_phases("frozen", 100, 0.1, 4, only_comb)
    assert [p.trained for p in phases] == [(1, 2), (1, 2, 3), (1, 2, 3, 4)]
    assert [(p.index, p.first_step, p.stop) for p in phases] == [(0, 0, 10), (1, 10, 20), (2, 20, 100)]
    assert len(plan_phases("progressive", 100, 0.1, 4, only_comb)) == 4


@pytest.mark.parametrize("schedule", ["progressive", "frozen", "deep_first", "joint"])
def test_without_staged_terms_there_is_nothing_to_stage(schedule: str) -> None:
    for objective in (Objective(method="kd"), Objective(lambda_corr=0, lambda_comb=0, lambda_dist=0)):
        (phase,) = plan_phases(schedule, 100, 0.1, 4, objective)
        assert (phase.first_step, phase.stop, phase.groups, phase.labels) == (0, 100, (), True)


def test_early_phases_have_at_least_one_step_and_leave_some_for_the_last() -> None:
    phases = plan_phases("progressive", 5, 0.05, 4, Objective())
    assert [(p.first_step, p.stop) for p in phases] == [(0, 1), (1, 2), (2, 3), (3, 5)]
    with pytest.raises(ConfigError, match="leave none for the last of 4 phases"):
        plan_phases("progressive", 3, 0.05, 4, Objective())
    with pytest.raises(ConfigError, match="phases of 40 steps"):
        plan_phases("frozen", 100, 0.4, 4, Objective())


def test_phases_cover_each_step_once() -> None:
    phases = plan_phases("frozen", 37, 0.1, 3, Objective())
    assert [phase.stop - phase.first_step for phase in phases] == [3, 3, 31]
    assert [phase.index for phase in phases] == [0, 1, 2]
    assert phases[0].first_step == 0
    assert phases[-1].stop == 37
    assert all(a.stop == b.first_step for a, b in pairwise(phases))


def test_explicit_groups_are_checked_against_the_network() -> None:
    phases = plan_phases("progressive", 100, 0.1, 4, Objective(combinations=((1, 4), (2, 3))))
    assert [p.groups for p in phases] == [(), (), ((2, 3),), ((1, 4), (2, 3))]
    with pytest.raises(ConfigError, match="5"):
        plan_phases("progressive", 100, 0.1, 4, Objective(combinations=((1, 5),)))
