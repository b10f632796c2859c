"""The embedded models' training: matrices in 4 bits, and ground truth of several cameras."""

import argparse
from queue import Queue

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from fathom.models.four_bits import GROUP, find_grid, snap  # noqa: E402


@pytest.fixture(scope="module")
def train(load_stage):
    return load_stage("train")


@pytest.fixture
def data(tmp_path):
    """One NYU frame and one of another camera: planes of 2 m, labels 1 / depth."""
    rng = np.random.default_rng(0)
    for source, name in (("nyu", "0001"), ("rgbd", "other-0003")):
        (tmp_path / "cache" / source).mkdir(parents=True)
        label = (0.5 + 0.01 * rng.random((320, 416))).astype(np.float16)
        image = rng.integers(0, 256, (320, 416, 3), np.uint8)
        np.savez(tmp_path / "cache" / source / f"{name}.npz", image=image, inverse_depth=label)
    for folder, name in (("nyu/depth", "0001"), ("rgbd/other/depth_mm", "0003")):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / f"{name}.png"), np.full((480, 640), 2000, np.uint16))
    (tmp_path / "nyu" / "train.txt").write_text("0001\n")
    (tmp_path / "rgbd" / "other" / "focal.txt").write_text(f"{2 * 519.47 / 480}\n")
    return tmp_path


def test_the_optimiser_moves_exact_values_and_gradients_see_four_bits(train):
    joint = train.Joint()
    before = {name: value.clone() for name, value in joint.state_dict().items()}
    grids = train.FourBits(joint)
    grids.snap()
    for name, value in joint.state_dict().items():
        if ".blocks." in name and value.ndim == 2:
            assert torch.equal(value, snap(before[name], find_grid(before[name])))
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name])
    grids.restore()
    assert all(torch.equal(value, before[name]) for name, value in joint.state_dict().items())


def test_a_packaged_model_keeps_its_grids_and_learns_from_small_moves(train):
    joint = train.Joint()
    names, weights = train.FourBits.matrices(joint)
    stored = {name: find_grid(weight.detach()) for name, weight in zip(names, weights, strict=True)}
    with torch.no_grad():
        for name, weight in zip(names, weights, strict=True):
            weight.copy_(snap(weight, stored[name]))
    before = [weight.detach().clone() for weight in weights]
    grids = train.FourBits(joint, stored)
    grids.snap()
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
    grids.restore()
    with torch.no_grad():
        for weight, grid in zip(weights, grids.grids, strict=True):
            weight.add_(0.3 * grid.steps.repeat_interleave(GROUP, 1))
    grids.refresh()
    grids.snap()
    moved = torch.cat([(weight != value).flatten() for weight, value in zip(weights, before, strict=True)])
    assert 0.25 < moved.float().mean() < 0.3  # the outermost need half a step
    rounded = train.FourBits.matrices(grids.rounded(joint))[1]
    assert all(torch.equal(weight, value) for weight, value in zip(rounded, weights, strict=True))


def test_a_camera_of_twice_the_focal_length_shows_everything_half_as_far(train, data):
    sets = train.load(data / "cache", data / "nyu", data / "rgbd")
    [nyu], [other] = sets["nyu"], sets["rgbd"]
    np.testing.assert_allclose(nyu.log_depth, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(other.log_depth, np.log(1), atol=1e-6)
    assert not nyu.mask[0].any()
    assert other.mask.all()


def test_pictures_of_validation_are_left_out(train, data):
    (data / "nyu" / "train.txt").write_text("0002\n")
    assert "nyu" not in train.load(data / "cache", data / "nyu", data / "rgbd")


def test_a_picture_enlarged_is_nearer(train, data):
    args = argparse.Namespace(size=train.SIZE, steps=24, batch=4, seed=0)
    queue = Queue()
    train.batches(args, train.load(data / "cache", data / "nyu", data / "rgbd"), 0, queue)
    shapes, seen = set(), []
    while (batch := queue.get()) is not None:
        _, image, _, truth, _, mask = batch
        shapes.add(tuple(image.shape[-2:]))
        assert image.shape[-2:] == truth.shape[-2:] == mask.shape[-2:]
        plane = truth[:, 0, 0, 0].exp()
        assert bool(((truth.exp() - plane[:, None, None, None]).abs() < 1e-4).all())
        if image.shape[-2:] == train.SIZE:
            seen += plane.tolist()
    assert len(shapes) > 1
    assert max(seen) == pytest.approx(2.0, rel=0.02)  # a whole frame of NYU
    assert min(seen) < 0.9  # the other camera, cropped


def test_a_poster_hangs_on_a_plane_and_nowhere_else(train):
    rng = np.random.default_rng(0)
    image = rng.integers(100, 150, (90, 120, 3), np.uint8)
    y, x = np.mgrid[:90, :120].astype(np.float32)
    wall, poster = 0.2 + 0.001 * x + 0.002 * y, np.zeros((30, 30, 3), np.uint8)
    hung = train.hang(image, wall, poster, rng)
    rows, columns = np.nonzero((hung != image).all(-1))
    box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    assert 90 * 120 > rows.size >= 0.15**2 * 90 * 120 * 0.9
    assert (hung[box] == 0).all()
    hung[box] = image[box]
    np.testing.assert_array_equal(hung, image)
    heap = wall + 0.1 * rng.random(wall.shape, np.float32)
    assert train.hang(image, heap, poster, rng) is image


@pytest.mark.parametrize("size", [(210, 280), (182, 238)])
def test_pictures_of_every_aspect_have_about_as_many_patches(train, size):
    found = train.shapes(size)
    assert found[0] == size
    for (height, width), aspect in zip(found, train.ASPECTS, strict=True):
        assert height % 14 == width % 14 == 0
        assert height / width == pytest.approx(aspect, rel=0.1)
        assert height * width == pytest.approx(size[0] * size[1], rel=0.06)


def test_an_error_of_the_loader_reaches_who_waits(train):
    queue = Queue()
    train.feed(argparse.Namespace(size=train.SIZE, steps=1, batch=1, seed=0), {}, 0, queue)
    assert isinstance(queue.get_nowait(), Exception)


@pytest.fixture(scope="module")
def prune(load_stage):
    return load_stage("prune")


def test_narrow_keys_keep_the_products_of_queries_and_keys_that_lie_in_few_channels(prune):
    generator = torch.Generator().manual_seed(0)
    channels = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    query, key = (torch.randn(2, 3, 50, 64, generator=generator) for _ in range(2))
    key[..., prune.KEY_WIDTH :] *= 1e-6  # what the queries have there meets nothing
    query, key = query @ channels.T, key @ channels.T + 5.0  # a mean, which softmax does not see
    first, second = prune.narrow_keys(query, key)
    expected = (query @ key.transpose(-2, -1)).softmax(-1)
    got = ((query @ first) @ (key @ second).transpose(-2, -1)).softmax(-1)
    assert first.shape == second.shape == (3, 64, prune.KEY_WIDTH)
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)


def test_the_units_that_stay_are_those_that_the_others_cannot_replace(prune):
    generator = torch.Generator().manual_seed(0)
    needed = torch.randn(400, 5, generator=generator)
    copies = needed @ torch.randn(5, 11, generator=generator) * 30  # large, but all of it is in the five
    table = torch.cat([copies, needed], 1)
    gram, moments = prune.normal_equations(table, needed @ torch.randn(5, 4, generator=generator) + 2.0)
    rows = prune.choose(gram, moments, 5)
    assert len(rows) == 5 and rows.tolist() == sorted(rows.tolist())
    kept = torch.cat([rows, torch.tensor([16])])
    weight, bias = prune.solve(gram[kept][:, kept], moments[kept])
    whole, offset = prune.solve(gram, moments)
    torch.testing.assert_close(table[:, rows] @ weight.T + bias, table @ whole.T + offset, atol=0.05, rtol=0)


def test_a_block_that_has_room_for_all_of_a_large_one_becomes_it(prune):
    modeling = pytest.importorskip("transformers.models.dinov2.modeling_dinov2")
    config = modeling.Dinov2Config(hidden_size=128, num_attention_heads=2, mlp_ratio=2, num_hidden_layers=1)
    torch.manual_seed(0)
    layer, block = modeling.Dinov2Layer(config).eval(), prune.Block(128, 2, 256).eval()
    with torch.inference_mode():
        for parameter in layer.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
        for name in ("q_proj", "k_proj"):  # each head needs no more than the channels that a narrow block has
            getattr(layer.attention, name).weight.unflatten(0, (2, -1))[:, prune.KEY_WIDTH :] = 0
            getattr(layer.attention, name).bias.unflatten(0, (2, -1))[:, prune.KEY_WIDTH :] = 0
        tokens = torch.randn(48, 20, 128)
        own, large = prune.narrow_block(layer, block, tokens, tokens)
        other = torch.randn(4, 20, 128)
        expected, got = layer(other), block(other)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(own, large, atol=0.02, rtol=0)
    assert (got - expected).abs().mean() < 0.05 * (expected - other).abs().mean()
