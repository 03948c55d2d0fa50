"""What the figures of a run say, in sentences: each difference with its interval and its one word."""

from pipeline.report import words
from pipeline.report.facts import Comparison, NetworkRow, ReportFacts


def best_control(facts: ReportFacts, *, taught: bool | None = None) -> NetworkRow | None:
    """The control with the highest top-1, the one that the student has to beat; of those with this `taught` alone."""
    scored = [row for row in facts.of_role("control") if row.top1 is not None and taught in (None, row.taught)]
    return max(scored, key=lambda row: row.top1 or 0.0) if scored else None


def answers(facts: ReportFacts) -> list[str]:
    """What the teacher buys (student − best control without it) and what staging adds (student − best one with it)."""
    student = first_of(facts, "student")
    if student is None:
        return []
    asked = (("What the teacher buys", False), ("What staging adds", True))
    controls = [(question, best_control(facts, taught=taught)) for question, taught in asked]
    found = [(question, facts.compared(student.name, row.name)) for question, row in controls if row is not None]
    return [f"{question}: {sentence(item)}" for question, item in found if item is not None]


def verdict(facts: ReportFacts) -> list[str]:
    """Each of the student's paired comparisons in a sentence with its word."""
    names = {row.name for row in facts.of_role("student")}
    return [sentence(item) for item in facts.comparisons if item.first in names]


def sentence(item: Comparison) -> str:
    """'student against KD: better, +4.2 points (95 % interval +2.9 to +5.5).'"""
    size = f"{words.points(item.difference)} points ({bounds(item)})"
    return f"{item.first} against {item.second}: {item.word}, {size}."


def caveats(facts: ReportFacts) -> list[str]:
    """What the table cannot say: no share of a gap, one seed."""
    single = facts.networks and all(len(row.replicates) < 2 for row in facts.networks)
    seeds = "One training of each network: the intervals cover videos, not the spread over seeds." if single else ""
    return [text for text in (facts.gap_reason, seeds) if text]


def counted(facts: ReportFacts) -> str:
    """How many test videos stand behind the table, and how many do not."""
    row = first_of(facts, "student") or next(iter(facts.networks), None)
    if row is None or row.videos is None:
        return ""
    views = f" ({words.whole(row.clips)} views)" if row.clips else ""
    text = f"{words.whole(row.videos)} {facts.split} videos{views}."
    if row.quarantined_videos:
        text += f" {words.whole(row.quarantined_videos)} more could not be decoded and are left out"
        wrong = f"; counted as wrong, {row.name} has {words.percent(row.top1_quarantined_wrong)}"
        text += f"{wrong if row.top1_quarantined_wrong is not None else ''}."
    return (
        f"{text} {words.whole(row.unlabelled_videos)} without a label are left out." if row.unlabelled_videos else text
    )


def room_sentences(facts: ReportFacts) -> list[str]:
    """The room of the setting (method §8), from what is known of it."""
    room = facts.room
    if room is None:
        return []
    said = [_room(item) for item in room.against]
    if not room.doubled:
        said.append("A student with twice the steps was not trained: part of the room may be under-training.")
    if room.labeller is not None and room.given_labels is not None:
        better = "more" if room.labeller > room.given_labels else "less"
        said.append(
            f"The labeller (out of fold) is right on {words.percent(room.labeller)} of the training videos, the given "
            f"labels on {words.percent(room.given_labels)}: alone, it knows {better} than the labels."
        )
    return said


def first_of(facts: ReportFacts, role: str) -> NetworkRow | None:
    """The first network of a role."""
    return next(iter(facts.of_role(role)), None)


def bounds(item: Comparison) -> str:
    """'95 % interval +2.9 to +5.5', or why there is none."""
    return f"95 % interval {words.change(item.low, item.high)}" if item.low is not None else item.method


def _room(item: Comparison) -> str:
    left = {
        "better": "there is room",
        "worse": "no room: nothing can be shown here",
        "not distinguishable": "no room is shown: nothing can be shown here",
    }.get(item.word, "without an interval nobody can tell whether there is room")
    return f"{sentence(item).removesuffix('.')}: {left}."
