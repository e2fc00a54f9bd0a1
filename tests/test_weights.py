"""Weights: names, files, damage, detection."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sepconv_video import shipped, weights
from sepconv_video.engine import Engine
from sepconv_video.errors import OptionsError, WeightsError
from sepconv_video.models import Fast
from sepconv_video.video import read_picture


def test_every_shipped_model_loads_and_is_frozen():
    for name in shipped.shipped_models():
        model = weights.load_model(name)
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_loading_a_model_does_not_load_pytorchs_compiler():
    code = (
        "import sys\n"
        "from sepconv_video.weights import load_model\n"
        "model = load_model('fast')\n"
        "model(*[model.head.weight.new_ones(1, 3, 16, 16)] * 2)\n"
        "assert 'torch._dynamo' not in sys.modules, 'it takes a second'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(OptionsError, match="unknown model `nope`") as caught:
        weights.load_model("nope")
    assert "`fast`" in caught.value.hint


def test_a_name_that_cannot_be_looked_at():
    with pytest.raises(WeightsError, match=r"cannot read `x*`: file name too long"):
        weights.load_model("x" * 300)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 1000])
def test_files_that_are_no_weights(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot read weights"):
        weights.load_model(path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"a": Trap()}))
    torch.save({"a": Trap()}, tmp_path / "trap2.pth")
    (tmp_path / "sprung").unlink(missing_ok=True)
    for name in ("trap.pth", "trap2.pth"):
        with pytest.raises(WeightsError):
            weights.load_model(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_network(tmp_path):
    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="another network"):
        weights.load_model(tmp_path / "other.safetensors")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="cannot read weights"):
        weights.load_model(tmp_path / "other.pt")


def test_a_wrapped_state_dict_is_found(tmp_path):
    state = Fast().state_dict()
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pt")
    model = weights.load_model(tmp_path / "checkpoint.pt")
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_of_a_training_checkpoint_the_average_is_taken(tmp_path):
    state = Fast().state_dict()
    zero = {key: torch.zeros_like(value) for key, value in state.items()}
    torch.save({"model": zero, "average": state, "step": 3}, tmp_path / "checkpoint.pt")
    model = weights.load_model(tmp_path / "checkpoint.pt")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_lost_training_are_refused(tmp_path, value):
    state = Fast().state_dict()
    state["head.weight"][0, 0, 0, 0] = value
    save_file(state, tmp_path / "lost.safetensors")
    with pytest.raises(WeightsError, match=r"`head\.weight` holds NaN or infinity"):
        weights.load_model(tmp_path / "lost.safetensors")


@pytest.mark.filterwarnings("ignore")  # prototypes, and what is deprecated
@pytest.mark.parametrize(
    "strange",
    [
        lambda: torch.zeros(2, dtype=torch.complex64),
        lambda: torch.zeros(2, device="meta"),
        lambda: torch.zeros(2).to_sparse(),
        lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    ],
    ids=["complex", "meta", "sparse", "nested", "quantised"],
)
def test_tensors_that_are_no_weights(tmp_path, strange):
    for content in ({"head.weight": strange()}, {0: torch.zeros(2)}):
        torch.save(content, tmp_path / "strange.pt")
        with pytest.raises(WeightsError, match="cannot read weights"):
            weights.load_model(tmp_path / "strange.pt")


def test_damaged_shipped_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "weights_data").mkdir()
    entry = {"file": "f.safetensors", "network": "fast", "sha256": "0" * 64}
    lines = [
        f"{k} = {json.dumps(v)}" for k, v in (entry | {"licence": "x", "summary": "y"}).items()
    ]
    (tmp_path / "weights_data" / "MANIFEST.toml").write_text("[fast]\n" + "\n".join(lines))
    monkeypatch.setattr(shipped, "_HERE", tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        weights.load_model("fast")
    (tmp_path / "weights_data" / "f.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match="damaged"):
        weights.load_model("fast")


def test_shipped_weights_that_may_not_be_read(monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shipped.Path, "read_bytes", refuse)
    with pytest.raises(WeightsError, match=r"fast\.safetensors`: permission denied") as caught:
        weights.load_model("fast")
    assert "reinstall" in caught.value.hint


@pytest.mark.parametrize("content", [b"[[", b"\xff", b"fast = 3", b"[fast]\nfile = 'a'"])
def test_a_damaged_manifest(tmp_path, monkeypatch, content):
    (tmp_path / "weights_data").mkdir()
    (tmp_path / "weights_data" / "MANIFEST.toml").write_bytes(content)
    monkeypatch.setattr(shipped, "_HERE", tmp_path)
    with pytest.raises(WeightsError, match=r"MANIFEST\.toml` is damaged") as caught:
        shipped.shipped_models()
    assert "reinstall" in caught.value.hint


def check_still(name, still):
    """A picture between two equal ones is that picture: within a level, no shift, no flicker."""
    engine = Engine(weights.load_model(name))
    made = engine.pictures_between(still, still)[0].astype(int)
    error = np.abs(made - still)
    assert error.max() <= 1
    assert error.mean() < 0.05


@pytest.mark.parametrize("name", ["fast", "fine"])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_grey_comes_back(name, level):
    check_still(name, np.full((90, 120, 3), level, np.uint8))


@pytest.mark.parametrize("name", ["fast", "fine"])
def test_a_still_photograph_comes_back(name, shared):
    photographs = sorted((shared / "data" / "images").glob("*.jpg"))
    assert photographs
    for path in photographs[:: len(photographs) // 4]:
        check_still(name, read_picture(path)[100:276, 100:356])
