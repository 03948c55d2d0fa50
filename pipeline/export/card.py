"""The model card: what the student is, what it was made of, how good it is, how to load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.models.network import VideoNetwork

_MANY_CLASSES = 60


@dataclass(frozen=True)
class CardFacts:
    """What export cannot see in the network itself.

    `metrics` and `cost` are the dicts of `evaluation.metrics.video_metrics` and `evaluation.cost.Cost.as_dict`;
    `evaluated` holds what is beside them: split, selected, majority, train (accuracy on training videos), comparisons
    (first, second, difference, low, high, word, method), and mean (of replicates: top1, sd, top1_interval, replicates);
    `videos` counts videos per split; `licence` is the recipe's, None where it gives none; `teacher_check`
    says how the teacher did on validation, before anything was distilled from it.
    """

    name: str
    data: str
    videos: Mapping[str, int] = field(default_factory=dict)
    licence: str | None = None
    teacher: str = ""
    teacher_digest: str = ""
    teacher_check: str = ""
    method: str = ""
    labels: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    evaluated: Mapping[str, Any] = field(default_factory=dict)
    intended_use: str = ""


def model_card(network: VideoNetwork, raster: Sequence[int], facts: CardFacts, *, onnx: bool = False) -> str:
    """MODEL_CARD.md of a network that takes rasters of `raster` (T, H, W)."""
    sections = [
        f"# {_line(facts.name)}\n\n{_summary(network, facts)}",
        f"## Intended use\n\n{_intended(facts)}",
        f"## Load it\n\n```python\n{loading_lines(raster)}\n```\n\n{_loading_notes(onnx)}",
        f"## Input\n\n{_input(network, raster)}",
        f"## Classes\n\n{_classes(network.classes)}",
        f"## Data\n\n{_data(facts)}",
        f"## Method\n\n{_method(facts)}",
        f"## Evaluation\n\n{_evaluation(facts.metrics, facts.evaluated)}",
        f"## Cost\n\n{_cost(facts.cost)}",
        f"## Licence\n\n{_licence(facts.licence)}",
    ]
    return "\n\n".join(sections) + "\n"


def loading_lines(raster: Sequence[int]) -> str:
    """Five lines of Python that run in the export's folder."""
    shape = ", ".join(str(size) for size in raster)
    return "\n".join(
        (
            "import json, torch",
            'classes = json.load(open("model.json"))["classes"]',
            'student = torch.export.load("student.pt2").module()',
            f"clip = torch.zeros(1, {shape}, 3, dtype=torch.uint8)  # your RGB frames",
            "print(classes[student(clip).argmax().item()])",
        )
    )


def _summary(network: VideoNetwork, facts: CardFacts) -> str:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    what = f"`{_line(network.spec.model)}`, {parameters:,} parameters, {network.num_classes} classes"
    teacher = f", distilled from {_line(facts.teacher)}" if facts.teacher else ""
    return f"A video classifier ({what}){teacher} with StagedKD."


def _intended(facts: CardFacts) -> str:
    use = facts.intended_use or (
        "Short clips of the kind it was trained on (see Data), one class per clip. Judge it on your own clips first: "
        "on other cameras, scenes or classes its accuracy is unknown, and it always names one of its classes, whatever "
        "it sees."
    )
    return use + "\n\nNot for decisions about people without a person who looks at the video."


def _loading_notes(onnx: bool) -> str:
    also = " `student.onnx` is the same function for ONNX Runtime (input `raster`, output `logits`)." if onnx else ""
    return (
        "`stagedkd predict VIDEO --model .` does the decoding and the views as well. `student.pt2` needs torch alone; "
        f"`model.safetensors` and `model.json` are for `pipeline.models.weights.load_network`.{also}"
    )


def _input(network: VideoNetwork, raster: Sequence[int]) -> str:
    frames, height, width = raster
    values = network.transform.to_json()
    transform = ", ".join(f"{name} {value}" for name, value in values.items() if value not in (None, False))
    return (
        f"A raster: uint8 (clips, {frames} frames, {height}, {width}, 3), RGB, any number of clips. The transform is "
        f"inside the network ({transform}); give it plain pixels. Output: logits (clips, {network.num_classes}); for a "
        "video take the mean of the softmax over its clips."
    )


def _classes(classes: Sequence[str]) -> str:
    if not classes:
        return "This network carries no class names; a class is the place of its logit."
    shown = ", ".join(f"{index} {_line(name)}" for index, name in enumerate(classes[:_MANY_CLASSES]))
    left = len(classes) - _MANY_CLASSES
    return f"{shown}, and {left} more in `model.json`." if left > 0 else f"{shown}."


def _data(facts: CardFacts) -> str:
    counts = ", ".join(f"{count:,} {_line(split)}" for split, count in facts.videos.items())
    labels = f" Labels: {_line(facts.labels)}." if facts.labels else ""
    return f"{_line(facts.data) or 'Not described by the recipe.'}{f' Videos: {counts}.' if counts else ''}{labels}"


def _method(facts: CardFacts) -> str:
    used = f"{_line(facts.method)}. " if facts.method else ""
    teacher = f"Teacher: {_line(facts.teacher) or 'unnamed'}, digest `{_line(facts.teacher_digest) or 'unknown'}`. "
    teacher += f"{_line(facts.teacher_check)} " if facts.teacher_check else ""
    return (
        f"{used}{teacher}The method is reconstructed from the abstract of Wang & Tang, arXiv 2307.05201; its equations "
        "are the project's own reading, and no figure here is that paper's."
    )


def _evaluation(metrics: Mapping[str, Any], beside: Mapping[str, Any]) -> str:
    if not metrics:
        return "Not evaluated before this export."
    rows = [("top-1 per video", _accuracy(metrics)), *_beside(beside)]
    if metrics["top5"] is not None:
        rows.append(("top-5 per video", _percent(metrics["top5"])))
    rows += [("top-1 per clip", _accuracy(metrics["clip"])), ("ECE, 15 bins", f"{metrics['ece']:.3f}")]
    rows += [("NLL", f"{metrics['nll']:.3f}"), *_scaled(metrics.get("scaled"))]
    if metrics.get("agreement") is not None:
        rows.append(("agreement with the teacher", _percent(metrics["agreement"])))
    split = beside.get("split", "test")
    table = "\n".join(
        [f"| metric, {split} split | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    )
    return "\n\n".join([table, *_said(beside), _counted(metrics, split)])


def _beside(beside: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What top-1 has to be read beside: the mean over replicates, training videos, the largest class."""
    rows, mean, train, majority = [], beside.get("mean"), beside.get("train"), beside.get("majority")
    if mean:
        spread = f", s.d. {100 * mean['sd']:.1f} points"
        rows.append((f"mean over {mean['replicates']} seeds, of which this is one", f"{_accuracy(mean)}{spread}"))
    if train:
        rows.append((f"top-1 on {train['videos']:,} training videos, {train['views']}", _accuracy(train)))
    if majority:
        rows.append((f"always {_line(majority['class'])}, the largest training class", _accuracy(majority)))
    return rows


def _said(beside: Mapping[str, Any]) -> list[str]:
    """The student's paired differences with their words, and whether the figures were selected."""
    said = [_line(beside["selected"])] if beside.get("selected") else []
    differences = [f"- {_difference(item)}" for item in beside.get("comparisons", ())]
    return [*said, "\n".join(differences)] if differences else said


def _difference(item: Mapping[str, Any]) -> str:
    bounds = _line(item["method"])
    if item["low"] is not None:
        bounds = f"95 % interval {100 * item['low']:+.1f} to {100 * item['high']:+.1f}, {bounds}"
    size = f"{100 * item['difference']:+.1f} points ({bounds})"
    return f"{_line(item['first'])} against {_line(item['second'])}: **{item['word']}**, {size}"


def _accuracy(metrics: Mapping[str, Any]) -> str:
    found = metrics["top1_interval"]
    if found["low"] is None:
        return f"{_percent(metrics['top1'])} ({found['method']})"
    bounds = f"{100 * found['low']:.1f}–{100 * found['high']:.1f} %"
    return f"{_percent(metrics['top1'])} ({found['level']:.0%} interval {bounds}, {found['method']})"


def _scaled(scaled: Mapping[str, float] | None) -> list[tuple[str, str]]:
    if scaled is None:
        return []
    name = f"after temperature scaling ({scaled['temperature']:.2f}, fitted on validation)"
    return [(f"ECE {name}", f"{scaled['ece']:.3f}"), (f"NLL {name}", f"{scaled['nll']:.3f}")]


def _counted(metrics: Mapping[str, Any], split: str) -> str:
    broken = metrics["quarantined_videos"]
    wrong = f" (counted as wrong, top-1 is {_percent(metrics['top1_quarantined_wrong'])})" if broken else ""
    return (
        f"{metrics['videos']:,} {split} videos; {broken:,} that could not be decoded{wrong} and "
        f"{metrics['unlabelled_videos']:,} without a label are left out."
    )


def _cost(cost: Mapping[str, Any]) -> str:
    if not cost:
        return "Not measured before this export."
    return (
        f"{cost['params']:,} parameters, {cost['flops'] / 1e9:.3g} GFLOPs a clip (a multiply-add counted as two), "
        f"{cost['latency_ms']:.3g} ms a clip on the {cost['device']} of the machine that made it (median, one thread)."
    )


def _licence(licence: str | None) -> str:
    if licence and licence.strip():
        return f"{_line(licence)}, as the recipe gives it (`export.licence`). Check that data and teacher allow it."
    return (
        "**No licence is given**: the recipe does not set `export.licence`. Without one nobody but its owner may use, "
        "change or pass on these weights; the licences of the training data and of the teacher hold as well."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _line(text: str) -> str:
    """One line that cannot end a table cell or a code span."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
