"""Exported programs as teachers: the answers of torch.export's own loader, and nothing of the file is ever run."""

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError, InputError
from pipeline.export.export import _Logits, export_program
from pipeline.models.network import VideoNetwork
from pipeline.models.registry import build_network
from pipeline.models.spec import NetworkSpec
from pipeline.models.weights import load_network, save_network
from pipeline.targets.labeler import Labeler
from tests.support.programs import Change, Damage, Small, first_weight, nodes, planted

CLASSES, SHAPE = ("a", "b", "c"), (4, 16, 16)
GRAPH, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/model_weights_config.json", "data/constants/"


def raster(n: int) -> Tensor:
    return torch.randint(0, 256, (n, *SHAPE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program as `stagedkd export` writes it."""
    torch.set_num_threads(1)
    network = build_network(NetworkSpec("compact", CLASSES, {"widths": [4, 8], "strides": [1, 2]}), seed=1).eval()
    path = tmp_path_factory.mktemp("ours") / "student.pt2"
    torch.export.save(export_program(_Logits(network), SHAPE), path)
    return path


def exported(path: Path, module: nn.Module, *, batch: int = 2, dynamic: bool = False) -> Path:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with torch.no_grad():
        program = torch.export.export(module, (torch.zeros(batch, 3, *SHAPE),), dynamic_shapes=shapes, strict=False)
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float program of two clips that gives logits and two maps."""
    torch.manual_seed(5)
    return exported(tmp_path_factory.mktemp("foreign") / "small.pt2", Small().eval())


def network(path: Path, **options: Any) -> VideoNetwork:
    return build_network(NetworkSpec("exported", CLASSES, options, weights=str(path))).eval()


def test_our_own_export_gives_the_same_bits_as_torchs_loader(ours: Path) -> None:
    teacher, theirs = network(ours), torch.export.load(ours).module()
    assert (teacher.dims, teacher.classes, teacher.batch) == ((), CLASSES, (1, None))
    for count in (1, 2, 5):
        with torch.inference_mode():
            output, expected = teacher(raster(count)), theirs(raster(count))
        assert output.features == []
        assert torch.equal(output.logits, expected)


def test_named_outputs_are_pooled_as_substages(foreign: Path, tmp_path: Path) -> None:
    teacher, theirs = network(foreign, outputs=["logits", "first", "second"]), torch.export.load(foreign).module()
    assert teacher.dims == (4, 6)
    clip = (raster(2).permute(0, 4, 1, 2, 3) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        output, (logits, *maps) = teacher(raster(2)), theirs(clip)
    torch.testing.assert_close(output.logits, logits)
    for feature, full in zip(output.features, maps, strict=True):
        torch.testing.assert_close(feature, full.mean((2, 3, 4)))
    save_network(tmp_path / "net", teacher, {})
    again = load_network(tmp_path / "net")
    with torch.inference_mode():
        assert torch.equal(again(raster(2)).logits, output.logits)
    assert network(foreign, outputs=["logits", None, "second"]).dims == (6,)
    with pytest.raises(ConfigError, match="the program gives 3 tensors; name each"):
        network(foreign, outputs=["logits", "first"])


def test_memory_as_it_was_exported_survives_a_change_of_layout(tmp_path: Path) -> None:
    """A view of a weight that channels-last memory would refuse."""

    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv3d(3, 4, 3)

        def forward(self, clip: Tensor) -> Tensor:
            scale = self.conv.weight.view(4, -1).norm(dim=1)
            return (self.conv(clip).view(clip.shape[0], 4, -1).mean(2) / scale)[:, :3]

    path = exported(tmp_path / "viewed.pt2", Viewed().eval(), dynamic=True)
    clip = (raster(3).permute(0, 4, 1, 2, 3) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        found, expected = network(path)(raster(3)).logits, torch.export.load(path).module()(clip.contiguous())
    torch.testing.assert_close(found, expected)


def test_a_fixed_batch_is_the_micro_batch(foreign: Path) -> None:
    teacher = network(foreign)
    assert Labeler(teacher, 2)(raster(1).numpy())["logits"].shape == (1, 3)
    with pytest.raises(ConfigError, match=r"takes 2 clips at once, and plan.micro_batch is 4"):
        Labeler(teacher, 4)
    with pytest.raises(ConfigError, match=r"takes \[3, 4, 16, 16\], and is given \[3, 3, 16, 16\]"):
        teacher(raster(2)[:, :3])


def test_a_program_is_no_weights_of_another_network(ours: Path) -> None:
    with pytest.raises(ConfigError, match="set model: exported"):
        build_network(NetworkSpec("compact", CLASSES, weights=str(ours)))
    with pytest.raises(ConfigError, match=r"logits must be \(2, 2\)"):
        build_network(NetworkSpec("exported", ("a", "b"), weights=str(ours)))
    with pytest.raises(ConfigError, match="has its own transform"):
        build_network(NetworkSpec("exported", CLASSES, transform={"mean": [0.5]}, weights=str(ours)))


@pytest.mark.parametrize("module", [Small().train(), nn.Sequential(nn.Flatten(), nn.Linear(3072, 3), nn.Dropout())])
def test_training_mode_is_refused(tmp_path: Path, module: nn.Module) -> None:
    path = exported(tmp_path / "trains.pt2", module.train())
    with pytest.raises(InputError, match=r"call eval\(\) on the network"):
        network(path)


def test_a_program_that_changes_its_own_tensors_is_refused(tmp_path: Path) -> None:
    class Counting(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3072, 3)
            self.register_buffer("calls", torch.zeros(3))

        def forward(self, clip: Tensor) -> Tensor:
            self.calls.view(-1).add_(1)
            return self.head(clip.flatten(1)) + self.calls

    with pytest.raises(InputError, match=r"in place|buffer_mutation"):
        network(exported(tmp_path / "counts.pt2", Counting().eval()))


def test_writing_to_a_view_of_a_weight_is_refused(ours: Path, tmp_path: Path) -> None:
    """No exporter of today writes this; a file may."""

    def change(model: Any) -> None:
        step = nodes(model)[0]
        view = {"name": "self", "arg": {"as_tensor": {"name": "p_network_body_head_bias"}}, "kind": 1}
        first = {"target": "torch.ops.aten.detach.default", "inputs": [view], "outputs": [{"as_tensor": {"name": "v"}}]}
        again = {"name": "self", "arg": {"as_tensor": {"name": "v"}}, "kind": 1}
        second = {
            "target": "torch.ops.aten.zero_.default",
            "inputs": [again],
            "outputs": [{"as_tensor": {"name": "w"}}],
        }
        nodes(model)[:1] = [step | first, step | second]

    with pytest.raises(InputError, match="changes 'v' in place"):
        network(planted(ours, tmp_path / "p.pt2", GRAPH, change))


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten._nested_view_from_buffer.default",
        "torch.ops.aten.relu.__class__",
        "torch.ops.load_library",
        "torch.hub.load",
        "torch.load",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "math.__loader__",
        "#namespace:op",
        "torch.ops.higher_order.cond",
        "torch.ops.mine.evil.default",
        "os.system",
    ],
)
def test_other_calls_are_refused_by_name(ours: Path, tmp_path: Path, target: str) -> None:
    path = planted(ours, tmp_path / "p.pt2", GRAPH, lambda model: nodes(model)[-1].update(target=target))
    with pytest.raises(InputError, match="the program calls") as caught:
        network(path)
    assert target in str(caught.value)


def test_an_operator_of_no_torch_is_refused(ours: Path, tmp_path: Path) -> None:
    target = "torch.ops.aten.relu.nonesuch"
    path = planted(ours, tmp_path / "p.pt2", GRAPH, lambda model: nodes(model)[-1].update(target=target))
    with pytest.raises(InputError, match=r"which this torch .* does not have"):
        network(path)


def _pickled(config: Any) -> None:
    first_weight(config)["use_pickle"] = True


def _custom(config: Any) -> None:
    first_weight(config)["path_name"] = "custom_obj_0"


def _beyond(config: Any) -> None:
    first_weight(config)["tensor_meta"]["sizes"][0]["as_int"] = 10**6


def _sparse(config: Any) -> None:
    first_weight(config)["tensor_meta"]["layout"] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [(_pickled, "stored as a pickle"), (_custom, "stored as a pickle"), (_beyond, "damaged"), (_sparse, "only dense")],
)
def test_odd_tensors_are_refused(ours: Path, tmp_path: Path, change: Change, said: str) -> None:
    with pytest.raises(InputError, match=said):
        network(planted(ours, tmp_path / "p.pt2", WEIGHTS, change))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("data/aotinductor/model/m.so", "no part of a graph"),
        ("../outside", "not those of one archive"),
        ("models/second.json", "it has 2 models"),
    ],
)
def test_other_entries_are_refused(ours: Path, tmp_path: Path, entry: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        network(planted(ours, tmp_path / "p.pt2", "", lambda _: None, {entry: b"{}"}))


def test_a_legacy_or_damaged_or_other_file_is_refused(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="export it anew"):
        network(planted(ours, tmp_path / "a.pt2", GRAPH, lambda model: model["schema_version"].update(major=7)))
    with pytest.raises(InputError, match=r"damaged \(KeyError"):
        network(planted(ours, tmp_path / "b.pt2", GRAPH, lambda model: model["graph_module"].pop("signature")))
    (tmp_path / "c.pt2").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"no torch\.export archive"):
        network(tmp_path / "c.pt2")
    with pytest.raises(InputError, match="there is no program"):
        network(tmp_path / "d.pt2")


def test_names_are_data(ours: Path, tmp_path: Path) -> None:
    """A value that nothing has made, one that is made twice, and an argument of another kind."""
    unmade = {"as_tensor": {"name": "nobody"}}
    with pytest.raises(InputError, match="reads 'nobody' before"):
        network(planted(ours, tmp_path / "a.pt2", GRAPH, lambda m: nodes(m)[2]["inputs"][0].update(arg=unmade)))
    again = [{"as_tensor": {"name": "raster"}}]
    with pytest.raises(InputError, match="makes 'raster' twice"):
        network(planted(ours, tmp_path / "b.pt2", GRAPH, lambda m: nodes(m)[2].update(outputs=again)))
    graph = {"as_operator": "torch.hub.load"}
    with pytest.raises(InputError, match="argument of kind 'as_operator'"):
        network(planted(ours, tmp_path / "c.pt2", GRAPH, lambda m: nodes(m)[2]["inputs"][1].update(arg=graph)))


def test_nothing_of_the_file_is_unpickled_or_evaluated(ours: Path, tmp_path: Path) -> None:
    """Sample inputs, expressions, guards and names are the ways in that torch.export.load leaves open."""
    canary, buffer = tmp_path / "canary", io.BytesIO()
    torch.save(Damage(canary), buffer)
    call = f"__import__('pathlib').Path({str(canary)!r}).touch()"

    def change(model: Any) -> None:
        model["guards_code"] = [call]
        meta = model["graph_module"]["graph"]["tensor_values"]["raster"]
        meta["sizes"][0]["as_expr"]["expr_str"] = call

    extra = {"data/sample_inputs/model.pt": buffer.getvalue(), "extra/x": pickle.dumps(Damage(canary))}
    path = planted(ours, tmp_path / "p.pt2", GRAPH, change, extra)
    with torch.inference_mode():
        found = network(path)(raster(2)).logits
        assert torch.equal(found, network(ours)(raster(2)).logits)
    assert not canary.exists()
    renamed = planted(ours, tmp_path / "q.pt2", GRAPH, lambda m: _rename(m, f"x={call}"))
    assert torch.equal(network(renamed)(raster(2)).logits, network(ours)(raster(2)).logits)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        torch.export.load(path)
    assert canary.exists(), "the plant itself does not work"


def _rename(model: Any, name: str) -> None:
    text = json.dumps(model).replace('"name": "raster"', f'"name": {json.dumps(name)}')
    values = json.loads(text)
    values["graph_module"]["graph"]["tensor_values"][name] = values["graph_module"]["graph"]["tensor_values"]["raster"]
    model.update(values)
