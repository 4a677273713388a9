import pytest
import torch

from stce.engine import device


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
