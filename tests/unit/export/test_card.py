import pytest

from pipeline.export.card import CardFacts, model_card
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec

METRICS = {
    "videos": 4000,
    "unlabelled_videos": 7,
    "quarantined_videos": 2,
    "top1_quarantined_wrong": 0.9285,
    "top1": 0.929,
    "top5": 0.989,
    "ece": 0.044,
    "nll": 0.342,
    "agreement": 0.931,
    "clip": {
        "top1": 0.909,
        "top1_interval": {"low": 0.9, "high": 0.918, "level": 0.95, "method": "bootstrap over 40 groups, 2000 draws"},
    },
    "scaled": {"temperature": 0.45, "ece": 0.021, "nll": 0.31},
    "top1_interval": {"low": 0.921, "high": 0.937, "level": 0.95, "method": "bootstrap over 40 groups, 2000 draws"},
}


@pytest.fixture(scope="module")
def network():
    return build_network(NetworkSpec("compact", classes=("run", "walk | fast", "jump")), seed=0)


def test_the_card_says_what_it_must(network):
    facts = CardFacts(
        "student-3fa2",
        "simulated videos",
        {"train": 3000, "test": 4000},
        licence="CC-BY-4.0",
        teacher="residual 16/32/64/64",
        teacher_digest="ab" * 32,
        labels="refined, scalar channel",
        metrics=METRICS,
        cost={"params": 12_004, "flops": 10_400_000, "latency_ms": 1.419, "device": "cpu", "repeats": 20},
    )
    card = model_card(network, (8, 32, 32), facts)
    for text in (
        "# student-3fa2\n", "distilled from residual 16/32/64/64", "ab" * 32, "simulated videos",
        "3,000 train, 4,000 test",
        "reconstructed from the abstract of Wang & Tang, arXiv 2307.05201", "CC-BY-4.0, as the recipe gives it",
        "| top-1 per video | 92.9 % (95% interval 92.1–93.7 %, bootstrap over 40 groups, 2000 draws) |",
        "| top-5 per video | 98.9 % |", "| top-1 per clip | 90.9 % (95% interval 90.0–91.8 %",
        "| agreement with the teacher | 93.1 % |",
        "| NLL after temperature scaling (0.45, fitted on validation) | 0.310 |",
        "4,000 test videos; 2 that could not be decoded (counted as wrong, top-1 is 92.8 %)",
        "12,004 parameters, 0.0104 GFLOPs a clip", "1.42 ms a clip", "uint8 (clips, 8 frames, 32, 32, 3)",
        "0 run, 1 walk \\| fast, 2 jump", "## Intended use", "mean [0.5, 0.5, 0.5]",
    ):  # fmt: skip
        assert text in card, text
    assert "reproduc" not in card


def _share(top1: float, low: float | None, high: float | None, method: str) -> dict:
    return {"top1": top1, "top1_interval": {"low": low, "high": high, "level": 0.95, "method": method}}


def test_figures_stand_beside_what_they_are_read_against(network):
    names = ("first", "second", "difference", "low", "high", "word", "method")
    better = dict(zip(names, ("student", "KD", 0.042, 0.029, 0.055, "better", "t over 9 groups"), strict=True))
    unknown = dict(
        zip(names, ("student", "teacher", -0.1, None, None, "no interval", "no interval: 4 groups"), strict=True)
    )
    evaluated = {
        "split": "val",
        "selected": "These were selected.",
        "majority": {"class": "walk | fast", **_share(0.055, 0.048, 0.062, "Wilson over 800 videos")},
        "train": {
            "videos": 512,
            "views": "one training view of each video",
            **_share(0.97, None, None, "no interval: 4"),
        },
        "comparisons": [better, unknown],
        "mean": _share(0.92, 0.9, 0.94, "t over 3 replicates and 800 videos") | {"sd": 0.012, "replicates": 3},
    }
    card = model_card(
        network, (8, 32, 32), CardFacts("student", "", metrics=METRICS | {"top5": None}, evaluated=evaluated)
    )
    for text in (
        "| metric, val split | value |",
        "| mean over 3 seeds, of which this is one | 92.0 % (95% interval 90.0–94.0 %, t over 3 replicates and 800 "
        "videos), s.d. 1.2 points |",
        "| top-1 on 512 training videos, one training view of each video | 97.0 % (no interval: 4) |",
        "| always walk \\| fast, the largest training class | 5.5 % (95% interval 4.8–6.2 %, Wilson over 800 videos) |",
        "These were selected.",
        "- student against KD: **better**, +4.2 points (95 % interval +2.9 to +5.5, t over 9 groups)",
        "- student against teacher: **no interval**, -10.0 points (no interval: 4 groups)",
        "4,000 val videos;",
    ):
        assert text in card, text
    assert "top-5" not in card


def test_the_card_says_how_the_teacher_did_before_it_was_distilled(network):
    facts = CardFacts("student", "", teacher_check="On 40 validation videos the teacher has 80.0 %.")
    method = model_card(network, (8, 32, 32), facts).split("## Method")[1].split("##")[0]
    assert "On 40 validation videos the teacher has 80.0 %. The method is reconstructed" in method


def test_what_is_missing_is_said_in_plain_words(network):
    card = model_card(network, (8, 32, 32), CardFacts("student", ""))
    assert "**No licence is given**: the recipe does not set `export.licence`." in card
    assert "Not evaluated before this export." in card
    assert "Not measured before this export." in card
    assert "Not described by the recipe." in card
    assert "digest `unknown`" in card
    assert "student.onnx" not in card
    assert "student.onnx" in model_card(network, (8, 32, 32), CardFacts("student", ""), onnx=True)


def test_many_classes_are_cut_short():
    network = build_network(NetworkSpec("compact", classes=tuple(f"c{i}" for i in range(64))), seed=0)
    card = model_card(network, (8, 32, 32), CardFacts("student", ""))
    assert "59 c59, and 4 more in `model.json`." in card
    assert "c60" not in card
