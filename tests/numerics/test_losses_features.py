"""Baseline feature losses and distribution terms against float64 loops written from the published definitions."""

import itertools
import math

import pytest
import torch

from pipeline.losses import (
    HintRegressor,
    attention_transfer,
    distribution_term,
    fitnet_hint,
    neuron_selectivity,
    probabilistic_transfer,
    relational_angle,
    relational_distance,
    similarity_preserving,
)

B = 5
Row = list[float]


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def unit(row: Row) -> Row:
    return [value / math.sqrt(dot(row, row)) for value in row]


def huber(a: float, b: float) -> float:
    gap = abs(a - b)
    return gap**2 / 2 if gap < 1 else gap - 0.5


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


Z_S, Z_T = draw(1, B, 3), draw(2, B, 4)
S, T = Z_S.tolist(), Z_T.tolist()


def test_similarity_preserving() -> None:
    grams = [[unit([dot(a, b) for b in z]) for a in z] for z in (S, T)]
    expected = sum((grams[0][i][j] - grams[1][i][j]) ** 2 for i in range(B) for j in range(B)) / B**2
    assert float(similarity_preserving(Z_S, Z_T)) == pytest.approx(expected, rel=1e-10)


def test_relational_distance() -> None:
    distances = [[[math.dist(a, b) for b in z] for a in z] for z in (S, T)]
    means = [mean([d[i][j] for i in range(B) for j in range(B) if i != j]) for d in distances]
    pairs = itertools.product(range(B), repeat=2)
    expected = mean([huber(distances[0][i][j] / means[0], distances[1][i][j] / means[1]) for i, j in pairs])
    assert float(relational_distance(Z_S, Z_T)) == pytest.approx(expected, rel=1e-6)


def test_relational_angle() -> None:
    def angle(z: list[Row], i: int, j: int, k: int) -> float:
        if j in (i, k) or (i == k and i == j):
            return 0.0
        edges = [unit([a - b for a, b in zip(z[end], z[j], strict=True)]) for end in (i, k)]
        return dot(*edges)

    triples = itertools.product(range(B), repeat=3)
    expected = mean([huber(angle(S, *triple), angle(T, *triple)) for triple in triples])
    assert float(relational_angle(Z_S, Z_T)) == pytest.approx(expected, rel=1e-8)


def loop_pkt(student: list[Row], teacher: list[Row]) -> float:
    def neighbours(z: list[Row]) -> list[Row]:
        rows = [[(dot(unit(a), unit(b)) + 1) / 2 for b in z] for a in z]
        return [[value / sum(row) for value in row] for row in rows]

    p, q = neighbours(teacher), neighbours(student)
    size = len(p)
    return mean([p[i][j] * math.log(p[i][j] / q[i][j]) for i in range(size) for j in range(size)])


def test_probabilistic_transfer() -> None:
    assert float(probabilistic_transfer(Z_S, Z_T)) == pytest.approx(loop_pkt(S, T), abs=1e-6)


def test_attention_transfer() -> None:
    maps = draw(3, 2, 3, 2, 2, 3), draw(4, 2, 5, 2, 2, 3)
    attention = [
        [unit([mean([c[p] ** 2 for c in sample]) for p in range(12)]) for sample in m.flatten(2).tolist()] for m in maps
    ]
    gaps = [(attention[0][i][p] - attention[1][i][p]) ** 2 for i in range(2) for p in range(12)]
    assert float(attention_transfer(*maps)) == pytest.approx(mean(gaps), rel=1e-10)


def test_neuron_selectivity() -> None:
    maps = draw(5, 2, 3, 2, 2, 3), draw(6, 2, 5, 2, 2, 3)
    s, t = ([[unit(channel) for channel in sample] for sample in m.flatten(2).tolist()] for m in maps)

    def kernel(a: list[list[Row]], b: list[list[Row]]) -> float:
        return mean([dot(x, y) ** 2 for i in range(2) for x in a[i] for y in b[i]])

    expected = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    assert float(neuron_selectivity(*maps)) == pytest.approx(expected, rel=1e-10)


def test_maps_of_another_extent_are_averaged_down() -> None:
    small, large = draw(7, 2, 3, 2, 2, 2), draw(8, 2, 4, 4, 2, 4)
    halved = torch.stack(
        [large[:, :, 2 * i : 2 * i + 2, :, 2 * j : 2 * j + 2].mean((2, 4)) for i in range(2) for j in range(2)], -1
    )
    pooled = halved.unflatten(-1, (2, 2)).permute(0, 1, 3, 2, 4)
    torch.testing.assert_close(attention_transfer(small, large), attention_transfer(small, pooled))
    torch.testing.assert_close(neuron_selectivity(large, small), neuron_selectivity(pooled, small))


def test_hint_is_the_mean_squared_error_of_a_pointwise_regression() -> None:
    regressor = HintRegressor(3, 4, torch.Generator().manual_seed(0)).double()
    student, teacher = draw(9, 2, 3, 1, 2, 2), draw(10, 2, 4, 1, 2, 2)
    convolved = torch.nn.functional.conv3d(student, regressor.weight[:, :, None, None, None], regressor.bias)
    pairs = zip(convolved.flatten().tolist(), teacher.flatten().tolist(), strict=True)
    expected = mean([(a - b) ** 2 for a, b in pairs])
    assert regressor(student, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert fitnet_hint(convolved, teacher).item() == pytest.approx(expected, rel=1e-10)
    assert regressor(Z_S, Z_T).shape == ()


MEAN, SD = [0.5, -1.0, 2.0, 0.0], [2.0, 0.25, 1e-4, 1.0]  # channel 3 of 4 is dead: 1e-4 < 1e-3 · 2
LIVE = (0, 1, 3)


def term(name: str) -> tuple[torch.nn.Module, list[Row], list[Row]]:
    """The term, r(z^S) and the standardised teacher, both on the live channels."""
    built = distribution_term(name, 3, 4, MEAN, SD, generator=torch.Generator().manual_seed(0)).double()
    weight = built.weight.tolist()
    predicted = [[dot(row, z) for row in weight] for z in S]
    target = [[(z[c] - MEAN[c]) / SD[c] for c in LIVE] for z in T]
    return built, predicted, target


def test_gaussian_predictor_is_the_negative_log_density() -> None:
    built, predicted, target = term("gaussian")
    with torch.no_grad():
        built.rho.copy_(torch.tensor([-1.0, 0.3, 2.0]))
    variance = [math.log1p(math.exp(rho)) + 1e-3 for rho in (-1.0, 0.3, 2.0)]
    errors = [mean([(target[i][c] - predicted[i][c]) ** 2 for i in range(B)]) for c in range(3)]
    expected = mean([0.5 * (e / v + math.log(v)) for e, v in zip(errors, variance, strict=True)])
    output = built(Z_S, Z_T)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert output.r2.item() == pytest.approx(1 - mean(errors), rel=1e-5)


def test_moments() -> None:
    built, predicted, target = term("moments")
    gaps = []
    for c in range(3):
        moments = []
        for side in (predicted, target):
            column = [row[c] for row in side]
            centre = mean(column)
            moments.append((centre, math.sqrt(mean([(value - centre) ** 2 for value in column]) + 1e-6)))
        gaps.append((moments[0][0] - moments[1][0]) ** 2 + (moments[0][1] - moments[1][1]) ** 2)
    assert built(Z_S, Z_T).loss.item() == pytest.approx(mean(gaps), rel=1e-5)


def test_mmd() -> None:
    built, predicted, target = term("mmd")
    s, t = [unit(row) for row in predicted], [unit(row) for row in target]

    def kernel(a: list[Row], b: list[Row]) -> float:
        return mean([dot(x, y) ** 2 for x in a for y in b])

    expected = kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)
    assert built(Z_S, Z_T).loss.item() == pytest.approx(expected, rel=1e-5)


def test_pkt_term() -> None:
    built, predicted, target = term("pkt")
    assert built(Z_S, Z_T).loss.item() == pytest.approx(loop_pkt(predicted, target), abs=1e-6)
