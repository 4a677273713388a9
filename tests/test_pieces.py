"""Work in pieces: the same digits however many threads there are, and no more than asked for."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stce import features, gradients, masking, models
from stce.datasets.textures import textures
from stce.engine.threads import forward, in_threads


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_results_keep_their_order_and_threads_their_number(threads):
    threads(3)
    inside = in_threads(lambda n: (n, torch.get_num_threads()), range(20))
    assert inside == [(n, 1) for n in range(20)]
    assert torch.get_num_threads() == 3


def test_the_mode_of_the_caller_holds_in_the_pieces(threads):
    threads(2)
    assert not any(in_threads(lambda _: torch.is_inference_mode_enabled(), range(4)))
    with torch.inference_mode():
        assert all(in_threads(lambda _: torch.is_inference_mode_enabled(), range(4)))


def test_an_error_in_a_piece_is_raised_and_gives_the_threads_back(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda n: 1 // n, [1, 0])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("safe", "most"), [(True, 2), (False, 1)])
def test_only_a_threadsafe_network_is_run_by_several_threads(threads, safe, most):
    threads(2)
    network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32)).eval()
    network.threadsafe = safe
    busy, seen, meeting = [], [], threading.Barrier(most)

    def work(few):
        busy.append(None)
        meeting.wait(timeout=30)  # breaks unless as many pieces as expected run at once
        seen.append(len(busy))
        meeting.wait(timeout=30)
        busy.pop()
        return torch.zeros(few.stop - few.start)

    assert len(forward(network, work, 16, "cpu")) == 16
    assert max(seen) == most


@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
@pytest.mark.parametrize(("side", "most"), [(56, 4), (112, 2)])
def test_pieces_are_of_like_size_and_cover_all_clips(n, side, most):
    network, parts = SimpleNamespace(clip_shape=(3, 16, side, side), threadsafe=False), []

    def work(few):
        parts.append(few.stop - few.start)
        return torch.arange(few.start, few.stop)

    assert forward(network, work, n, "cpu").tolist() == list(range(n))
    assert len(parts) == -(-n // most)
    assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize(("name", "width"), [("c3d", 0.125), ("r3d18", 0.125), ("i3d", 0.125)])
def test_no_digit_depends_on_the_number_of_threads(threads, name, width):
    # Ten classes at ten clips: a product that MKL shares out to two threads along its sums.
    network = models.build(name, 10, width, in_channels=1, input_size=(16, 32, 32)).eval()
    clips = textures(10, n_frames=16, size=(32, 32))
    places = torch.arange(16 * 32 * 32).reshape(1, 16, 32, 32) % 8
    found = []
    for count in (1, 2, 3):
        threads(count)
        z = features.extract_layer(network, clips)
        x = network.prepare(torch.from_numpy(np.asarray(clips.frames[:1])))
        steps = [(mode, 0, before) for mode in ("add", "remove") for before in range(5)]
        told = masking.predict(network, x, places, steps)
        told = np.stack([np.append(p, share) for p, share in told])
        found.append((z, gradients.at_clips(network, z, 1), told))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
