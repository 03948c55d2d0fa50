"""The objective: which terms, with which weights, on what; checked against the loss functions and plain sums."""

from typing import Any

import pytest
import torch

from pipeline.distill.objective import DistillationLoss, TensorBatch, partners
from pipeline.distill.phases import Phase, plan_phases
from pipeline.distill.spec import Objective
from pipeline.errors import ConfigError, InputError
from pipeline.losses import combined_correlation, kl_distillation, similarity_preserving, substage_correlation

DIMS, TEACHER, CLASSES, BATCH = (3, 4, 5, 6), (7, 6, 5, 8), 5, 12


def batch(sources: int = 1, seed: int = 0) -> TensorBatch:
    draw = torch.Generator().manual_seed(seed)
    q = torch.rand(BATCH, CLASSES, generator=draw).softmax(1)
    weight = torch.rand(BATCH, generator=draw)
    teachers = [
        (torch.randn(BATCH, CLASSES, generator=draw), [torch.randn(BATCH, dim, generator=draw) for dim in TEACHER])
        for _ in range(sources)
    ]
    return TensorBatch(torch.empty(0), q, weight, teachers)


def student(seed: int = 9) -> tuple[torch.Tensor, list[torch.Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(BATCH, CLASSES, generator=draw, requires_grad=True)
    return logits, [torch.randn(BATCH, dim, generator=draw, requires_grad=True) for dim in DIMS]


def value(scalar: torch.Tensor) -> float:
    return scalar.detach().item()


def build(objective: Objective, sources: int = 1, **changes: Any) -> DistillationLoss:
    statistics = [(torch.zeros(dim).numpy(), torch.ones(dim).numpy()) for dim in TEACHER]
    fields = {
        "dims": DIMS,
        "classes": CLASSES,
        "source_dims": [TEACHER] * sources,
        "statistics": [statistics] * sources,
        "mean_weight": 0.5,
        "seed": 3,
    }
    return DistillationLoss(objective, **{**fields, **changes})


def last(objective: Objective) -> Phase:
    return plan_phases("progressive", 100, 0.05, 4, objective)[-1]


def test_the_full_objective_is_the_weighted_sum_of_its_published_parts() -> None:
    objective = Objective(lambda_kd=2.0, lambda_corr=3.0, lambda_comb=5.0, lambda_dist=7.0, weighting="fixed")
    loss, given = build(objective), batch()
    logits, features = student()
    found = loss(logits, features, given, last(objective), 50)
    teacher_logits, teacher = given.sources[0]
    ce = -(given.q * logits.log_softmax(1)).sum(1)
    parts = {
        "ce": (given.weight * ce).sum() / BATCH,
        "kd": kl_distillation(logits, teacher_logits, temperature=2.0, standardize=True).mean(),
        "corr": sum(substage_correlation(s, t) for s, t in zip(features, teacher, strict=True)) / 4,
        "comb": sum(combined_correlation(features[:k], teacher[:k]) for k in (2, 3, 4)) / 3,
        "dist": sum(term(s, t).loss for term, s, t in zip(loss.predictors, features, teacher, strict=True)) / 4,
    }
    assert {name: value(part) for name, part in found.parts.items()} == pytest.approx(
        {name: part.item() for name, part in parts.items()}, rel=1e-5
    )
    weights = {"ce": 1, "kd": 2, "corr": 3, "comb": 5, "dist": 7}
    assert found.total.item() == pytest.approx(
        sum(weights[name] * part.item() for name, part in parts.items()), rel=1e-5
    )


def test_early_phases_relate_only_their_substages_and_d_covers_all() -> None:
    objective = Objective(weighting="fixed")
    second = plan_phases("progressive", 100, 0.05, 4, objective)[1]
    given, (logits, features) = batch(), student()
    found = build(objective)(logits, features, given, second, 5)
    pairs = list(zip(features, given.sources[0][1], strict=True))
    assert value(found.parts["corr"]) == pytest.approx(
        value(sum(substage_correlation(*pair) for pair in pairs[:2]) / 2), rel=1e-5
    )
    assert value(found.parts["comb"]) == pytest.approx(
        value(combined_correlation(features[:2], given.sources[0][1][:2])), rel=1e-5
    )
    assert sorted(found.figures) == ["corr_1", "corr_2", "omega_1", "omega_2", "r2_1", "r2_2", "r2_3", "r2_4"]


def test_phases_without_labels_need_no_logits_and_only_their_substages() -> None:
    objective, (_, features) = Objective(), student()
    first = plan_phases("frozen", 100, 0.05, 4, objective)[0]
    loss = build(objective)
    found = loss(None, features[:1], batch(), first, 0)
    assert sorted(found.parts) == ["corr", "dist"]
    assert not loss.uses_logits(first)
    found.total.backward()
    assert loss.predictors[0].weight.grad is not None
    assert loss.predictors[1].weight.grad is None
    deep = plan_phases("deep_first", 100, 0.05, 4, objective)[1]
    assert sorted(build(objective)(None, features, batch(), deep, 0).figures) == sorted(
        f"{name}_{n}" for name in ("corr", "omega", "r2") for n in (3, 4)
    )


def test_a_term_of_weight_zero_is_neither_computed_nor_built() -> None:
    objective = Objective(lambda_corr=0, lambda_comb=0, lambda_dist=0, weighting="uncertainty")
    loss = build(objective)
    logits, features = student()
    found = loss(logits, features, batch(), last(objective), 0)
    assert sorted(found.parts) == ["ce", "kd"]
    assert list(loss.parameters()) == list(loss.buffers()) == loss.groups() == []
    found.total.backward()
    assert all(feature.grad is None for feature in features)


def test_the_warm_up_of_joint_scales_the_feature_terms_only() -> None:
    objective = Objective(weighting="fixed")
    (phase,) = plan_phases("joint", 200, 0.05, 4, objective)
    given, (logits, features) = batch(), student()
    found = build(objective)(logits, features, given, phase, 4)
    parts = {name: value(part) for name, part in found.parts.items()}
    feature_terms = parts["corr"] + 0.5 * parts["comb"] + 0.03 * parts["dist"]
    assert found.total.item() == pytest.approx(parts["ce"] + parts["kd"] + 0.5 * feature_terms, rel=1e-5)


def test_dense_sources_average_their_kl_and_the_newest_gives_the_features() -> None:
    objective, given, (logits, features) = Objective(), batch(sources=3), student()
    loss = build(objective, sources=3)
    found = loss(logits, features, given, last(objective), 0, kept=(0, 2))
    kl = [kl_distillation(logits, source[0], temperature=2.0, standardize=True).mean() for source in given.sources]
    assert value(found.parts["kd"]) == pytest.approx(value(kl[0] + kl[2]) / 2, rel=1e-5)
    newest = given.sources[2][1]
    assert value(found.figures["corr_1"]) == pytest.approx(
        value(substage_correlation(features[0], newest[0])), rel=1e-5
    )


def test_unlabelled_rows_have_kd_and_feature_terms_but_no_cross_entropy() -> None:
    objective, (logits, features) = Objective(), student()
    given = batch()
    given.weight[:] = 0
    given.weight[3] = 1
    found = build(objective)(logits, features, given, last(objective), 0)
    ce = torch.autograd.grad(-(given.q * logits.log_softmax(1)).sum(1)[3] / BATCH, logits)[0]
    assert value(found.parts["ce"]) == pytest.approx(
        value(-(given.q * logits.log_softmax(1)).sum(1)[3] / BATCH), rel=1e-5
    )
    found.total.backward()
    assert (ce.abs().sum(1) > 0).tolist() == [n == 3 for n in range(BATCH)]
    assert logits.grad is not None
    assert (logits.grad.abs().sum(1) > 0).all()
    assert all((feature.grad.abs().sum(1) > 0).all() for feature in features)  # type: ignore[union-attr]


def test_of_a_fixed_labelled_share_the_cross_entropy_is_the_mean_of_the_drawn_rows() -> None:
    objective, (logits, features) = Objective(lambda_ce=0.5), student()
    given = batch()
    given.weight[:3] = 1
    found = build(objective)(logits, features, given._replace(drawn=3), last(objective), 0)
    ce = -(given.q * logits.log_softmax(1)).sum(1)[:3]
    assert value(found.parts["ce"]) == pytest.approx(value(ce.mean()), rel=1e-5)
    kd = kl_distillation(logits, given.sources[0][0], temperature=2.0, standardize=True).mean()
    assert value(found.parts["kd"]) == pytest.approx(value(kd), rel=1e-5), "KD runs over all rows"
    without = build(Objective(lambda_ce=0.0))(logits, features, given._replace(drawn=3), last(objective), 0)
    assert "ce" not in without.parts
    assert value(found.total - without.total) == pytest.approx(0.5 * value(ce.mean()), rel=1e-4)


def test_several_teachers_count_by_their_weights_whatever_is_dropped() -> None:
    objective, given, (logits, features) = Objective(), batch(sources=2), student()
    loss = build(objective, sources=2, source_weights=(1.0, 3.0))
    found = loss(logits, features, given, last(objective), 0)
    kl = [kl_distillation(logits, source[0], temperature=2.0, standardize=True).mean() for source in given.sources]
    assert value(found.parts["kd"]) == pytest.approx(value(0.25 * kl[0] + 0.75 * kl[1]), rel=1e-5)


def test_features_stored_in_half_precision_leave_out_what_is_rounding() -> None:
    """A spread of 3e-4 of the mean is within four units in the last place of half floats: noise, and no signal."""
    draw = torch.Generator().manual_seed(4)
    spread = torch.randn(BATCH, 8, generator=draw)
    teacher = [1 + 3e-4 * spread / spread.norm(dim=1, keepdim=True) * 8**0.5] * 4
    objective, (logits, features) = Objective(lambda_dist=0.0), student()
    given = batch()
    given = given._replace(sources=[(given.sources[0][0], teacher)])
    same = {"source_dims": [(8, 8, 8, 8)], "statistics": [None]}
    exact = build(objective, **same)(logits, features, given, last(objective), 0)
    coarse = build(objective, half_precision=True, **same)(logits, features, given, last(objective), 0)
    assert value(exact.parts["corr"]) > 0.3
    assert value(coarse.parts["corr"]) == value(coarse.parts["comb"]) == 0


def test_without_any_weight_the_labels_are_absent() -> None:
    objective, (logits, features) = Objective(), student()
    loss = build(objective, mean_weight=0.0)
    assert sorted(loss(logits, features, batch(), last(objective), 0).parts) == ["comb", "corr", "dist", "kd"]
    with pytest.raises(ConfigError, match="nothing to learn from"):
        build(Objective(method="supervised"), mean_weight=0.0)


def test_label_smoothing() -> None:
    objective = Objective(method="supervised", label_smoothing=0.2)
    given, (logits, features) = batch(), student()
    loss = build(objective, sources=0, statistics=[])
    found = loss(logits, features, given._replace(sources=[]), last(objective), 0)
    smooth = 0.8 * given.q + 0.2 / CLASSES
    expected = (given.weight * -(smooth * logits.log_softmax(1)).sum(1)).sum() / BATCH
    assert found.total.item() == pytest.approx(value(expected), rel=1e-6)


def test_no_gradient_reaches_a_teacher() -> None:
    for method in ("staged", "dkd", "dist", "sp", "rkd", "pkt"):
        objective, given, (logits, features) = Objective(method=method), batch(), student()
        teacher_logits, teacher = given.sources[0]
        for tensor in (teacher_logits, *teacher):
            tensor.requires_grad_()
        build(objective)(logits, features, given, last(objective), 0).total.backward()
        assert all(tensor.grad is None for tensor in (teacher_logits, *teacher)), method
        assert logits.grad is not None, method


def test_baselines_stand_beside_kd() -> None:
    given, (logits, features) = batch(), student()
    teacher = given.sources[0][1]
    sp = Objective(method="sp", lambda_feature=3.0)
    found = build(sp)(logits, features, given, last(sp), 99)
    expected = sum(similarity_preserving(s, t) for s, t in zip(features, teacher, strict=True)) / 4
    assert value(found.parts["feature"]) == pytest.approx(value(expected), rel=1e-5)
    parts = found.parts
    assert found.total.item() == pytest.approx(value(parts["ce"] + parts["kd"] + 3 * parts["feature"]), rel=1e-5)
    values = {
        m: value(build(Objective(method=m))(logits, features, given, last(Objective(method=m)), 99).total)
        for m in ("kd", "dkd", "dist", "sp", "rkd", "pkt")
    }
    assert len(set(values.values())) == len(values)


def test_dkd_takes_the_teachers_class_where_there_is_no_label() -> None:
    objective, (logits, features) = Objective(method="dkd"), student()
    given = batch()
    loss = build(objective)
    unlabelled = given._replace(weight=torch.zeros(BATCH), q=torch.zeros(BATCH, CLASSES))
    hard = torch.nn.functional.one_hot(given.sources[0][0].argmax(1), CLASSES).float()
    same = given._replace(weight=torch.ones(BATCH), q=hard)
    found = [loss(logits, features, b, last(objective), 0).parts["kd"] for b in (unlabelled, same)]
    assert torch.equal(*found)


def test_partners_of_networks_with_other_numbers_of_substages() -> None:
    assert partners(4, 4) == (0, 1, 2, 3)
    assert partners(4, 8) == (1, 3, 5, 7)
    assert partners(4, 2) == (0, 0, 1, 1)
    assert partners(3, 4) == (1, 2, 3)


def test_extra_parameters_come_from_a_generator_of_their_own() -> None:
    torch.manual_seed(0)
    first = build(Objective())
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    second = build(Objective())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(build(Objective(), seed=4).predictors[0].weight, first.predictors[0].weight)


def test_learnt_weights_have_a_group_of_their_own_and_stay_in_bounds() -> None:
    loss = build(Objective(weighting="uncertainty"))
    predictors, learnt = loss.groups()
    assert (learnt["lr"], [p.shape for p in learnt["params"]]) == (1e-2, [torch.Size([4])])
    assert len(predictors["params"]) == 12
    learnt["params"][0].data[:] = torch.tensor([5.0, -5.0, 0.5, 3.0])
    loss.after_step()
    assert learnt["params"][0].tolist() == [3.0, -3.0, 0.5, 3.0]


def test_wiring_is_checked_when_it_is_built() -> None:
    with pytest.raises(ConfigError, match="no source of targets"):
        build(Objective(method="kd"), sources=0, statistics=[])
    with pytest.raises(ConfigError, match="has no statistics"):
        build(Objective(), statistics=[None])
    with pytest.raises(ConfigError, match=r"lambda_corr compares features.*set distill.method: kd"):
        build(Objective(), source_dims=[()])
    assert build(Objective(method="kd"), source_dims=[()]).partners == ()
    with pytest.raises(ConfigError, match=r"lagging.*lambda_dist"):
        build(Objective(weighting="lagging", lambda_dist=0))
    with pytest.raises(ConfigError, match="standardize"):
        build(Objective(), classes=2)
    assert build(Objective(standardize=False), classes=2).objective.lambda_kd == 1
    with pytest.raises(InputError, match="another teacher"):
        build(Objective(), statistics=[[(torch.zeros(1), torch.ones(1))] * 4])


@pytest.mark.parametrize("weighting", ["ema", "uncertainty", "fixed", "lagging", "dwa"])
@pytest.mark.parametrize("distribution", ["gaussian", "moments", "mmd", "pkt"])
def test_every_policy_meets_every_distribution_term(weighting: str, distribution: str) -> None:
    objective = Objective(weighting=weighting, distribution=distribution)
    loss, (logits, features) = build(objective), student()
    for phase in plan_phases("progressive", 100, 0.05, 4, objective):
        total = loss(logits, features, batch(), phase, phase.first_step).total
        assert torch.isfinite(total)
        total.backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())
