"""Losses of staged knowledge distillation and of the methods that it is compared with; the teacher comes second."""

from pipeline.losses.distribution import DistributionOutput, DistributionTerm, GaussianPredictor, distribution_term
from pipeline.losses.features import (
    HintRegressor,
    attention_transfer,
    fitnet_hint,
    neuron_selectivity,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)
from pipeline.losses.gather import average_over_ranks, gather_batch
from pipeline.losses.logits import (
    check_standardizable,
    cross_entropy_soft,
    decoupled_kd,
    dist,
    kl_distillation,
    smooth_labels,
)
from pipeline.losses.relations import (
    RelationRows,
    combination_groups,
    combination_losses,
    combined_correlation,
    correlation_losses,
    relation_rows,
    substage_correlation,
)
from pipeline.losses.topk import Teacher, TopKLogits
from pipeline.losses.weighting import RunningMean, Weighted, WeightPolicy, weight_policy

__all__ = [
    "DistributionOutput",
    "DistributionTerm",
    "GaussianPredictor",
    "HintRegressor",
    "RelationRows",
    "RunningMean",
    "Teacher",
    "TopKLogits",
    "WeightPolicy",
    "Weighted",
    "attention_transfer",
    "average_over_ranks",
    "check_standardizable",
    "combination_groups",
    "combination_losses",
    "combined_correlation",
    "correlation_losses",
    "cross_entropy_soft",
    "decoupled_kd",
    "dist",
    "distribution_term",
    "fitnet_hint",
    "gather_batch",
    "kl_distillation",
    "neuron_selectivity",
    "probabilistic_transfer",
    "relation_rows",
    "relational_angle",
    "relational_distance",
    "similarity_preserving",
    "smooth_labels",
    "substage_correlation",
    "weight_policy",
]
