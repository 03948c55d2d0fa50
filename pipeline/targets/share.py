"""The share of videos that cannot be decoded, over those decoded last: a job that meets a broken data set stops."""

from collections import Counter, deque
from dataclasses import dataclass, field

from pipeline.errors import JobError

WINDOW, LEAST, EXAMPLES = 500, 100, 3


@dataclass
class BadShare:
    """Judges the last `WINDOW` videos once there are `LEAST`; more than `limit` of them bad is a JobError."""

    limit: float
    _last: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def note(self, uri: str, reason: str) -> None:
        """One more decoded video; `reason` is empty where all is well."""
        self._last.append((uri, reason))
        if not reason or len(self._last) < LEAST:
            return
        bad = [video for video in self._last if video[1]]
        if len(bad) > self.limit * len(self._last):
            raise JobError(self._message(bad))

    def _message(self, bad: list[tuple[str, str]]) -> str:
        counts = Counter(reason for _, reason in bad)
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        examples = "; ".join(f"{uri} ({reason})" for uri, reason in bad[-EXAMPLES:])
        return (
            f"{len(bad)} of the last {len(self._last)} videos cannot be decoded ({len(bad) / len(self._last):.0%}, "
            f"more than precompute.max_bad_share = {self.limit:g}): {reasons}. For example {examples}. What is "
            "committed stays; mend the files, or raise the limit with --set precompute.max_bad_share=SHARE, and run "
            "the same command again"
        )
