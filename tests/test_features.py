"""Cut-outs against torch's own interpolation, batches against single passes."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from stce import features, models
from stce.clips import Clips
from stce.engine import storage
from stce.supervoxels import segment


@pytest.fixture(scope="module")
def world():
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 32, 32, 1), np.uint8)
    clips = Clips(frames, [0, 1, 0], ["a", "b", "c"], ["p", "p", "p"], ("x", "y"))
    network = models.build("r3d18", 2, 0.125, in_channels=1, input_size=(8, 32, 32)).eval()
    network.set_moments([0.4], [0.2])
    return network, clips, segment(clips, n_segments=(4, 9), progress=False)


def _reference(network, clips, supervoxels, row):
    """One supervoxel, cut out and resized the slow way."""
    entry = supervoxels.table.iloc[row]
    video = int(entry.video)
    clip = network.prepare(torch.from_numpy(clips.frames[video : video + 1]))[0]
    patch = clip * torch.from_numpy(supervoxels.mask(row))
    t, y, x = (slice(int(entry[f"{a}0"]), int(entry[f"{a}1"])) for a in "tyx")
    return interpolate(patch[None, :, t, y, x], clip.shape[1:], mode="trilinear")[0]


def test_cut_equals_crop_and_interpolate(world):
    network, clips, supervoxels = world
    columns = ["t0", "t1", "y0", "y1", "x0", "x1"]
    for row in range(len(supervoxels)):
        entry = supervoxels.table.iloc[row]
        video = int(entry.video)
        patch = features.cut(
            network.prepare(torch.from_numpy(clips.frames[video : video + 1])),
            torch.from_numpy(supervoxels.labels[video, int(entry.level)])[None],
            torch.tensor([entry.label]),
            torch.tensor([entry[columns].to_numpy(np.int64)]),
        )
        expected = _reference(network, clips, supervoxels, row)
        torch.testing.assert_close(patch[0], expected, atol=2e-5, rtol=1e-4)


def test_batched_equals_one_by_one(world):
    network, clips, supervoxels = world
    batched = features.extract(network, clips, supervoxels, batch_size=7, progress=False)
    with torch.inference_mode():
        single = [
            network.features(_reference(network, clips, supervoxels, r)[None])[0].numpy()
            for r in range(len(supervoxels))
        ]
    np.testing.assert_allclose(batched, single, atol=1e-4, rtol=1e-3)


def test_mean_fill_is_zero_after_normalisation(world):
    network, clips, supervoxels = world
    blank = torch.full((1, 8, 32, 32, 1), round(0.4 * 255), dtype=torch.uint8)
    assert network.prepare(blank).abs().max() < 1e-5
    patch = _reference(network, clips, supervoxels, 0)
    assert (patch == 0).any()


def test_disk_equals_memory_and_resumes(world, tmp_path, monkeypatch):
    network, clips, supervoxels = world
    monkeypatch.setattr(features, "ROWS_PER_CHUNK", 8)
    memory = features.extract(network, clips, supervoxels, batch_size=8, progress=False)
    done = []
    real = features.batches

    def stopped(*args, rows, **kwargs):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rows)
        return real(*args, rows=rows, **kwargs)

    monkeypatch.setattr(features, "batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        features.extract(network, clips, supervoxels, tmp_path, batch_size=8, progress=False)
    monkeypatch.setattr(features, "batches", real)
    disk = features.extract(network, clips, supervoxels, tmp_path, batch_size=8, progress=False)
    assert np.array_equal(disk[:], memory)


def test_clip_features_are_the_trunk_of_the_network(world):
    network, clips, _ = world
    z = features.extract_clips(network, clips, batch_size=2)
    with torch.inference_mode():
        whole = network(network.prepare(torch.from_numpy(clips.frames)))
        logits = network.logits(torch.from_numpy(z))
    torch.testing.assert_close(whole, logits, atol=1e-4, rtol=1e-4)


def test_random_supervoxels_are_cut_like_the_concepts(world):
    network, clips, supervoxels = world
    frames = np.concatenate([clips.frames] * 8)
    ids = [str(i) for i in range(len(frames))]
    random_clips = Clips(frames, np.zeros(24, int), ids, ids, ("random",))
    rng = np.random.default_rng(0)
    drawn = features.random_supervoxels(random_clips, 24, 6, rng, n_segments=(4, 9))
    z = drawn.embed(network)
    assert z.shape == (len(drawn), network.n_features) == (24, network.n_features)
    alone = features.extract_rows(network, drawn.clips, drawn.cut, drawn.rows[7:8])
    np.testing.assert_allclose(z[7], alone[0], atol=1e-4, rtol=1e-3)
    known = features.extract(network, clips, supervoxels, progress=False)
    nearest = np.abs(z[:, None] - known[None]).max(2).min(1)
    assert nearest.max() < 1e-4


def test_left_in_place_a_supervoxel_keeps_its_voxels(world):
    network, clips, supervoxels = world
    z = features.extract(network, clips, supervoxels, stretch=False, progress=False)
    for row in (0, len(supervoxels) - 1):
        video = int(supervoxels.table["video"].iloc[row])
        clip = network.prepare(torch.from_numpy(clips.frames[video : video + 1]))
        with torch.inference_mode():
            alone = network.features(clip * torch.from_numpy(supervoxels.mask(row)))
        np.testing.assert_allclose(z[row], alone[0], atol=1e-4, rtol=1e-3)


def test_a_chunk_that_was_never_written_is_computed(world, tmp_path, monkeypatch):
    network, clips, supervoxels = world
    monkeypatch.setattr(features, "ROWS_PER_CHUNK", 8)
    whole = features.extract(network, clips, supervoxels, progress=False)
    grown, parts = features.grown, tmp_path / ".features.zarr.chunks"

    def lost(path):
        (parts / "c" / "1" / "0").unlink()  # as when the disk was full
        return grown(path)

    monkeypatch.setattr(features, "grown", lost)
    with pytest.raises(FileNotFoundError, match="c/1/0 is missing, and zeros would be read"):
        features.extract(network, clips, supervoxels, tmp_path, progress=False)
    monkeypatch.setattr(features, "grown", grown)
    again = features.extract(network, clips, supervoxels, tmp_path, progress=False)
    assert np.array_equal(again[:], whole) and not parts.exists()
    # What is complete is neither computed nor written again.
    monkeypatch.setattr(features, "grown", lost)
    again = features.extract(network, clips, supervoxels, tmp_path, progress=False)
    assert np.array_equal(again[:], whole)


def test_a_hundred_chunks_share_a_file(world, tmp_path, monkeypatch):
    network, clips, supervoxels = world
    monkeypatch.setattr(features, "ROWS_PER_CHUNK", 1)
    monkeypatch.setattr(storage, "PACKED", 10)
    made = features.extract(network, clips, supervoxels, tmp_path, progress=False)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 1 + -(-len(supervoxels) // 10)
    np.testing.assert_array_equal(made[:], features.extract(network, clips, supervoxels))
    rows = [len(supervoxels) - 1, 0, 3, 3]
    assert np.array_equal(storage.read_rows(made, rows), made[:][rows])


def test_arrays_that_a_killed_run_had_only_begun_are_made_again(world, tmp_path):
    network, clips, supervoxels = world
    names = ("features.zarr", "labels.zarr", ".features.zarr.chunks", ".labels.zarr.chunks")
    for name in names:
        (tmp_path / name).mkdir()  # what zarr makes first
        (tmp_path / name / "zarr.json.12ab.partial").write_text("{")
    cut = segment(clips, tmp_path, n_segments=(4, 9), progress=False)
    np.testing.assert_array_equal(cut.labels[:], supervoxels.labels)
    made = features.extract(network, clips, cut, tmp_path, progress=False)
    np.testing.assert_array_equal(
        made[:], features.extract(network, clips, supervoxels, progress=False)
    )
