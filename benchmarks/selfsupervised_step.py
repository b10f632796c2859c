"""Time one step of monodepth2's loss, forward and backward, against a plain loop over scales and views.

    python benchmarks/selfsupervised_step.py [--size 192x640] [--batch 4] [--threads 2] [--device cpu]

`naive_loss` is the loss as it is usually written: for each scale and each other view warp, compare, and compare the
unmoved view again. `fathom.losses.ViewLoss` gives the same number. Both are run in turn in one process, so that
whatever else the machine does hits both; the ratio is that of the medians. Memory is what one forward and backward pass
holds at its height: on a GPU the allocator's own count, on the CPU the sum of what the profiler saw allocated.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from fathom.geometry.warp import warp_by_depth
from fathom.losses import (
    ViewLoss,
    Views,
    edge_aware_smoothness_loss,
    min_reprojection_loss,
    normalize_disparity,
)
from fathom.models.monodepth2 import disp_to_depth

OPTIONS: dict[str, Any] = {
    "choose": "minimum",
    "auto_mask": True,
    "full_resolution": True,
    "average_scales": True,
    "smoothness_weight": 1e-3,
    "smoothness_normalised": True,
}
"""monodepth2's."""


def naive_error(pred: Tensor, target: Tensor) -> Tensor:
    """Compute ``0.85 mean_c(SSIM error) + 0.15 mean_c |e|``, (B, 1, H, W), with every mean by avg_pool2d."""
    p, g = (functional.pad(x, (1, 1, 1, 1), mode="reflect") for x in (pred, target))
    mean_p, mean_g = functional.avg_pool2d(p, 3, 1), functional.avg_pool2d(g, 3, 1)
    var_p = functional.avg_pool2d(p * p, 3, 1) - mean_p**2
    var_g = functional.avg_pool2d(g * g, 3, 1) - mean_g**2
    covariance = functional.avg_pool2d(p * g, 3, 1) - mean_p * mean_g
    over = (2 * mean_p * mean_g + 1e-4) * (2 * covariance + 9e-4)
    under = (mean_p**2 + mean_g**2 + 1e-4) * (var_p + var_g + 9e-4)
    ssim = ((1 - over / under) / 2).clamp(0, 1).mean(1, keepdim=True)
    return 0.85 * ssim + 0.15 * (pred - target).abs().mean(1, keepdim=True)


def naive_loss(views: Views) -> Tensor:
    """Compute monodepth2's loss in a loop over scales and other views."""
    assert views.sources is not None and views.motions is not None and views.intrinsics is not None
    size = views.target.shape[-2:]
    total = views.target.new_zeros(())
    for scale, disparity in enumerate(views.disparities):
        depth = disp_to_depth(functional.interpolate(disparity, size=size, mode="bilinear", align_corners=False))
        moved, still = [], []
        for index in range(views.sources.shape[1]):
            source = views.sources[:, index]
            warped, _ = warp_by_depth(source, depth, views.motions[:, index], views.intrinsics)
            moved.append(naive_error(warped, views.target))
            still.append(naive_error(source, views.target))
        total = total + min_reprojection_loss(torch.cat(moved, 1), torch.cat(still, 1))
        small = functional.interpolate(views.target, size=disparity.shape[-2:], mode="area")
        smoothness = edge_aware_smoothness_loss(normalize_disparity(disparity), small)
        total = total + 1e-3 * smoothness / 2**scale
    return total / len(views.disparities)


def make_views(batch: int, height: int, width: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Views:
    """Return random views with four scales and two neighbours, and predictions that want a gradient."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    sigmoids = [random(batch, 1, -(-height // 2**s), -(-width // 2**s)).requires_grad_() for s in range(4)]
    motions = torch.eye(4).repeat(batch, 2, 1, 1).to(device, dtype)
    motions[:, :, :3, 3] = 0.02 * (random(batch, 2, 3) - 0.5)
    motions.requires_grad_()
    intrinsics = torch.tensor([[0.58 * width, 0, 0.5 * width], [0, 1.92 * height, 0.5 * height], [0, 0, 1]])
    return Views(
        functional.interpolate(random(batch, 3, height // 8, width // 8), (height, width), mode="bicubic").clamp(0, 1),
        sigmoids,
        to_depth=disp_to_depth,
        sources=random(batch, 2, 3, height, width),
        motions=motions,
        intrinsics=intrinsics.to(device, dtype).repeat(batch, 1, 1),
    )


def leaves(views: Views) -> list[Tensor]:
    """Return the tensors that want a gradient."""
    assert views.motions is not None
    return [*views.disparities, views.motions]


def seconds_of(loss: Callable[[], Tensor], views: Views, device: str) -> float:
    """Time one forward and backward pass."""
    for leaf in leaves(views):
        leaf.grad = None
    started = time.perf_counter()
    loss().backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak_bytes(loss: Callable[[], Tensor], views: Views, device: str) -> int:
    """Return the largest number of bytes that were held at once during a forward and backward pass."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds_of(loss, views, device)
        return int(torch.cuda.max_memory_allocated()) - int(before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        seconds_of(loss, views, device)
    held = highest = 0
    kineto = record.profiler.kineto_results if record.profiler is not None else None
    assert kineto is not None, "the profiler has run"
    for event in sorted((e for e in kineto.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def main() -> None:
    """Print seconds, ratio and memory as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--size", default="192x640")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    views = make_views(options.batch, height, width, options.device)
    module = ViewLoss("depth", **OPTIONS)
    ways = {"naive": lambda: naive_loss(views), "fathom": lambda: module(views)[0]}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, loss in ways.items():
            taken = seconds_of(loss, views, options.device)
            if repeat:  # the first warms up
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    memory = {name: peak_bytes(loss, views, options.device) for name, loss in ways.items()}
    result = {
        "size": [options.batch, height, width],
        "threads": options.threads,
        "device": options.device,
        "seconds": {name: round(value, 4) for name, value in medians.items()},
        "times_faster": round(medians["naive"] / medians["fathom"], 3),
        "peak_MiB": {name: round(value / 2**20, 1) for name, value in memory.items()},
        "memory_ratio": round(memory["fathom"] / memory["naive"], 3),
        "difference": abs(float(ways["naive"]().detach()) - float(ways["fathom"]().detach())),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
