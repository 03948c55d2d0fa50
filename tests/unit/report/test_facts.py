from pipeline.report.facts import Curves, NetworkRow, PhaseSpan

METRICS = {
    "videos": 24,
    "clips": 72,
    "unlabelled_videos": 1,
    "quarantined_videos": 2,
    "top1_quarantined_wrong": 0.7,
    "top1": 0.75,
    "top5": 0.9,
    "ece": 0.1,
    "nll": 0.8,
    "top1_interval": {"low": 0.55, "high": 0.88, "level": 0.95, "method": "Wilson over 24 videos"},
    "scaled": {"temperature": 1.5, "ece": 0.05, "nll": 0.7},
    "clip": {"top1": 0.7, "top1_interval": {"low": 0.5, "high": 0.85}},
    "agreement": None,
}


def test_a_row_from_json():
    cost = {"params": 12_004, "flops": 10_400_000, "latency_ms": 1.42, "device": "cpu", "repeats": 20}
    train = {"top1": 0.97, "top1_interval": {"low": 0.9, "high": 0.99}, "videos": 96, "views": "one each"}
    row = NetworkRow.from_metrics("student", "student", METRICS, cost, train_steps=700, train=train, replicates=[0.75])
    assert (row.train_top1, row.train_low, row.train_high, row.train_videos) == (0.97, 0.9, 0.99, 96)
    assert (row.clip_low, row.clip_high, row.replicates, row.sd) == (0.5, 0.85, (0.75,), None)
    assert (row.top1, row.low, row.high, row.interval_method) == (0.75, 0.55, 0.88, "Wilson over 24 videos")
    assert (row.ece_scaled, row.nll_scaled, row.temperature, row.clip_top1) == (0.05, 0.7, 1.5, 0.7)
    assert (row.params, row.flops, row.latency_ms, row.train_steps) == (12_004, 10_400_000, 1.42, 700)
    assert (row.videos, row.quarantined_videos, row.agreement) == (24, 2, None)


def test_a_row_without_cost_or_scaling():
    row = NetworkRow.from_metrics("teacher", "teacher", {"top1": 0.9, "scaled": None})
    assert (row.top1, row.low, row.ece_scaled, row.params) == (0.9, None, None, None)


def test_curves_from_records_of_the_training_loop():
    records = [{"step": 0, "loss": 3.0, "ce": 2.0, "r2_1": 0.1, "lr": 0.1, "phase": 1.0}, {"step": 10, "loss": 2.0}]
    records.append({"step": 20, "r2_1": 0.4, "corr": 0.9})
    found = Curves.from_records("student", records, [PhaseSpan("1", 0, 20)])
    assert found.panels == {
        "Loss and its parts": {"loss": ([0, 10], [3.0, 2.0]), "ce": ([0], [2.0]), "corr": ([20], [0.9])},
        "R² per substage": {"substage 1": ([0, 20], [0.1, 0.4])},
    }
    assert found.phases == [PhaseSpan("1", 0, 20)]


def test_panels_may_be_chosen():
    found = Curves.from_records("s", [{"step": 0, "val/top1": 0.5, "loss": 1.0}], panels={"Validation": ["val/*"]})
    assert found.panels == {"Validation": {"top1": ([0], [0.5])}}
