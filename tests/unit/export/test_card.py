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
    "top5_k": 3,
    "ece": 0.044,
    "nll": 0.342,
    "agreement": 0.931,
    "clip": {"top1": 0.909},
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
        "| top-3 per video | 98.9 % |", "| top-1 per clip | 90.9 % |", "| agreement with the teacher | 93.1 % |",
        "| NLL after temperature scaling (0.45, fitted on validation) | 0.310 |",
        "4,000 test videos; 2 that could not be decoded (counted as wrong, top-1 is 92.8 %)",
        "12,004 parameters, 0.0104 GFLOPs a clip", "1.42 ms a clip", "uint8 (clips, 8 frames, 32, 32, 3)",
        "0 run, 1 walk \\| fast, 2 jump", "## Intended use", "mean [0.5, 0.5, 0.5]",
    ):  # fmt: skip
        assert text in card, text
    assert "reproduc" not in card


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
