"""Losses: pure functions on torch tensors, in the order ``pred, target, valid_mask`` (True = use this pixel).

Masked values, NaN among them, reach neither the value nor the gradient; a batch without a valid pixel gives 0 with a
zero gradient. A NaN in a prediction that counts stays visible.
"""

from collections.abc import Callable

from torch import Tensor

from fathom.errors import ConfigError
from fathom.geometry.warp import sample_horizontal
from fathom.losses.bins import bins_chamfer_loss, ordinal_regression_loss, ordinal_to_depth, sid_thresholds
from fathom.losses.depth import (
    berhu_loss,
    huber_loss,
    l1_loss,
    mse_loss,
    silog_adabins_loss,
    silog_bts_loss,
    silog_depth_anything_loss,
    silog_eigen2014_code_loss,
    silog_eigen2014_loss,
    silog_loss,
)
from fathom.losses.gradient import (
    edge_aware_second_order_smoothness_loss,
    edge_aware_smoothness_loss,
    eigen2015_loss,
    multiscale_gradient_loss,
    normalize_disparity,
    sfmlearner_smoothness_loss,
    squared_gradient_loss,
    squared_log_gradient_loss,
)
from fathom.losses.invariant import (
    fit_scale_shift,
    robust_normalize,
    scale_shift_invariant_loss,
    trimmed_scale_shift_invariant_loss,
)
from fathom.losses.labels import bce_dice_loss, bce_loss, cross_entropy_loss, dice_loss, median_frequency_weights
from fathom.losses.modules import FunctionLoss, UncertaintyWeightedSum
from fathom.losses.multitask import uncertainty_weighted_sum, weighted_sum
from fathom.losses.normals import normals_loss, virtual_normal_loss
from fathom.losses.selfsupervised import (
    auto_mask,
    explainability_loss,
    explainability_weights,
    garg_reconstruction_loss,
    left_right_consistency_loss,
    linearized_sample,
    min_reprojection_loss,
    monodepth_photometric_loss,
    photometric_error_map,
    sfmlearner_photometric_loss,
    ssim_error_map,
    ssim_moments,
)
from fathom.losses.uncertainty import gaussian_nll_loss, laplace_nll_loss
from fathom.losses.views import ViewLoss, Views

DEPTH_LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse_loss,
    "l1": l1_loss,
    "huber": huber_loss,
    "berhu": berhu_loss,
    "silog_eigen2014": silog_eigen2014_loss,
    "silog_eigen2014_code": silog_eigen2014_code_loss,
    "silog_bts": silog_bts_loss,
    "silog_adabins": silog_adabins_loss,
    "silog_depth_anything": silog_depth_anything_loss,
    "squared_log_gradient": squared_log_gradient_loss,
    "eigen2015": eigen2015_loss,
    "multiscale_gradient": multiscale_gradient_loss,
    "scale_shift_invariant": scale_shift_invariant_loss,
    "trimmed_scale_shift_invariant": trimmed_scale_shift_invariant_loss,
}
"""Losses that take ``pred, target, valid_mask`` of one shape (B, 1, H, W), by name."""

LOSSES: dict[str, Callable[..., Tensor]] = {
    **DEPTH_LOSSES,
    "laplace_nll": laplace_nll_loss,
    "gaussian_nll": gaussian_nll_loss,
    "virtual_normal": virtual_normal_loss,
    "normals": normals_loss,
    "ordinal_regression": ordinal_regression_loss,
    "bins_chamfer": bins_chamfer_loss,
    "cross_entropy": cross_entropy_loss,
    "bce": bce_loss,
    "dice": dice_loss,
    "bce_dice": bce_dice_loss,
    "edge_aware_smoothness": edge_aware_smoothness_loss,
    "edge_aware_second_order_smoothness": edge_aware_second_order_smoothness_loss,
    "sfmlearner_smoothness": sfmlearner_smoothness_loss,
    "squared_gradient": squared_gradient_loss,
    "monodepth_photometric": monodepth_photometric_loss,
    "sfmlearner_photometric": sfmlearner_photometric_loss,
    "explainability": explainability_loss,
    "left_right_consistency": left_right_consistency_loss,
    "garg_reconstruction": garg_reconstruction_loss,
    "min_reprojection": min_reprojection_loss,
}
"""Every loss that gives one scalar from tensors, by name."""


def build_loss(name: str, **options: object) -> FunctionLoss:
    """Build a loss of `LOSSES` as a module with its options bound.

    Args:
        name: A key of `LOSSES`.
        options: Keyword options of that function.

    Returns:
        The module.

    Raises:
        ConfigError: If the name or an option is not known.

    Example:
        >>> build_loss("berhu", threshold_fraction=0.1)
        FunctionLoss(berhu_loss, threshold_fraction=0.1)
    """
    if name not in LOSSES:
        raise ConfigError(f"Unknown loss '{name}'. Known: {', '.join(LOSSES)}.")
    return FunctionLoss(LOSSES[name], **options)


__all__ = [
    "DEPTH_LOSSES",
    "LOSSES",
    "FunctionLoss",
    "UncertaintyWeightedSum",
    "ViewLoss",
    "Views",
    "auto_mask",
    "bce_dice_loss",
    "bce_loss",
    "berhu_loss",
    "bins_chamfer_loss",
    "build_loss",
    "cross_entropy_loss",
    "dice_loss",
    "edge_aware_second_order_smoothness_loss",
    "edge_aware_smoothness_loss",
    "eigen2015_loss",
    "explainability_loss",
    "explainability_weights",
    "fit_scale_shift",
    "garg_reconstruction_loss",
    "gaussian_nll_loss",
    "huber_loss",
    "l1_loss",
    "laplace_nll_loss",
    "left_right_consistency_loss",
    "linearized_sample",
    "median_frequency_weights",
    "min_reprojection_loss",
    "monodepth_photometric_loss",
    "mse_loss",
    "multiscale_gradient_loss",
    "normalize_disparity",
    "normals_loss",
    "ordinal_regression_loss",
    "ordinal_to_depth",
    "photometric_error_map",
    "robust_normalize",
    "sample_horizontal",
    "scale_shift_invariant_loss",
    "sfmlearner_photometric_loss",
    "sfmlearner_smoothness_loss",
    "sid_thresholds",
    "silog_adabins_loss",
    "silog_bts_loss",
    "silog_depth_anything_loss",
    "silog_eigen2014_code_loss",
    "silog_eigen2014_loss",
    "silog_loss",
    "squared_gradient_loss",
    "squared_log_gradient_loss",
    "ssim_error_map",
    "ssim_moments",
    "trimmed_scale_shift_invariant_loss",
    "uncertainty_weighted_sum",
    "virtual_normal_loss",
    "weighted_sum",
]
