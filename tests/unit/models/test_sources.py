import pickle
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ConfigError, InputError
from pipeline.models.sources import is_path, read_state, state_of, torchvision_member


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_what_training_scripts_wrap_around_a_state_dict_is_taken_off(tmp_path, wrap):
    torch.save(wrap({"module.a": torch.ones(2), "module.b": torch.zeros(1)}), tmp_path / "w.pt")

    state = read_state(tmp_path / "w.pt")

    assert list(state) == ["a", "b"]
    assert torch.equal(state["a"], torch.ones(2))


def test_safetensors_are_read_and_a_lone_module_prefix_is_a_name(tmp_path):
    save_file({"module.a": torch.ones(2), "b": torch.zeros(1)}, tmp_path / "w.safetensors")

    assert set(read_state(tmp_path / "w.safetensors")) == {"module.a", "b"}


def test_pickled_objects_are_refused_and_never_run(tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "w.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))

    for name in ("w.pt", "raw.pt"):
        with pytest.raises(InputError, match="only tensors are accepted"):
            read_state(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_files_that_are_no_weights_are_refused_by_name(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    torch.save([1, 2], tmp_path / "list.pt")

    with pytest.raises(InputError, match=r"cut\.safetensors cannot be read as weights"):
        read_state(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match=r"list\.pt holds no state dict"):
        read_state(tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"no weights file .*gone\.pt"):
        read_state(tmp_path / "gone.pt")


def test_paths_and_names_are_told_apart(tmp_path):
    assert is_path("w.pth")
    assert is_path("models/teacher")
    assert is_path(str(tmp_path))
    assert not is_path("KINETICS400_V1")
    assert not is_path("R3D_18_Weights.KINETICS400_V1")


def test_names_of_weights_that_no_library_knows():
    assert torchvision_member("resnet18", "imagenet").name == "IMAGENET1K_V1"
    with pytest.raises(ConfigError, match="'r3d_18' has no weights 'KINETICS'; did you mean 'KINETICS400_V1'"):
        torchvision_member("r3d_18", "KINETICS")
    with pytest.raises(ConfigError, match=r"give a \.safetensors or \.pt file"):
        state_of("imagenet", None)


def test_without_a_network_the_message_says_where_the_weights_are(monkeypatch):
    def no_network(self, *args, **kwargs):
        raise URLError("unreachable")

    monkeypatch.setattr(type(torchvision_member("r3d_18", "DEFAULT")), "get_state_dict", no_network)

    with pytest.raises(InputError, match=r"could not be downloaded from https://.*give the file as weights"):
        state_of("DEFAULT", "r3d_18")
