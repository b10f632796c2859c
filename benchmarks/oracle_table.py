"""Closed-form oracles of losses, metrics and alignment: computed here, tested from here, printed from here.

Run ``python benchmarks/oracle_table.py > docs/oracles_losses_metrics.md`` to rewrite the table. The tests compute every
row again (tests/metrics/test_metric_oracles.py), so the table cannot drift from the code.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fathom import losses, metrics
from fathom.alignment import align, fit_scale_median, fit_scale_median_of_ratios, fit_scale_shift
from fathom.metrics import batched
from fathom.types import DepthKind

Value = float | Sequence[float]


@dataclass(frozen=True)
class Oracle:
    """One closed-form value: what it is, what it must be, to what precision, and how to compute it."""

    group: str
    name: str
    expected: Value
    compute: Callable[[], Value]
    tolerance: float = 1e-6


G_TARGET = np.array([[1.0, 2.0, 4.0, 8.0]])
G_PRED = np.array([[1.1, 1.8, 5.0, 8.0]])
G_ALL = np.ones((1, 4), dtype=bool)


def _t(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _g_score(name: str) -> Callable[[], float]:
    return lambda: metrics.score_depth(G_PRED, G_TARGET, G_ALL)[name]


def _g_batched(name: str) -> Callable[[], float]:
    return lambda: batched.score_depth(_t(G_PRED)[None], _t(G_TARGET)[None], torch.ones(1, 1, 4, dtype=torch.bool))[
        name
    ].item()


def _g_loss(name: str, **options: float) -> Callable[[], float]:
    return lambda: losses.LOSSES[name](_t(G_PRED), _t(G_TARGET), **options).item()


def _g_silog(variant: str) -> Callable[[], float]:
    return lambda: metrics.silog(G_PRED, G_TARGET, G_ALL, variant=metrics.SILOG_VARIANTS[variant])


def _step(ratio: float = 2.0) -> np.ndarray:
    depth = np.full((12, 12), 2.0 * ratio)
    depth[:, :6] = 2.0
    return depth


def _bump(ratio: float = 2.0) -> np.ndarray:
    depth = np.full((12, 12), 2.0 * ratio)
    depth[4:8, 4:8] = 2.0
    return depth


def _f1(pred: np.ndarray, target: np.ndarray) -> float:
    return metrics.boundary_f1(pred, target, target > 0).f1


def _edge_error(shift: int) -> tuple[float, float]:
    columns = np.arange(60)
    truth = (1.0 + np.clip(columns - 19, 0, 2)) * np.ones((40, 1))
    pred = (1.0 + np.clip(columns - 19 - shift, 0, 2)) * np.ones((40, 1))
    everywhere = truth > 0
    return tuple(metrics.depth_boundary_error(pred, metrics.canny_edges(truth, everywhere), everywhere))


def _crop(name: str, height: int, width: int) -> tuple[int, int, int, int]:
    rows, columns = metrics.crop_slices(name, height, width)
    return rows.start, rows.stop, columns.start, columns.stop


def _variance_identity() -> tuple[float, float]:
    d = np.log(G_PRED / G_TARGET).ravel()
    pairs = float(((d[:, None] - d[None]) ** 2).sum()) / (2 * d.size**2)
    shifted = losses.silog_eigen2014_loss(_t(G_PRED), _t(G_TARGET), mean_weight=1.0).item()
    return shifted - pairs, float(np.mean((d - d.mean()) ** 2)) - pairs


def _berhu(errors: Sequence[float]) -> float:
    return losses.berhu_loss(_t(errors), torch.zeros(len(errors), dtype=torch.float64)).item()


def _berhu_gradient(errors: Sequence[float]) -> list[float]:
    pred = _t(errors).requires_grad_()
    (losses.berhu_loss(pred, torch.zeros_like(pred)) * len(errors)).backward()
    return pred.grad.tolist()


MIDAS_P, MIDAS_G = [[1.0, 2.0, 3.0, 4.0]], [[3.0, 5.0, 7.0, 10.0]]


def _trimmed_with_outlier(trim: float) -> float:
    pred = torch.arange(10, dtype=torch.float64).reshape(1, 1, 10)
    target = pred.clone()
    target[0, 0, 9] = 1e3
    # Both medians are 4.5; deviations are 2.5 and (25 - 4.5 + 995.5) / 10 = 101.6 of the target.
    return losses.trimmed_scale_shift_invariant_loss(pred, target, trim=trim, gradient_weight=0.0).item()


def _trimmed_by_hand(num_kept: int) -> float:
    p = (np.arange(10) - 4.5) / 2.5
    g = np.append(np.arange(9), 1e3) - 4.5
    residuals = np.sort(np.abs(p - g / np.abs(g).mean()))
    return float(residuals[:num_kept].sum()) / 20


def _ssim_constants() -> tuple[float, float]:
    a, b = torch.full((1, 1, 5, 5), 0.2, dtype=torch.float64), torch.full((1, 1, 5, 5), 0.6, dtype=torch.float64)
    error = losses.ssim_error_map(a, b, padding="valid").mean().item()
    return 1 - 2 * error, error


def _photometric_shapes() -> tuple[int, ...]:
    image = torch.zeros(1, 3, 7, 9)
    valid = losses.ssim_error_map(image, image, padding="valid").shape[2:]
    return *valid, *losses.ssim_error_map(image, image, padding="reflect").shape[2:]


def _minimiser(loss: str, option: str, error: float) -> float:
    """Derivative of the loss with respect to the log scale at its claimed minimiser."""
    best = math.log(error) if loss == "laplace_nll" else math.log(error**2)
    s = _t([best]).requires_grad_()
    losses.LOSSES[loss](_t([1.0 + error]), _t([1.0]), **{option: s}).backward()
    return s.grad.item()


def _static_scene() -> tuple[float, float]:
    errors = torch.zeros(1, 2, 8, 8)
    moving = torch.full((1, 2, 8, 8), 0.3)
    generator = torch.Generator().manual_seed(0)
    value = losses.min_reprojection_loss(moving, errors, generator=generator).item()
    share = losses.auto_mask(moving, errors, generator=generator).float().mean().item()
    return abs(value) < 1e-4, share


def _integer_warp() -> list[float]:
    image = torch.arange(6.0).reshape(1, 1, 1, 6)
    return losses.sample_horizontal(image, torch.full((1, 1, 1, 6), -2.0)).flatten().tolist()


def _ramp_warp() -> list[float]:
    image = torch.arange(6.0).reshape(1, 1, 1, 6)
    return losses.sample_horizontal(image, torch.full((1, 1, 1, 6), -0.5)).flatten().tolist()[1:]


def _garg_ramp() -> tuple[float, float]:
    ramp = 3.0 * torch.arange(9, dtype=torch.float64).reshape(1, 1, 1, 9)
    shift = torch.full((1, 1, 1, 9), 1.25, dtype=torch.float64, requires_grad=True)
    linear = losses.linearized_sample(ramp, shift, torch.full_like(shift, 0.5))
    true = losses.sample_horizontal(ramp, shift.detach())
    error = (linear - true)[..., 1:6].abs().max().item()
    linear[0, 0, 0, 4].backward()
    return error, shift.grad[0, 0, 0, 4].item()


def _left_right() -> float:
    left, right = torch.full((1, 1, 4, 10), 2.0), torch.full((1, 1, 4, 10), 3.0)
    return losses.left_right_consistency_loss(left, right).item() * 10


def _edge_smoothness() -> float:
    disparity = torch.arange(4.0).expand(1, 1, 4, 4)
    image = torch.stack([torch.arange(4.0) * 0.5, torch.zeros(4), torch.arange(4.0)])[None, :, None].expand(1, 3, 4, 4)
    return losses.edge_aware_smoothness_loss(disparity, image).item()


def _normal_angles() -> list[float]:
    angles = np.radians([0.0, 10.0, 20.0, 40.0])
    pred = np.stack((np.sin(angles), np.zeros(4), -np.cos(angles)), axis=-1)[None]
    target = np.broadcast_to(np.array([0.0, 0.0, -1.0]), (1, 4, 3))
    return list(metrics.score_normals(pred, target, np.ones((1, 4), bool)).values())


def _plane_normal() -> list[float]:
    depth = np.full((5, 5), 3.0)
    camera = np.array([[50.0, 0, 2], [0, 50.0, 2], [0, 0, 1]])
    return list(metrics.normals_from_depth(depth, depth > 0, intrinsics=camera)[0][2, 2] + 0.0)


def _overlap() -> tuple[float, float]:
    pred, target = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    counts = metrics.confusion_matrix(pred, target, target >= 0, num_classes=2)
    scores = metrics.score_confusion(counts)
    return scores["dice"], scores["miou"]


def _dice(pred: Sequence[float], target: Sequence[float]) -> float:
    return 1 - losses.dice_loss(_t([pred]), _t([target]), epsilon=1e-9).item()


def _whdr_one_wrong() -> tuple[float, float]:
    depth = np.array([[1.0, 2.0, 3.0, 4.0, 5.0]])
    first = np.stack((np.zeros(4, int), np.arange(4)), axis=1)
    second = first + np.array([0, 1])
    truth = np.array([-1, -1, -1, 1])
    pairs = metrics.PointPairs(first, second, truth, np.ones(4))
    return (
        metrics.whdr(depth, pairs, ratio_threshold=1.02),
        metrics.whdr(1 / depth, pairs, ratio_threshold=1.02),
    )


def _ate() -> float:
    target = np.zeros((5, 3))
    target[:, 2] = np.arange(5)
    pred = target.copy()
    pred[:, 0] = [0.0, 1.0, -1.0, 1.0, -1.0]
    scale = 30 / 34
    errors = (scale * pred - target).ravel()
    return metrics.trajectory_ate(pred, target) - math.sqrt(float((errors**2).sum())) / 5


def _eigen2015() -> float:
    target = torch.ones(1, 2, 2, dtype=torch.float64)
    pred = torch.exp(_t([[[0.0, 1.0], [0.0, 1.0]]]))
    return losses.eigen2015_loss(pred, target).item()


def _code_form() -> float:
    generator = np.random.default_rng(0)
    pred, target = (torch.from_numpy(generator.uniform(1, 5, (3, 4, 4))) for _ in range(2))
    return (losses.silog_eigen2014_code_loss(pred, target) - losses.silog_eigen2014_loss(pred, target)).item()


def _scaled(weight: float) -> float:
    pred, target = _t(G_PRED), _t(G_TARGET)
    loss = losses.silog_eigen2014_loss
    return (loss(3 * pred, target, mean_weight=weight) - loss(pred, target, mean_weight=weight)).item()


def _averaging() -> tuple[float, float]:
    target = [np.ones((1, 1)), np.ones((1, 7))]
    pred = [np.full((1, 1), 5.0), np.full((1, 7), 1.0)]
    sums = [metrics.depth_sums(p, g, g > 0) for p, g in zip(pred, target, strict=True)]
    per_image = metrics.average_per_image([s.scores() for s in sums])["rmse"]
    return per_image, metrics.average_pooled(sums)["rmse"]


def _median_frequency() -> list[float]:
    maps = [torch.tensor([[0, 0, 0, 1]]), torch.tensor([[0, 0, 2, 2]])]
    return losses.median_frequency_weights(maps, num_classes=3).tolist()


def _blow_up() -> float:
    target = np.array([[1.0, 2.0, 4.0, 10.0]])
    inverse = 1 / target
    inverse[0, 3] = -0.5
    kind = DepthKind.INVERSE_DEPTH
    return align(
        inverse, target, valid_mask=target > 0, method="none", space="inverse_depth", max_depth=80.0, kind=kind
    ).depth[0, 3]


def _all_false(name: str) -> Callable[[], tuple[float, float]]:
    def compute() -> tuple[float, float]:
        pred = torch.full((1, 1, 4, 4), math.nan, requires_grad=True)
        loss = losses.LOSSES[name](pred, torch.full_like(pred, math.nan), torch.zeros(1, 1, 4, 4, dtype=torch.bool))
        loss.backward()
        return loss.item(), pred.grad.abs().sum().item()

    return compute


_G = "standard example g = (1, 2, 4, 8), p = (1.1, 1.8, 5, 8)"

ORACLES: list[Oracle] = [
    Oracle(_G, "abs_rel", 0.1125, _g_score("abs_rel"), 1e-12),
    Oracle(_G, "sq_rel (divided by g)", 0.07, _g_score("sq_rel"), 1e-12),
    Oracle(_G, "rmse", 0.5123475, _g_score("rmse"), 5e-8),
    Oracle(_G, "rmse_log (natural log)", 0.1322667, _g_score("rmse_log"), 5e-8),
    Oracle(_G, "log10", 0.0460150, _g_score("log10"), 5e-8),
    Oracle(_G, "delta1 (5/4 is not < 1.25)", 0.75, _g_score("delta1"), 0),
    Oracle(_G, "delta2", 1.0, _g_score("delta2"), 0),
    Oracle(_G, "mae", 0.325, _g_score("mae"), 1e-12),
    Oracle(_G, "median_ae", 0.15, _g_score("median_ae"), 1e-12),
    Oracle(_G, "irmse [1/m]", 0.0588449, _g_score("irmse"), 5e-8),
    Oracle(_G, "irmse [1/km]", 58.845, lambda: 1000 * _g_score("irmse")(), 5e-4),
    Oracle(_G, "imae [1/m]", 0.0491162, _g_score("imae"), 5e-8),
    Oracle(_G, "silog metric, KITTI", 12.10638, _g_score("silog"), 5e-6),
    Oracle(_G, "silog metric, Depth Anything V2", 0.1267890, _g_silog("depth_anything"), 5e-8),
    Oracle(_G, "silog metric, BTS", 1.228094, _g_silog("bts"), 5e-7),
    Oracle(_G, "silog metric, AdaBins", 1.413068, _g_silog("adabins"), 5e-7),
    Oracle(_G, "silog metric, Eigen 2014", 0.0160755, _g_silog("eigen2014"), 5e-8),
    Oracle(_G, "silog loss, Depth Anything V2", 0.1267890, _g_loss("silog_depth_anything"), 5e-8),
    Oracle(_G, "silog loss, BTS", 1.228094, _g_loss("silog_bts"), 5e-7),
    Oracle(_G, "silog loss, AdaBins (n - 1)", 1.413068, _g_loss("silog_adabins"), 5e-7),
    Oracle(_G, "silog loss, Eigen 2014, weight 1/2", 0.0160755, _g_loss("silog_eigen2014"), 5e-8),
    Oracle(_G, "silog loss, Eigen 2014, weight 1", 0.0146564, _g_loss("silog_eigen2014", mean_weight=1.0), 5e-8),
    Oracle(_G, "torch batch: abs_rel", 0.1125, _g_batched("abs_rel"), 1e-12),
    Oracle(_G, "torch batch: rmse", 0.5123475, _g_batched("rmse"), 5e-8),
    Oracle(_G, "torch batch: delta1", 0.75, _g_batched("delta1"), 0),
    Oracle(_G, "torch batch: silog, KITTI", 12.10638, _g_batched("silog"), 5e-6),
    Oracle("scale-invariant log", "var(d) = 1/(2n^2) sum sum (d_i - d_j)^2, differences", (0, 0), _variance_identity),
    Oracle("scale-invariant log", "weight 1: change under p -> 3p", 0.0, lambda: _scaled(1.0), 1e-12),
    Oracle(
        "scale-invariant log",
        "weight 1/2: change under p -> 3p, (a m + a^2/2), a = ln 3",
        math.log(3) * float(np.log(G_PRED / G_TARGET).mean()) + math.log(3) ** 2 / 2,
        lambda: _scaled(0.5),
    ),
    Oracle("scale-invariant log", "code form minus per-image form, equal n", 0.0, _code_form, 1e-12),
    Oracle("scale-invariant log", "Eigen and Fergus 2015, d = (0, 1; 0, 1): 1/2 - 1/8 + 1/2", 0.875, _eigen2015),
    Oracle("Huber", "e = 0.5", 0.125, lambda: losses.huber_loss(_t([0.5]), _t([0.0])).item()),
    Oracle("Huber", "e = 2", 1.5, lambda: losses.huber_loss(_t([2.0]), _t([0.0])).item()),
    Oracle("berHu", "mean of e = (0.1, -0.2, 1)", 0.966667, lambda: _berhu([0.1, -0.2, 1.0]), 5e-7),
    Oracle(
        "berHu",
        "slopes at e = (0.1, -0.2, 1): 1, -1 at c, e/c; none through c",
        (1, -1, 5),
        lambda: _berhu_gradient([0.1, -0.2, 1.0]),
    ),
    Oracle("berHu", "all errors e = 0.7: 2.6 e", 1.82, lambda: _berhu([0.7, -0.7, 0.7])),
    Oracle("berHu", "zero error: value and gradient", (0, 0), lambda: (_berhu([0.0]), _berhu_gradient([0.0])[0])),
    Oracle(
        "scale and shift",
        "least squares of (1, 2, 3, 4) to (3, 5, 7, 10), torch",
        (2.3, 0.5),
        lambda: [x.item() for x in losses.fit_scale_shift(_t(MIDAS_P), _t(MIDAS_G))],
    ),
    Oracle(
        "scale and shift",
        "the same in NumPy",
        (2.3, 0.5),
        lambda: fit_scale_shift(np.array(MIDAS_P), np.array(MIDAS_G), valid_mask=G_ALL),
    ),
    Oracle(
        "scale and shift",
        "half the mean square",
        0.0375,
        lambda: losses.scale_shift_invariant_loss(_t(MIDAS_P), _t(MIDAS_G), gradient_weight=0.0).item(),
    ),
    Oracle(
        "scale and shift",
        "g = a p + b, with gradient matching",
        0.0,
        lambda: losses.scale_shift_invariant_loss(_t([MIDAS_P]), 3 * _t([MIDAS_P]) + 2).item(),
    ),
    Oracle(
        "scale and shift",
        "robust normalisation of (3, 5, 7, 10), true median 6, deviation 2.25",
        (-4 / 3, -4 / 9, 4 / 9, 16 / 9),
        lambda: losses.robust_normalize(_t(MIDAS_G))[0].tolist(),
    ),
    Oracle(
        "scale and shift",
        "robust normalisation of (1, 2, 3, 4)",
        (-1.5, -0.5, 0.5, 1.5),
        lambda: losses.robust_normalize(_t(MIDAS_P))[0].tolist(),
    ),
    Oracle("scale and shift", "trimmed, 8 of 10 kept", _trimmed_by_hand(8), lambda: _trimmed_with_outlier(0.2)),
    Oracle("scale and shift", "not trimmed, 10 of 10", _trimmed_by_hand(10), lambda: _trimmed_with_outlier(0.0)),
    Oracle("photometric", "SSIM of constants 0.2 and 0.6, and its error", (0.60010, 0.19995), _ssim_constants, 5e-6),
    Oracle("photometric", "map of 7 x 9: valid, reflect", (5, 7, 7, 9), _photometric_shapes, 0),
    Oracle(
        "photometric",
        "SSIM metric of identical maps",
        1.0,
        lambda: metrics.ssim(_g_map(), _g_map(), _g_map() > 0, data_range=10.0),
    ),
    Oracle("photometric", "static scene: loss is noise (1 = yes), share kept by the auto-mask", (1, 0), _static_scene),
    Oracle(
        "smoothness",
        "monodepth: slope 1 at image slopes (0.5, 0, 1): e^-0.5",
        math.exp(-0.5),
        _edge_smoothness,
    ),
    Oracle(
        "smoothness",
        "monodepth2: mean of the normalised disparity",
        1.0,
        lambda: losses.normalize_disparity(torch.full((1, 1, 3, 3), 4.0)).mean().item(),
    ),
    Oracle(
        "smoothness",
        "SfMLearner: D = x^2 has dxx = 2, the rest 0",
        2.0,
        lambda: losses.sfmlearner_smoothness_loss(torch.arange(5.0).square().expand(1, 1, 5, 5)).item(),
    ),
    Oracle(
        "smoothness",
        "SfMLearner: D = x y has dxy = dyx = 1",
        2.0,
        lambda: losses.sfmlearner_smoothness_loss(
            torch.arange(5.0)[:, None] * torch.arange(5.0)[None] * torch.ones(1, 1, 1, 1)
        ).item(),
    ),
    Oracle("stereo", "disparities 2 and 3: |2 - 3| twice", 2.0, _left_right),
    Oracle("stereo", "disparity 2: shift by 2, border filled", (0, 0, 0, 1, 2, 3), _integer_warp, 0),
    Oracle("stereo", "disparity 0.5 on a ramp: x - 0.5", (0.5, 1.5, 2.5, 3.5, 4.5), _ramp_warp, 0),
    Oracle("stereo", "Garg linearisation on a ramp of slope 3: error, gradient", (0, 3), _garg_ramp),
    Oracle("uncertainty", "Laplace: slope at s = ln |e|", 0.0, lambda: _minimiser("laplace_nll", "log_scale", 0.3)),
    Oracle("uncertainty", "Gauss: slope at s = ln e^2", 0.0, lambda: _minimiser("gaussian_nll", "log_variance", 0.3)),
    Oracle("labels", "Dice and IoU of 1100 against 1010", (0.5, 1 / 3), _overlap),
    Oracle("labels", "Dice loss of the same: overlap", 0.5, lambda: _dice([1, 1, 0, 0], [1, 0, 1, 0])),
    Oracle("labels", "Dice of two empty masks", 1.0, lambda: _dice([0, 0], [0, 0])),
    Oracle("labels", "BCE at zero logits: ln 2", 0.693147, lambda: losses.bce_loss(_t([0.0]), _t([1.0])).item(), 5e-7),
    Oracle("labels", "median-frequency weights of freq 5/8, 1/4, 1/2", (0.8, 2, 1), _median_frequency),
    Oracle("normals", "angles 0, 10, 20, 40: mean, median, shares", (17.5, 15, 0.5, 0.75, 0.75), _normal_angles),
    Oracle("normals", "fronto-parallel plane faces the camera", (0, 0, -1), _plane_normal),
    Oracle(
        "normals",
        "loss of the true normals",
        -1.0,
        lambda: losses.normals_loss(*[_t([0, 0, -1]).reshape(1, 3, 1, 1)] * 2).item(),
    ),
    *(
        Oracle("iBims-1 boundary error", f"edge shifted by {s} px: accuracy, completeness", (e, e), c)
        for s, e, c in ((s, float(min(s, 10)), lambda s=s: _edge_error(s)) for s in (0, 1, 3, 9, 10, 15))
    ),
    Oracle("Depth Pro boundary F1", "perfect single step", 0.25, lambda: _f1(_step(), _step())),
    Oracle("Depth Pro boundary F1", "perfect square bump", 1.0, lambda: _f1(_bump(), _bump())),
    Oracle("Depth Pro boundary F1", "flat against flat", 0.0, lambda: _f1(_step(1.0), _step(1.0)), 0),
    Oracle("Depth Pro boundary F1", "bump, prediction times 7", 1.0, lambda: _f1(7 * _bump(), _bump())),
    Oracle("Depth Pro boundary F1", "bump of ratio 1.1", 0.27971, lambda: _f1(_bump(1.1), _bump(1.1)), 5e-6),
    Oracle("ordinal", "1 of 4 pairs wrong; depth taken as inverse", (0.25, 0.75), _whdr_one_wrong),
    Oracle("trajectory", "ATE minus sqrt(sum e^2) / N", 0.0, _ate),
    Oracle(
        "disparity outliers",
        "errors 3 of 10, 2.9 of 10, 3 of 100",
        1 / 3,
        lambda: metrics.d1(np.array([13.0, 12.9, 103.0]), np.array([10.0, 10.0, 100.0]), np.ones(3, bool)),
    ),
    Oracle("averaging", "rmse of images (4; 1 px) and (0; 7 px): per image, pooled", (2, math.sqrt(2)), _averaging),
    Oracle(
        "alignment",
        "ratio of medians and median of ratios, (1, 2, 8) to (3, 8, 8)",
        (4, 3),
        lambda: [
            fit(np.array([1.0, 2.0, 8.0]), np.array([3.0, 8.0, 8.0]), valid_mask=np.ones(3, bool))
            for fit in (fit_scale_median, fit_scale_median_of_ratios)
        ],
    ),
    Oracle("alignment", "fitted inverse depth below 0, cap 80 m", 80.0, _blow_up),
    *(
        Oracle("crop", f"{name} of {h} x {w}: rows, columns", box, lambda n=name, h=h, w=w: _crop(n, h, w), 0)
        for name, h, w, box in (
            ("garg", 375, 1242, (153, 371, 44, 1197)),
            ("garg", 370, 1224, (151, 366, 43, 1180)),
            ("garg", 374, 1238, (152, 370, 44, 1193)),
            ("garg", 376, 1241, (153, 372, 44, 1196)),
            ("garg", 370, 1226, (151, 366, 44, 1181)),
            ("eigen_kitti", 375, 1242, (124, 342, 44, 1197)),
            ("kb_crop", 375, 1242, (23, 375, 13, 1229)),
            ("nyu_eigen", 480, 640, (45, 471, 41, 601)),
            ("nyu_eigen_region", 480, 640, (20, 460, 24, 616)),
            ("nyu_eigen_region_short", 480, 640, (20, 459, 24, 615)),
        )
    ),
    *(
        Oracle("all-false mask, everything NaN", f"{name}: value, gradient", (0, 0), _all_false(name), 0)
        for name in losses.DEPTH_LOSSES
    ),
]


def _g_map() -> np.ndarray:
    return np.linspace(1.0, 9.0, 400).reshape(20, 20)


def as_list(value: Value) -> list[float]:
    """Return a value or several as a list of floats."""
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]


def is_met(oracle: Oracle, got: Value) -> bool:
    """Tell whether a computed value meets its oracle."""
    expected, found = as_list(oracle.expected), as_list(got)
    return len(expected) == len(found) and all(
        abs(e - f) <= oracle.tolerance for e, f in zip(expected, found, strict=True)
    )


def format_value(value: Value) -> str:
    """Format numbers with seven significant digits; rounding noise around 0 is 0."""
    return ", ".join(f"{0.0 if abs(v) < 1e-9 else v:.7g}" for v in as_list(value))


def table() -> str:
    """Compute every oracle and return the Markdown table."""
    lines = ["| group | oracle | expected | got | met |", "|---|---|---|---|---|"]
    for oracle in ORACLES:
        got = oracle.compute()
        cells = (oracle.group, oracle.name.replace("|", "\\|"), format_value(oracle.expected), format_value(got))
        lines.append(f"| {' | '.join(cells)} | {'yes' if is_met(oracle, got) else '**NO**'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print("# Oracles of losses, metrics and alignment\n")
    print(
        "Values known in closed form, computed by the code. Written by `python benchmarks/oracle_table.py`; the tests\n"
        "compute every row again.\n"
    )
    print(table())
