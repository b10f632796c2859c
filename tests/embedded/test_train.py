"""The embedded models' training: matrices in 4 bits, and ground truth of several cameras."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")

from fathom.models.four_bits import GROUP, Grid, codes_of, find_grid, snap  # noqa: E402


@pytest.fixture(scope="module")
def train(load_stage):
    return load_stage("train")


@pytest.fixture(scope="module")
def views(load_stage):
    return load_stage("views")


SIZE, CANVAS = (210, 280), (336, 448)


@pytest.fixture
def data(tmp_path):
    """One NYU frame and one of another camera: planes of 2 m, labels 1 / depth."""
    rng = np.random.default_rng(0)
    for source, name in (("nyu", "0001"), ("rgbd", "other-0003")):
        (tmp_path / "cache" / source).mkdir(parents=True)
        label = (0.5 + 0.01 * rng.random((336, 448))).astype(np.float16)
        image = rng.integers(0, 256, (336, 448, 3), np.uint8)
        np.savez(tmp_path / "cache" / source / f"{name}.npz", image=image, inverse_depth=label, aspect=4 / 3)
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


def test_codes_that_are_kept_stay_while_the_rest_is_learned(train):
    joint = train.Joint().eval()
    names, weights = train.FourBits.matrices(joint)
    grids = {name: find_grid(weight.detach()) for name, weight in zip(names, weights, strict=True)}
    codes = {name: codes_of(weight.detach(), grids[name]) for name, weight in zip(names, weights, strict=True)}
    train.keep_codes(joint, grids)
    image = torch.rand(1, 3, 56, 70)
    joint(image)[0].mean().backward()
    factors = [value for name, value in joint.named_parameters() if name.endswith(train.FACTOR)]
    assert len(factors) == len(names) and all(value.grad.abs().sum() > 0 for value in factors[1:])
    with torch.no_grad():
        for value in joint.parameters():
            value.add_(0.1 * torch.rand_like(value))
        expected = joint(image)
        stored = joint.split(grids)["general"]
        plain = train.Joint().eval()
        plain.net.load_state_dict(stored["average"])
        for got, wanted in zip(plain(image), expected, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    for name, code in codes.items():
        kept = Grid(*stored["grids"][name])
        assert torch.equal(codes_of(stored["average"][name], kept), code)
        assert not torch.equal(kept.scale, grids[name].scale)
    assert "grids" not in train.Joint().split({})["indoor"]


def test_a_camera_of_twice_the_focal_length_shows_everything_half_as_far(views, data):
    pool = views.load(data / "cache", data / "nyu", data / "rgbd")
    nyu, other = (pool.truths[pool.truth_of[pool.sources[name][0]]] for name in ("nyu", "rgbd"))
    known = nyu.isfinite()
    torch.testing.assert_close(nyu[known], torch.full_like(nyu[known], np.log(2)))
    torch.testing.assert_close(other, torch.zeros_like(other), atol=1e-6, rtol=0)
    assert not known[: views.FRAME].any() and not known[:, -views.FRAME :].any()
    assert known[views.FRAME : -views.FRAME, views.FRAME : -views.FRAME].all()


def test_pictures_of_validation_are_left_out(views, data):
    (data / "nyu" / "train.txt").write_text("0002\n")
    assert "nyu" not in views.load(data / "cache", data / "nyu", data / "rgbd").sources


def test_a_cache_without_pictures_is_told(views, data):
    with pytest.raises(SystemExit, match="holds no pictures"):
        views.load(data / "nowhere", data / "nyu", data / "rgbd")


def test_a_picture_enlarged_is_nearer(views, data):
    pool = views.load(data / "cache", data / "nyu", data / "rgbd")
    shapes, seen = set(), []
    for step in range(24):
        batch = views.batch_of(pool, step, seed=0, count=4, size=SIZE)
        shapes.add(tuple(batch.image.shape[-2:]))
        assert batch.image.shape[-2:] == batch.label.shape[-2:] == batch.mask.shape[-2:] == batch.truth.shape[-2:]
        assert batch.metric.tolist() == [0, 1, 2, 3]  # both sources have ground truth
        assert 0 <= batch.image.min() and batch.image.max() <= 1
        plane = batch.truth.flatten(1).median(1).values.exp()
        for truth, mask, depth in zip(batch.truth, batch.mask, plane, strict=True):
            torch.testing.assert_close(truth[mask].exp(), depth.expand(int(mask.sum())), atol=1e-4, rtol=0)
        if batch.image.shape[-2:] == SIZE:
            seen += plane.tolist()
    assert len(shapes) > 1
    assert max(seen) == pytest.approx(2.0, rel=0.02)  # a whole frame of NYU
    assert min(seen) < 0.9  # the other camera, cropped


def test_the_mix_says_how_often_a_source_is_seen(views, data):
    pool = views.load(data / "cache", data / "nyu", data / "rgbd")
    _, sources = views.choose(pool, 4000, {"nyu": 3.0, "rgbd": 1.0}, np.random.default_rng(0))
    assert (sources == "nyu").mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("item", ["room=0.3", "nyu", "nyu=much", "nyu=-1", "nyu=nan"])
def test_a_mix_that_names_no_source_or_share_is_refused(train, item):
    assert train.read_mix(["nyu=0.5", "rooms=0"]) == train.MIX | {"nyu": 0.5, "rooms": 0.0}
    with pytest.raises(SystemExit, match="Expected SOURCE=SHARE"):
        train.read_mix([item])


def test_a_batch_depends_on_seed_and_step_alone(views, data):
    pool = views.load(data / "cache", data / "nyu", data / "rgbd")
    first, again, other = (views.batch_of(pool, step, seed=1, count=2, size=SIZE) for step in (5, 5, 6))
    assert torch.equal(first.image, again.image) and torch.equal(first.label, again.label)
    assert first.image.shape != other.image.shape or not torch.equal(first.image, other.image)


def test_picture_and_label_are_cut_and_mirrored_alike(views):
    """A picture whose grey is its label keeps saying so, whatever is cut; the whole of it is the whole."""
    rng = np.random.default_rng(0)
    grey = torch.nn.functional.interpolate(torch.rand(1, 1, 6, 8), CANVAS, mode="bicubic").clamp(0, 1)
    boxes = torch.from_numpy(views.windows(np.full(6, 4 / 3), np.zeros(6), np.zeros(6, bool), SIZE, rng)).float()
    flips = torch.tensor([True, False] * 3)
    grid = views.grid_of(boxes, *SIZE, flips)
    fine = views.grid_of(boxes, SIZE[0] * 2, SIZE[1] * 2, flips)
    once = views.sample(grey.expand(6, -1, -1, -1), grid)
    mean = torch.nn.functional.avg_pool2d(views.sample(grey.expand(6, -1, -1, -1), fine), 2)
    torch.testing.assert_close(once, mean, atol=0.01, rtol=0)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(views.sample(grey, views.grid_of(whole, *CANVAS)), grey, atol=1e-5, rtol=0)
    mirrored = views.sample(grey, views.grid_of(whole, *CANVAS, torch.tensor([True])))
    torch.testing.assert_close(mirrored, grey.flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("aspect", [4 / 3, 0.75, 1.0, 3.7])
@pytest.mark.parametrize("shape", [(210, 280), (280, 210), (126, 448)])
def test_crops_lie_inside_and_keep_their_aspect(views, aspect, shape):
    rng = np.random.default_rng(0)
    count = 200
    framed = np.arange(count) % 2 == 0
    left, top, width, height = views.windows(np.full(count, aspect), framed, np.ones(count, bool), shape, rng).T
    border = np.where(framed, views.FRAME, 0)[:, None] / np.array(CANVAS[::-1])
    assert (left >= border[:, 0] - 1e-9).all() and (left + width <= 1 - border[:, 0] + 1e-9).all()
    assert (top >= border[:, 1] - 1e-9).all() and (top + height <= 1 - border[:, 1] + 1e-9).all()
    np.testing.assert_allclose(aspect * width / height, shape[1] / shape[0], rtol=0.031)


def test_a_poster_hangs_on_a_plane_and_nowhere_else(views):
    generator = torch.Generator().manual_seed(0)
    image = 0.4 + 0.2 * torch.rand(1, 3, 90, 120, generator=generator)
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    wall, poster, yes = (0.2 + 0.001 * x + 0.002 * y)[None, None], torch.zeros(1, 3, 90, 120), np.ones(1, bool)
    hung = views.hang(image, wall, poster, yes, np.random.default_rng(0))
    rows, columns = np.nonzero((hung != image).all(1)[0].numpy())
    box = (..., slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    assert 90 * 120 > rows.size >= 0.15**2 * 90 * 120 * 0.9
    assert (hung[box] == 0).all()
    hung[box] = image[box]
    assert torch.equal(hung, image)
    assert torch.equal(views.hang(image, wall, poster, ~yes, np.random.default_rng(0)), image)
    heap = wall + 0.1 * torch.rand(wall.shape, generator=generator)
    assert torch.equal(views.hang(image, heap, poster, yes, np.random.default_rng(0)), image)


def test_blurring_keeps_the_mean_and_spreads_a_point_as_far_as_asked(views):
    point = torch.zeros(2, 3, 33, 33)
    point[:, :, 16, 16] = 1
    out = views.blur(point, np.array([0.6, 1.3]))
    torch.testing.assert_close(out.sum((2, 3)), torch.ones(2, 3))
    offsets = torch.arange(33.0) - 16
    spread = ((out.sum(2) * offsets**2).sum(-1)).sqrt()
    torch.testing.assert_close(spread[:, 0], torch.tensor([0.6, 1.3]), atol=0.03, rtol=0)


@pytest.mark.parametrize("size", [(210, 280), (182, 238)])
def test_pictures_of_every_aspect_have_about_as_many_patches(views, size):
    found = views.shapes(size)
    assert found[0] == size
    for (height, width), aspect in zip(found, views.ASPECTS, strict=True):
        assert height % 14 == width % 14 == 0
        assert height / width == pytest.approx(aspect, rel=0.1)
        assert height * width == pytest.approx(size[0] * size[1], rel=0.06)


@pytest.mark.parametrize("is_levelled", [False, True])
def test_a_run_begins_with_what_prune_or_an_earlier_run_left(train, tmp_path, is_levelled):
    first, second = train.Joint(), train.Joint()
    state = first.net.state_dict() if is_levelled else first.state_dict()
    torch.save({"average": state} if is_levelled else state, tmp_path / "start.pt")
    assert train.start_of(tmp_path / "start.pt", second) is is_levelled
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_rate_waits_rises_and_falls(train):
    rates = [train.share_of_rate(step, 1000, 100) for step in range(1000)]
    assert set(rates[:100]) == {0.0}
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in range(100 + 50, 100 + 60)
    assert (np.diff(rates[160:]) < 0).all()
    assert rates[-1] < 1e-4


def test_eight_bits_round_the_inputs_of_layers_and_let_gradients_pass(train):
    joint = train.Joint()
    train.EightBits(joint)
    values = torch.linspace(-1, 3, 1001, requires_grad=True)
    [rounded] = train.EightBits.rounded(joint.net.context, (values,))
    assert len(rounded.unique()) <= 256
    torch.testing.assert_close(rounded, values, atol=4 / 255 / 2 + 1e-6, rtol=0)
    rounded.sum().backward()
    assert torch.equal(values.grad, torch.ones(1001))
    hooked = [name for name, layer in joint.net.named_modules() if layer._forward_pre_hooks]
    assert "blocks.0.qkv" in hooked and "detail" in hooked
    assert not {"patches", "depth_head", "inverse_head"} & set(hooked)


def test_the_second_head_learns_shape_where_there_is_no_ground_truth(train):
    label = torch.rand(2, 1, 28, 28) + 0.1
    mask = torch.ones_like(label, dtype=torch.bool)
    raw, log_depth = torch.randn(2, 1, 28, 28, requires_grad=True), torch.randn(2, 1, 28, 28, requires_grad=True)
    train.general_loss(raw, train.joined(raw, log_depth), label, mask).backward()
    assert raw.grad.abs().sum() > 0 and log_depth.grad.abs().sum() > 0
    perfect = train.general_loss(train.normalise(label, mask), train.joined(label, -label.log()), label, mask)
    assert perfect < 1e-4


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
