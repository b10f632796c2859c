"""The one loss that learns depth from other views, against closed forms and a plain loop."""

import runpy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from fathom import losses  # noqa: E402
from fathom.errors import ConfigError, ShapeError  # noqa: E402
from fathom.losses import ViewLoss, Views  # noqa: E402
from fathom.losses.views import shrink  # noqa: E402

BENCHMARK = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "selfsupervised_step.py"))


def textured(height, width, seed=0):
    """A smooth random picture; neighbouring pixels differ little, so that a warp by less than a pixel is linear."""
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def pair(disparity, height=16, width=64):
    """A pair whose left disparity [px] is known: the left view reads the right one."""
    right = textured(height, width)
    return losses.sample_horizontal(right, -disparity), right


def test_identical_views_and_no_disparity_cost_nothing():
    picture, flat = textured(16, 32), [torch.zeros(1, 1, 16 // 2**s, 32 // 2**s) for s in range(3)]
    for warp, options in (
        ("linearised", {"photometric": "squared", "smoothness": "squared"}),
        ("disparity", {"left_right_weight": 1.0}),
    ):
        right = flat if warp == "disparity" else ()
        total, parts = ViewLoss(warp, **options)(Views(picture, flat, right=picture, right_disparities=right))
        assert total.item() < 1e-6
        assert set(parts) == {"photometric", "smoothness"} | ({"left_right"} if warp == "disparity" else set())


def test_monodepth_is_the_sum_of_its_published_parts():
    generator = torch.Generator().manual_seed(1)
    left, right = textured(16, 32, 2), textured(16, 32, 3)
    maps = [0.1 * torch.rand(2, 1, 1, 16 // 2**s, 32 // 2**s, generator=generator) for s in range(2)]
    views = Views(left, [m[0] for m in maps], right=right, right_disparities=[m[1] for m in maps])
    total, _ = ViewLoss("disparity", left_right_weight=1.0)(views)
    wanted = 0.0
    for scale, (d_left, d_right) in enumerate(maps):
        width = d_left.shape[-1]
        small = [shrink(view, tuple(d_left.shape[-2:])) for view in (left, right)]
        rebuilt = (
            losses.sample_horizontal(small[1], -width * d_left),
            losses.sample_horizontal(small[0], width * d_right),
        )
        wanted += sum(losses.monodepth_photometric_loss(a, b) for a, b in zip(rebuilt, small, strict=True))
        smooth = sum(losses.edge_aware_smoothness_loss(d, i) for d, i in zip((d_left, d_right), small, strict=True))
        wanted += 0.1 * smooth / 2**scale
        wanted += losses.left_right_consistency_loss(width * d_left, width * d_right)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_monodepth2_equals_the_loop_over_scales_and_views():
    # Where unmoved views are hidden by the noise of the auto-mask nothing differs; it is off by its 1e-5 elsewhere.
    views = BENCHMARK["make_views"](2, 16, 24)
    total, parts = ViewLoss("depth", **BENCHMARK["OPTIONS"])(views)
    torch.manual_seed(0)
    assert total.item() == pytest.approx(BENCHMARK["naive_loss"](views).item(), abs=1e-5)
    total.backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in BENCHMARK["leaves"](views))
    assert list(parts) == ["photometric", "smoothness"]


def test_gradients_by_depth_are_those_of_differences():
    base = BENCHMARK["make_views"](1, 8, 8, dtype=torch.float64)
    loss = ViewLoss("depth", photometric="ssim", smoothness="second_order", full_resolution=True)

    def of(sigmoid, motions):
        views = Views(
            base.target,
            [sigmoid],
            to_depth=lambda values: 1 / (0.5 + values),
            sources=base.sources,
            motions=motions,
            intrinsics=base.intrinsics,
        )
        return loss(views)[0]

    assert torch.autograd.gradcheck(of, (base.disparities[0], base.motions), eps=1e-7, atol=1e-4, nondet_tol=0.0)


def test_sfmlearner_sums_over_sources_and_weighs_by_the_masks():
    views = BENCHMARK["make_views"](2, 16, 24)
    logits = [torch.full((2, 4, 16 // 2**s, 24 // 2**s), 0.0) for s in range(4)]  # explained by one half
    options = {"photometric": "l1", "intensity_span": 2.0, "smoothness": "second_order", "smoothness_weight": 0.0}
    plain = ViewLoss("depth", **options)(views)[1]["photometric"]
    masked = ViewLoss("depth", explainability_weight=0.2, **options)(Views(**{**vars(views), "explainability": logits}))
    assert masked[1]["photometric"].item() == pytest.approx(0.5 * plain.item(), rel=1e-5)
    assert masked[1]["explainability"].item() == pytest.approx(4 * 2 * 0.6931472, rel=1e-5)
    one = Views(**{**vars(views), "sources": views.sources[:, :1], "motions": views.motions[:, :1]})
    other = Views(**{**vars(views), "sources": views.sources[:, 1:], "motions": views.motions[:, 1:]})
    apart = [ViewLoss("depth", **options)(v)[1]["photometric"].item() for v in (one, other)]
    assert plain.item() == pytest.approx(sum(apart), rel=1e-5)


def test_a_scene_that_stands_still_teaches_nothing_with_the_auto_mask():
    views = BENCHMARK["make_views"](1, 16, 24)
    still = Views(**{**vars(views), "sources": views.target[:, None].repeat(1, 2, 1, 1, 1)})
    options = {**BENCHMARK["OPTIONS"], "smoothness_weight": 0.0}
    total, _ = ViewLoss("depth", **options)(still)
    total.backward()
    assert abs(total.item()) < 1e-4
    assert max(leaf.grad.abs().max().item() for leaf in BENCHMARK["leaves"](still)) == 0.0


def test_pixels_outside_the_other_view_can_be_left_out():
    left, right = pair(torch.full((1, 1, 16, 64), 8.0))
    share = [torch.full((1, 1, 16, 64), 8.0 / 64)]
    wrong = left.clone()
    wrong[..., :8] = 1 - wrong[..., :8]  # columns that the right view does not show
    kept = ViewLoss("disparity", photometric="l1", smoothness_weight=0.0)(Views(wrong, share, right=right))[0]
    masked = ViewLoss("disparity", photometric="l1", smoothness_weight=0.0, mask_outside=True)
    assert masked(Views(wrong, share, right=right))[0].item() < 1e-6 < kept.item()


def fitted(warp, left, right, start, steps=250):
    """Move one disparity map down the loss of a warp; three scales, the coarser ones shrunk from it."""
    logits = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([logits], lr=0.003)
    loss = ViewLoss(warp, photometric="squared", intensity_span=255.0, smoothness="squared", smoothness_weight=0.5)
    for _ in range(steps):
        shares = [shrink(logits, (16 // 2**s, 64 // 2**s)) for s in range(3)]
        total, _ = loss(Views(left, shares, right=right))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return 64 * logits.detach()


def test_the_linearised_warp_reaches_the_disparity_of_the_plain_one():
    truth = torch.linspace(2.0, 5.0, 64).expand(1, 1, 16, 64).contiguous()
    left, right = pair(truth)
    start = torch.full((1, 1, 16, 64), 3.0 / 64)
    found = {warp: fitted(warp, left, right, start) for warp in ("linearised", "disparity")}
    inside = (..., slice(2, -2), slice(8, -4))
    for disparity in found.values():
        assert (disparity - truth)[inside].abs().mean().item() < 0.15
    assert (found["linearised"] - found["disparity"])[inside].abs().mean().item() < 0.15


@pytest.mark.parametrize(
    ("warp", "views", "words"),
    [
        ("disparity", {}, "right view"),
        ("linearised", {}, "right view"),
        ("depth", {}, "gives depth"),
    ],
)
def test_what_is_missing_is_named(warp, views, words):
    with pytest.raises(ConfigError, match=words):
        ViewLoss(warp)(Views(textured(8, 16), [torch.zeros(1, 1, 8, 16)], **views))


def test_left_right_consistency_needs_both_sides():
    picture = textured(8, 16)
    with pytest.raises(ConfigError, match="both views"):
        ViewLoss("disparity", left_right_weight=1.0)(Views(picture, [torch.zeros(1, 1, 8, 16)], right=picture))


def test_sources_must_fit():
    views = BENCHMARK["make_views"](1, 8, 16)
    with pytest.raises(ShapeError, match="sources"):
        ViewLoss("depth")(Views(**{**vars(views), "sources": views.sources[..., :8]}))
