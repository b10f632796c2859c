"""Metrics: NumPy, float64, one short function each; `fathom.metrics.batched` holds the same on torch batches.

Arguments come in the order ``pred, target, valid_mask`` (True = use this pixel). A metric without a valid pixel raises
`EmptyMaskError`; the caller skips the image and counts it. Importing this package never imports torch.
"""

from collections.abc import Callable

from fathom.metrics.boundary import (
    BoundaryScore,
    DirectedDepthError,
    EdgeError,
    PlanarityError,
    boundary_f1,
    canny_edges,
    depth_boundary_error,
    directed_depth_error,
    planarity_error,
)
from fathom.metrics.crops import CROPS, crop_mask, crop_slices
from fathom.metrics.depth import (
    SILOG_VARIANTS,
    DepthSums,
    SilogVariant,
    abs_rel,
    average_per_image,
    average_pooled,
    by_range,
    d1,
    delta,
    depth_sums,
    imae,
    irmse,
    log10,
    mae,
    median_ae,
    mse,
    rmse,
    rmse_log,
    score_depth,
    silog,
    sq_rel,
)
from fathom.metrics.normals import normal_angles, normals_from_depth, score_angles, score_normals
from fathom.metrics.ordinal import PointPairs, depth_relation, sample_pairs, whdr
from fathom.metrics.pointcloud import PointCloudScore, score_points
from fathom.metrics.pose import (
    RelativePoseError,
    SnippetError,
    relative_pose_error,
    rotation_angles,
    snippet_ate,
    trajectory_ate,
    trajectory_scale,
)
from fathom.metrics.segmentation import confusion_matrix, score_confusion, score_segmentation
from fathom.metrics.similarity import ssim
from fathom.metrics.temporal import scale_wobble, static_flicker, temporal_change_error
from fathom.metrics.uncertainty import (
    SparsificationScore,
    calibration_error,
    gaussian_nll,
    laplace_nll,
    sparsification,
)

METRICS: dict[str, Callable[..., float]] = {
    "abs_rel": abs_rel,
    "sq_rel": sq_rel,
    "rmse": rmse,
    "rmse_log": rmse_log,
    "log10": log10,
    "silog": silog,
    "delta": delta,
    "mae": mae,
    "mse": mse,
    "median_ae": median_ae,
    "irmse": irmse,
    "imae": imae,
    "d1": d1,
    "ssim": ssim,
}
"""Metrics that give one number for one pair of maps, by name."""

__all__ = [
    "CROPS",
    "METRICS",
    "SILOG_VARIANTS",
    "BoundaryScore",
    "DepthSums",
    "DirectedDepthError",
    "EdgeError",
    "PlanarityError",
    "PointCloudScore",
    "PointPairs",
    "RelativePoseError",
    "SilogVariant",
    "SnippetError",
    "SparsificationScore",
    "abs_rel",
    "average_per_image",
    "average_pooled",
    "boundary_f1",
    "by_range",
    "calibration_error",
    "canny_edges",
    "confusion_matrix",
    "crop_mask",
    "crop_slices",
    "d1",
    "delta",
    "depth_boundary_error",
    "depth_relation",
    "depth_sums",
    "directed_depth_error",
    "gaussian_nll",
    "imae",
    "irmse",
    "laplace_nll",
    "log10",
    "mae",
    "median_ae",
    "mse",
    "normal_angles",
    "normals_from_depth",
    "planarity_error",
    "relative_pose_error",
    "rmse",
    "rmse_log",
    "rotation_angles",
    "sample_pairs",
    "scale_wobble",
    "score_angles",
    "score_confusion",
    "score_depth",
    "score_normals",
    "score_points",
    "score_segmentation",
    "silog",
    "snippet_ate",
    "sparsification",
    "sq_rel",
    "ssim",
    "static_flicker",
    "temporal_change_error",
    "trajectory_ate",
    "trajectory_scale",
    "whdr",
]
