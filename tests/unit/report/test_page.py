import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.report.facts import (
    Comparison,
    Confusion,
    Curves,
    FlippedLabel,
    NetworkRow,
    PhaseSpan,
    QuarantinedVideo,
    Refinement,
    ReportFacts,
    Room,
    StepTime,
    Table,
)
from pipeline.report.page import confused, counted, room_sentences, tiles, verdict, write_report

EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """Tags, addresses and words of a page; words are in reading order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.addresses += [
            value for name, value in attrs if name in {"src", "href", "srcset", "action", "data", "poster"}
        ]
        self.ids |= {value for name, value in attrs if name == "id"}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _facts() -> ReportFacts:
    teacher = NetworkRow(
        "teacher", "teacher", top1=0.956, flops=412_000_000, latency_ms=11.2, params=450_321, train_steps=500
    )
    student = NetworkRow(
        "student", "student", top1=0.929, low=0.92, high=0.938, interval_method="bootstrap over 40 groups, 2000 draws",
        top5=0.989, ece=0.044, ece_scaled=0.021, nll=0.342, agreement=0.931, clip_top1=0.909, params=12_004,
        flops=10_400_000, latency_ms=1.42, train_steps=1400, videos=4000, clips=12000, quarantined_videos=2,
        top1_quarantined_wrong=0.9285, unlabelled_videos=7,
    )  # fmt: skip
    control = NetworkRow("KD + std.", "control", top1=0.887, flops=10_400_000)
    frames = np.full((8, 32, 32, 3), 90, np.uint8)
    return ReportFacts(
        title=f"Title {EVIL}",
        run="demo-3fa2c91b",
        data={"Test videos": 4000},
        networks=[teacher, student, control, NetworkRow("cross-entropy", "control", top1=0.87)],
        gap_recovered=0.686,
        room=Room(0.956, 0.870, 0.934, given_labels=0.598, labeller=0.541),
        comparisons=[Comparison("student", "KD + std.", 0.042, 0.0068, 420, 252, 4000, 1e-9)],
        curves=[Curves("student", {"Loss": {"loss": ([0, 1], [2.0, 1.0])}}, [PhaseSpan("1", 0, 2)])],
        confusion=[Confusion("student", [EVIL, "walk"], np.array([[8, 2], [1, 9]]))],
        refinement=Refinement(
            "scalar",
            "chosen by the self-test",
            3000,
            684,
            rate=0.38,
            accuracy_before=0.598,
            accuracy_after=0.766,
            precision=0.83,
            recall=0.47,
            self_test=Table("Self-test", ["Candidate", "Gain"], [["scalar", "+14.2"], ["mix", None]]),
            per_class={"run": (3, 4)},
        ),
        flipped=[FlippedLabel(EVIL, "run", "walk", 0.91, "walk", frames)] * 30,
        quarantined=[QuarantinedVideo("test/broken.mp4", "truncated", f"moov atom {EVIL}", "test")],
        quarantined_total=41,
        timings=[StepTime("teacher", 31.8, 64.0), StepTime("sweep", skipped=True), StepTime("cascade", 33.0, 71.2)],
        configuration={"distill": {"schedule": EVIL}},
        keys={"student": "ab" * 32},
        environment={"torch": "2.13.0"},
        notes=["Validation labels are trusted."],
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    path = write_report(tmp_path_factory.mktemp("report") / "new" / "report.html", _facts())
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_the_table_has_the_numbers_in_their_row(page):
    row = re.search(r"student student (.*?) KD \+ std\. control", page.text).group(1)
    expected = "92.9 % 92.0–93.8 90.9 % 98.9 % 0.044 0.021 0.342 93.1 % 12.0 k 10.4 M 1.42 1 400"
    assert row == expected
    assert "teacher teacher 95.6 % – – – – – 450 k 412 M 11.2 500" in page.text
    assert "cross-entropy control 87.0 % – – – – – – – – –" in page.text


def test_the_rest_of_the_numbers(page):
    for text in (
        "684 (22.8 %)", "59.8 % → 76.6 %", "83.0 %", "47.0 %", "scalar +14.2", "mix –",
        "41 in all, 1 of them shown", "truncated test test/broken.mp4", "684 in all, 24 of them shown",
        "run → walk 91 % truth: walk", "teacher 31.8 s 1 min 04 s 1 min 36 s",
        "sweep found by its key, not done again", "All 1 min 05 s 2 min 15 s 3 min 20 s",
        "student − KD + std. +4.2 0.7 420 252 < .001", "ab" * 32, "torch 2.13.0", "Validation labels are trusted.",
    ):  # fmt: skip
        assert text in page.text, text


def test_nothing_is_fetched(page):
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= page.ids
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 1 + 1 + 1 + 1 + 24 + 1  # cost, curve, confusion, flips, gallery, time


def test_no_address_of_the_network_in_the_source(tmp_path):
    source = write_report(tmp_path / "r.html", _facts()).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//cdn|@import|url\(", source)
    assert EVIL not in source
    assert "&lt;script&gt;alert(" in source
    assert "reconstructed from the abstract of Wang &amp; Tang, arXiv 2307.05201" in source


def test_an_empty_report_says_so(tmp_path):
    empty = Page(write_report(tmp_path / "r.html", ReportFacts()).read_text(encoding="utf-8"))
    assert "No network was evaluated in this run." in empty.text
    assert empty.text.count("Nothing was recorded.") == 2
    assert "Room" not in empty.text
    assert "every planned video was decoded" not in empty.text
    assert "img" not in empty.tags
    clean = Page(write_report(tmp_path / "c.html", ReportFacts(quarantined_total=0)).read_text(encoding="utf-8"))
    assert "every planned video was decoded" in clean.text


def test_tiles_compare_with_teacher_and_best_control():
    found = [(tile.value, tile.note) for tile in tiles(_facts())]
    assert found == [
        ("92.9 %", "92.0–93.8 %"),
        ("−2.7", "69% of the gap recovered"),
        ("+4.2", "KD + std."),
        ("39.6×", "7.89× shorter latency"),
    ]
    assert tiles(ReportFacts(networks=[NetworkRow("teacher", "teacher", top1=0.9)])) == []


def test_verdict_is_careful():
    def say(difference: float) -> str:
        facts = ReportFacts(comparisons=[Comparison("student", "control", difference, 0.01, 5, 3, 200)])
        return verdict(facts)[0]

    assert "does not show a difference" in say(0.02)
    assert say(0.021).startswith("student is ahead of control: +2.1 points")
    assert say(-0.03).startswith("student is behind control")


def test_room_is_said_with_what_is_missing():
    said = room_sentences(_facts())
    assert "8.6 points of room" in said[0]
    assert "2.2 points of room" in said[1]
    assert said[2].endswith("alone, it knows less than the labels.")
    assert "no room" in room_sentences(ReportFacts(room=Room(0.8, 0.9)))[0]
    assert "was not trained" in room_sentences(ReportFacts(room=Room(0.8, 0.7)))[1]


def test_counted_and_confused():
    assert counted(_facts()).replace("\u202f", " ") == (
        "4 000 test videos (12 000 views). 2 more could not be decoded and are left out; counted as wrong, student has "
        "92.8 %. 7 without a label are left out."
    )
    pairs = confused(Confusion("s", ["a", "b"], np.array([[8, 2], [1, 0]])))
    assert pairs == [("a", "b", 2, 0.2), ("b", "a", 1, 1.0)]
    assert confused(Confusion("s", ["a", "b"], np.eye(2, dtype=int))) == []
