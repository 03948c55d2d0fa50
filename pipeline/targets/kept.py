"""How much of a teacher's KL is left when only its k largest logits are stored: of whole logits, in float64.

n views, C classes. The loss of top-k targets is the KL over k + 1 events (`losses.topk`), never above the dense one.
How much of it is left depends on the teacher, on τ, on standardisation, which flattens the teacher, and on the student.
Two students stand for the ends of a training: one that knows nothing yet (all logits alike), and one that is as sure as
the teacher of something else (the teacher's own row of another view).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.targets.topk import VARIANCE_FLOOR

ENOUGH = 0.9
UNTRAINED, WRONG = "untrained", "wrong"


@dataclass(frozen=True)
class Kept:
    """`share`: the smaller of both students' kept shares, which `students` has by name; `enough`: the smallest k that
    keeps ENOUGH of both on these views (C keeps all). `views`: n."""

    share: float
    students: dict[str, float]
    enough: int
    k: int
    classes: int
    temperature: float
    standardize: bool
    views: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def kept_share(logits: np.ndarray, k: int, *, temperature: float, standardize: bool) -> Kept:
    """Of whole logits (n, C), n ≥ 1 and k ≤ C: Σ_i KL_i over the k + 1 events / Σ_i KL_i over all C classes.

    KL_i = KL(softmax(t_i/τ) ‖ softmax(s_i/τ)), t and s z-scored first where `standardize`. Untrained: s = 0. Wrong: s_i
    is the teacher's row of the view half of them further on (left out for one view). A student whose KL is zero on all
    views has nothing to lose: share 1.
    """
    teacher = logits.astype(np.float64)
    students = {UNTRAINED: np.zeros_like(teacher)}
    if len(teacher) > 1:
        students[WRONG] = np.roll(teacher, len(teacher) // 2, axis=0)
    if standardize:
        students, teacher = {name: _scores(values) for name, values in students.items()}, _scores(teacher)
    curves = {name: _curve(teacher / temperature, values / temperature) for name, values in students.items()}
    classes = teacher.shape[1]
    shares = {name: float(curve[min(k, classes) - 1]) for name, curve in curves.items()}
    worst = np.minimum.reduce(list(curves.values()))
    enough = int(np.argmax(worst >= ENOUGH)) + 1
    return Kept(min(shares.values()), shares, enough, k, classes, temperature, standardize, len(teacher))


def _curve(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Kept share (C,) for k = 1, …, C. With the classes in the teacher's order the k-th coarse KL is
    Σ_{c≤k} p_c log(p_c/q_c) + P_k log(P_k/Q_k), P_k and Q_k being what is left of both."""
    order = np.argsort(-teacher, axis=1, kind="stable")
    log_p, log_q = (np.take_along_axis(_log_softmax(values), order, axis=1) for values in (teacher, student))
    terms = np.exp(log_p) * (log_p - log_q)
    rest_p, rest_q = (_log_rest(values) for values in (log_p, log_q))
    rest = np.zeros_like(terms)
    rest[:, :-1] = np.exp(rest_p) * (rest_p - rest_q)
    coarse, dense = (terms.cumsum(axis=1) + rest).sum(axis=0), terms.sum()
    return coarse / dense if dense > 1e-12 * len(teacher) else np.ones(teacher.shape[1])


def _log_rest(ordered: np.ndarray) -> np.ndarray:
    """log of the probability of all classes after the k-th, (n, C - 1), for k = 1, …, C - 1."""
    return np.logaddexp.accumulate(ordered[:, ::-1], axis=1)[:, ::-1][:, 1:]


def _scores(logits: np.ndarray) -> np.ndarray:
    """As `losses.logits.standardize_logits`."""
    centred = logits - logits.mean(axis=1, keepdims=True)
    return centred / np.sqrt(logits.var(axis=1, ddof=min(1, logits.shape[1] - 1), keepdims=True) + VARIANCE_FLOOR)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
