"""Numbers of a running precompute job on the head's Prometheus endpoint, where they are called ray_stagedkd_…"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

GAUGES = {
    "clips_per_second": "Clips per second, over the job so far",
    "in_flight": "Micro-batches that were issued and did not come back yet",
    "open_shards": "Shards of which some micro-batches came back",
    "teacher_waited_share": "Share of time in which the teacher's actors had nothing to do",
}
COUNTERS = {
    "clips_total": "Clips that went through",
    "decode_seconds_total": "Seconds of decoding, over all actors",
    "teacher_seconds_total": "Seconds of the teachers' forward passes, over all actors",
    "retries_total": "Retries after trouble with storage or memory",
}
REASON = "quarantined_total"


class Metrics:
    """Tagged with the job's step; `show` takes totals and says what changed since."""

    def __init__(self, step: str) -> None:
        self._tags = {"step": step}
        self._gauges = {name: Gauge(f"stagedkd_{name}", text, ("step",)) for name, text in GAUGES.items()}
        self._counters = {name: Counter(f"stagedkd_{name}", text, ("step",)) for name, text in COUNTERS.items()}
        self._reasons = Counter(f"stagedkd_{REASON}", "Quarantined videos by reason", ("step", "reason"))
        self._shown: dict[str, float] = {}

    def show(self, values: Mapping[str, float], quarantined: Mapping[str, int]) -> None:
        """Gauges as they are now, counters up to these totals."""
        for name, gauge in self._gauges.items():
            gauge.set(values[name], self._tags)
        for name, counter in self._counters.items():
            self._add(counter, name, values[name], self._tags)
        for reason, count in quarantined.items():
            self._add(self._reasons, f"{REASON}/{reason}", count, {**self._tags, "reason": reason})

    def _add(self, counter: Counter, name: str, total: float, tags: dict[str, str]) -> None:
        more = total - self._shown.get(name, 0.0)
        if more > 0:
            counter.inc(more, tags)
            self._shown[name] = total
