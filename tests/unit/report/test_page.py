import re
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.report.answers import answers, counted, room_sentences, verdict
from pipeline.report.facts import (
    Comparison,
    Confusion,
    Curves,
    FlippedLabel,
    Majority,
    NetworkRow,
    PhaseSpan,
    QuarantinedVideo,
    Refinement,
    ReportFacts,
    Room,
    StepTime,
    Table,
)
from pipeline.report.page import confused, tiles, write_report

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


def _compared(first: str, second: str, difference: float, half: float = 0.0134) -> Comparison:
    low, high = difference - half, difference + half
    word = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    return Comparison(first, second, difference, low, high, word, "adjusted Wald over 4000 paired videos", 4000)


def _facts() -> ReportFacts:
    teacher = NetworkRow(
        "teacher", "teacher", top1=0.956, flops=412_000_000, latency_ms=11.2, params=450_321, train_steps=500
    )
    student = NetworkRow(
        "student", "student", top1=0.929, low=0.92, high=0.938, interval_method="bootstrap over 40 groups, 2000 draws",
        top5=0.989, train_top1=0.951, train_low=0.93, train_high=0.97, train_videos=512, clip_low=0.9, clip_high=0.918,
        train_views="one training view of each video",
        ece=0.044, ece_scaled=0.021, nll=0.342, agreement=0.931, clip_top1=0.909, params=12_004,
        flops=10_400_000, latency_ms=1.42, train_steps=1400, videos=4000, clips=12000, quarantined_videos=2,
        top1_quarantined_wrong=0.9285, unlabelled_videos=7,
    )  # fmt: skip
    control = NetworkRow("KD + std.", "control", top1=0.887, low=0.877, high=0.896, flops=10_400_000)
    alone = NetworkRow("cross-entropy", "control", top1=0.87, low=0.86, high=0.88, taught=False)
    frames = np.full((8, 32, 32, 3), 90, np.uint8)
    return ReportFacts(
        title=f"Title {EVIL}",
        run="demo-3fa2c91b",
        data={"Test videos": 4000},
        networks=[teacher, student, control, alone],
        gap_recovered=0.686,
        majority=Majority("walk", 0.055, 0.048, 0.062),
        room=Room(0.956, [_compared("teacher", "cross-entropy", 0.086)], given_labels=0.598, labeller=0.541),
        comparisons=[
            _compared("student", "teacher", -0.027),
            _compared("student", "KD + std.", 0.042),
            _compared("student", "cross-entropy", 0.059),
        ],
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
            validation_trusted=False,
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
    expected = (
        "92.9 % 92.0–93.8 95.1 % 93.0–97.0 90.9 % 90.0–91.8 98.9 % 0.044 0.021 0.342 93.1 % 12.0 k 10.4 M 1.42 1 400"
    )
    assert row == expected
    assert "teacher teacher 95.6 % no interval – – – – – – 450 k 412 M 11.2 500" in page.text
    assert "cross-entropy control 87.0 % 86.0–88.0 – – – – – – – – – –" in page.text
    assert "always walk the largest training class 5.5 % 4.8–6.2" in page.text


def test_the_rest_of_the_numbers(page):
    for text in (
        "684 (22.8 %)", "59.8 % → 76.6 %", "83.0 %", "47.0 %", "Validation labels not trusted", "scalar +14.2", "mix –",
        "41 in all, 1 of them shown", "truncated test test/broken.mp4", "684 in all, 24 of them shown",
        "run → walk 91 % truth: walk", "teacher 31.8 s 1 min 04 s 1 min 36 s",
        "sweep found by its key, not done again", "All 1 min 05 s 2 min 15 s 3 min 20 s",
        "student − KD + std. better +4.2 +2.9 to +5.5 adjusted Wald over 4000 paired videos",
        "What staging adds: student against KD + std.: better, +4.2 points (95 % interval +2.9 to +5.5).",
        "What the teacher buys: student against cross-entropy: better, +5.9 points",
        "On training videos: 512 videos, one training view of each video",
        "One training of each network", "ab" * 32, "torch 2.13.0", "Validation labels are trusted.",
    ):  # fmt: skip
        assert text in page.text, text


def test_nothing_is_fetched(page):
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= page.ids
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 1 + 1 + 1 + 1 + 1 + 24 + 1  # methods, cost, curve, confusion, flips, gallery, time


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


def test_tiles_show_a_difference_with_its_word_and_interval():
    found = [(tile.value, tile.label, tile.note) for tile in tiles(_facts())]
    assert found == [
        ("92.9 %", "student, top-1, test split", "92.0–93.8 %"),
        ("−2.7", "points against its teacher: worse", "95 % interval −4.0 to −1.4; 69% of the gap recovered"),
        ("+4.2", "points against the best control, KD + std.: better", "95 % interval +2.9 to +5.5"),
        ("39.6×", "fewer FLOPs than the teacher", "7.89× shorter latency"),
    ]
    assert tiles(ReportFacts(networks=[NetworkRow("teacher", "teacher", top1=0.9)])) == []


def test_a_difference_that_is_not_shown_is_no_number_on_top():
    """The old tile said +1.3 points large, and the sentence below that no difference is shown."""
    facts = _two_networks(_compared("student", "KD", 0.013))
    tile = tiles(facts)[1]
    assert (tile.value, tile.label) == ("not distinguishable", "against the best control, KD")
    assert tile.note == "95 % interval −0.0 to +2.6"
    assert tile.small


def _two_networks(item: Comparison | None, **fields) -> ReportFacts:
    """A student, one control and what is said of the two."""
    rows = [NetworkRow("student", "student", top1=0.8), NetworkRow("KD", "control", top1=0.787)]
    return ReportFacts(networks=rows, comparisons=[] if item is None else [item], **fields)


def _page(facts: ReportFacts, folder) -> Page:
    return Page(write_report(folder / "r.html", facts).read_text(encoding="utf-8"))


def test_a_page_without_intervals(tmp_path):
    why = "no interval: 4 groups, at least 6 are needed"
    item = Comparison("student", "KD", 0.013, None, None, "no interval", why)
    facts = _two_networks(item, gap_reason="No share of a gap is given: so few groups.", room=Room(0.9, [item]))
    found = _page(facts, tmp_path)
    assert [tile.value for tile in tiles(facts)] == ["80.0 %", "no interval"]
    assert f"student against KD: no interval, +1.3 points ({why})." in found.text
    assert "student − KD no interval +1.3 none" in found.text
    assert "No share of a gap is given: so few groups." in found.text
    assert "nobody can tell whether there is room" in found.text
    assert "recovered" not in found.text
    assert "student student 80.0 % no interval" in found.text


def test_a_page_with_replicates(tmp_path):
    row = NetworkRow(
        "student", "student", top1=0.8, low=0.76, high=0.84, sd=0.012, replicates=(0.788, 0.8, 0.812),
        interval_method="t over 3 replicates and 800 videos",
    )  # fmt: skip
    found = _page(ReportFacts(networks=[row]), tmp_path)
    assert "student student · 3 seeds: 78.8 %, 80.0 %, 81.2 % 80.0 ± 1.2 % 76.0–84.0" in found.text
    assert "Interval: t over 3 replicates and 800 videos." in found.text
    assert "One training of each network" not in found.text
    assert tiles(ReportFacts(networks=[row]))[0].value == "80.0 ± 1.2 %"


def test_a_page_without_controls(tmp_path):
    rows = [NetworkRow("teacher", "teacher", top1=0.9), NetworkRow("student", "student", top1=0.8)]
    facts = ReportFacts(networks=rows, comparisons=[_compared("student", "teacher", -0.1)])
    found = _page(facts, tmp_path)
    assert answers(facts) == []
    assert "What staging adds" not in found.text
    assert [tile.value for tile in tiles(facts)] == ["80.0 %", "−10.0"]


def test_selected_figures_say_so(tmp_path):
    found = _page(_two_networks(None, split="val", selected="These were selected."), tmp_path)
    assert "Results on the val split These were selected." in found.text
    assert "on the test split" not in found.text


def test_few_classes_have_no_top_five(tmp_path):
    assert "Top-5" not in _page(_two_networks(None), tmp_path).text
    assert "scaling" not in _page(_two_networks(None), tmp_path).text


def test_the_verdict_is_one_word_and_its_interval():
    def say(difference: float) -> str:
        return verdict(_two_networks(_compared("student", "KD", difference)))[0]

    assert say(0.013) == "student against KD: not distinguishable, +1.3 points (95 % interval −0.0 to +2.6)."
    assert say(0.021).startswith("student against KD: better, +2.1 points")
    assert say(-0.03).startswith("student against KD: worse, −3.0 points")


def test_room_is_said_with_what_is_missing():
    said = room_sentences(_facts())
    assert said[0].endswith("better, +8.6 points (95 % interval +7.3 to +9.9): there is room.")
    assert "was not trained" in said[1]
    assert said[2].endswith("alone, it knows less than the labels.")
    assert "no room" in room_sentences(ReportFacts(room=Room(0.8, [_compared("teacher", "cross-entropy", -0.1)])))[0]
    assert room_sentences(ReportFacts(room=Room(0.8, doubled=True))) == []


def test_counted_and_confused():
    assert counted(_facts()).replace("\u202f", " ") == (
        "4 000 test videos (12 000 views). 2 more could not be decoded and are left out; counted as wrong, student has "
        "92.8 %. 7 without a label are left out."
    )
    pairs = confused(Confusion("s", ["a", "b"], np.array([[8, 2], [1, 0]])))
    assert pairs == [("a", "b", 2, 0.2), ("b", "a", 1, 1.0)]
    assert confused(Confusion("s", ["a", "b"], np.eye(2, dtype=int))) == []
