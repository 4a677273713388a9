import numpy as np
import pytest
import torch

from stce.engine import device
from stce.engine.device import typed


@pytest.fixture
def gpus(monkeypatch):
    """Pretend that there are so many GPUs."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_takes_the_gpu_only_where_there_is_one(gpus):
    gpus(0)
    assert device.resolve() == torch.device("cpu")
    gpus(2)
    assert device.resolve("auto") == torch.device("cuda", 0)
    assert device.resolve("cpu") == torch.device("cpu")


def test_a_gpu_gets_its_index(gpus):
    gpus(2)
    assert device.resolve("cuda") == torch.device("cuda:0")
    assert device.resolve(torch.device("cuda:1")) == torch.device("cuda:1")


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there(gpus, name, count):
    gpus(count)
    with pytest.raises(RuntimeError, match=rf"'{name}' is not there.*sees {count} GPU.*'auto'"):
        device.resolve(name)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CPU", "", None])
def test_an_unknown_name(name):
    with pytest.raises(ValueError, match="'auto', 'cpu', 'cuda'"):
        device.resolve(name)


def test_denormals_are_flushed():
    torch.set_flush_denormal(False)
    tiny = torch.tensor([1e-39])
    assert (tiny * 0.5).item() > 0
    device.resolve("cpu")
    assert (tiny * 0.5).item() == 0


@pytest.mark.parametrize(
    "wrong",
    [{"n": "3"}, {"n": -1}, {"n": True}, {"n": 2**70}, {"x": float("nan")}, {"x": "1"}, {"text": 3},
     {"size": 8}, {"size": (8,)}, {"size": "88"}, {"size": (8, -1)}, {"on": [1, 2]}, {"names": [1]},
     {"names": "a"}, {"frames": [[1]]}, 
     {"layer": np.array(["a", "b"])}, {"spacing": (1, 2, float("nan"))}],
)  # fmt: skip
def test_an_argument_of_another_type_is_named_before_anything_starts(wrong):
    @typed
    def call(
        frames,
        size,
        layer=None,
        *,
        n=1,
        x=0.5,
        text="a",
        on=True,
        names=(),
        spacing=(1.0, 1.0, 1.0),
    ):
        return n, x, size

    frames = np.zeros(3)
    given = {"n": np.int64(2), "x": 1, "names": ("a",), "on": np.True_, "spacing": [1, 1, 2.5]}
    assert call(frames, np.array([8, 8]), **given)[:2] == (2, 1)
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be .*, not "):
        call(**{"frames": frames, "size": (8, 8)} | wrong)
