"""Train without depth labels on real sequences, and compare with lidar, structured light or a classical matcher.

    python benchmarks/selfsupervised_runs.py kitti-stereo --data DATA --out DIR

DATA holds the development sets: kitti-stereo/ (KITTI odometry, sequences a and b), middlebury/, kitti360-mono/ and
7scenes-redkitchen/. Each run trains a small recipe on a part of the set; the figures are taken on the other part, with
the model that the run leaves, through `fathom.predict.Predictor`. They are printed as JSON and kept in result.json, and
a picture is written beside the run. `--encoder` takes ImageNet weights from a file where timm cannot download them.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fathom.data import open_dataset
from fathom.data.base import DepthDataset, Subset
from fathom.data.transforms import resize_sample
from fathom.errors import require
from fathom.metrics.pose import chain_motions, snippet_ate
from fathom.postprocess import predict_flipped
from fathom.predict import Predictor
from fathom.train.config import Recipe, load_recipe
from fathom.types import Depth, DepthKind, Sample
from fathom.viz import colorize

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
Map = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Kept(DepthDataset):
    """A small dataset in memory, resized once, so that training does not wait for files.

    Args:
        dataset: What is kept.
        size: Rows and columns.
    """

    def __init__(self, dataset: DepthDataset, size: tuple[int, int]) -> None:
        self.name, self.split, self.kind = dataset.name, dataset.split, dataset.kind
        self.samples = [resize_sample(sample, *size) for sample in dataset]

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.samples)

    def read(self, index: int) -> Sample:
        """Return one."""
        return self.samples[index]


def run(recipe: Recipe, options: argparse.Namespace, train_set: DepthDataset, val_set: DepthDataset) -> int:
    """Train, and return the seconds it took."""
    import torch

    from fathom.train.fit import fit
    from fathom.train.network import build_network

    size = recipe.data.resize
    assert size is not None, "the small recipes resize"
    started = time.perf_counter()
    # The card of the model names the data it learned from, which is not that of the recipe.
    source = recipe.data.train.model_copy(update={"dataset": train_set.name, "split": train_set.split, "options": {}})
    data = recipe.data.model_copy(update={"train": source, "val": source.model_copy(update={"split": val_set.split})})
    recipe = recipe.model_copy(update={"data": data})
    if recipe.selfsupervised is None or recipe.selfsupervised.rotation == "learned":  # features want the full size
        train_set, val_set = (Kept(dataset, size) for dataset in (train_set, val_set))
    network = None
    if options.encoder is not None:
        torch.manual_seed(recipe.seed)
        network = build_network(recipe)
        encoder: Any = network.trunk.encoder  # type: ignore[union-attr]
        encoder.model.load_state_dict(torch.load(options.encoder, weights_only=True), strict=False)
    fit(recipe, options.out, network=network, train_set=train_set, val_set=val_set)
    return round(time.perf_counter() - started)


def picture_of(rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path) -> None:
    """Write pictures of one size in rows and columns."""
    Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])).save(path)


def painted(values: NDArray[Any], mask: Mask, kind: DepthKind) -> NDArray[np.uint8]:
    """Paint a map; what is not valid is black."""
    return colorize(Depth(np.where(mask, values, np.nan), kind)).rgb


def relative_errors(pred: NDArray[Any], truth: Map, mask: Mask) -> Map:
    """Return ``|pred - truth| / truth`` of the valid pixels."""
    return np.asarray(np.abs(pred[mask] - truth[mask]) / truth[mask], np.float64)


def match_sgbm(left: NDArray[np.uint8], right: NDArray[np.uint8], num_disparities: int = 128) -> Map:
    """Return OpenCV's semi-global matching [px], NaN where it or its left-right check finds nothing."""
    cv2 = require("cv2", "dev", "Classical matching")
    matcher = cv2.StereoSGBM_create(
        minDisparity=0,
        numDisparities=num_disparities,
        blockSize=5,
        P1=8 * 25,
        P2=32 * 25,
        disp12MaxDiff=1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
        mode=cv2.STEREO_SGBM_MODE_HH,
    )
    grey = [cv2.cvtColor(view, cv2.COLOR_RGB2GRAY) for view in (left, right)]
    found = matcher.compute(*grey).astype(np.float64) / 16.0
    return np.where(found > 0, found, np.nan)


def disparity_of(predictor: Predictor, sample: Sample) -> Depth:
    """Predict from the pair, or for a network of single pictures from the left view and its mirror image."""
    if predictor.card.input.views == 2:
        return predictor.predict(sample.image, right=sample.meta["image_right"])
    return predict_flipped(predictor.predict, sample.image, border_blend=True)


def kitti_stereo(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Train on the pairs of sequence a; compare disparity on b with semi-global matching."""
    root = options.data / "kitti-stereo"
    train, test = (open_dataset("kitti-odometry", root, n, sequences=(n,), stereo=True) for n in ("a", "b"))
    seconds = run(recipe, options, train, Subset(test, range(0, len(test), 10), "b"))
    predictor = Predictor(options.out, runtime="torch")
    errors, rows = [], []
    for index in range(0, len(test), 5):
        sample = test[index]
        truth = match_sgbm(sample.image, sample.meta["image_right"])
        depth = disparity_of(predictor, sample)
        mask = np.isfinite(truth) & (truth >= 1.0)
        errors.append(relative_errors(depth.values, truth, mask))
        if index % 20 == 0:
            shown = painted(truth, np.isfinite(truth), DepthKind.DISPARITY)
            rows += [[sample.image], [shown], [painted(depth.values, depth.valid_mask, DepthKind.DISPARITY)]]
    picture_of(rows[:6], options.out / "disparity.png")
    everything = np.concatenate(errors)
    return {
        "seconds": seconds,
        "frames": len(errors),
        "matched_pixels_per_frame": round(len(everything) / len(errors)),
        "median_relative_error": round(float(np.median(everything)), 4),
        "share_within_10_percent": round(float((everything < 0.1).mean()), 4),
        "per_frame_median": [round(float(np.median(e)), 4) for e in errors],
    }


def middlebury(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Leave two of eight scenes out, four times; compare their disparity with the truth."""
    whole = open_dataset("middlebury", options.data / "middlebury")
    scenes: dict[str, Any] = {}
    everything, rows, seconds = [], [], 0
    half = len(whole) // 2
    for fold in range(half):
        held = [fold, fold + half]
        kept = [index for index in range(len(whole)) if index not in held]
        inner = argparse.Namespace(**{**vars(options), "out": options.out / f"fold{fold}"})
        seconds += run(recipe, inner, Subset(whole, kept, "train"), Subset(whole, held, "val"))
        predictor = Predictor(inner.out, runtime="torch")
        for index in held:
            sample = whole[index]
            depth = disparity_of(predictor, sample)
            truth, mask = sample.target.astype(np.float64), sample.valid_mask
            everything.append(relative_errors(depth.values, truth, mask))
            constant = relative_errors(np.full_like(truth, np.median(truth[mask])), truth, mask)
            scenes[whole.scene(index)] = {
                "median_relative_error": round(float(np.median(everything[-1])), 4),
                "of_the_true_median": round(float(np.median(constant)), 4),
            }
            maps = [painted(truth, mask, sample.kind), painted(depth.values, depth.valid_mask, sample.kind)]
            rows.append([np.asarray(Image.fromarray(tile).resize((440, 368))) for tile in (sample.image, *maps)])
    picture_of(rows, options.out / "disparity.png")
    median = round(float(np.median(np.concatenate(everything))), 4)
    return {"seconds": seconds, "scenes": scenes, "median_relative_error": median}


def baselines_of(scored: Sequence[tuple[Map, Mask]], train: Sequence[tuple[Map, Mask]]) -> dict[str, float]:
    """Score what needs no network, median-scaled like the predictions; all but the constant know the training depth.

    Args:
        scored: Depth [m] and valid pixels of the scored frames.
        train: Those of the training frames.
    """
    height, width = scored[0][0].shape
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for depth, mask in train:
        total += np.where(mask, depth, 0.0)
        count += mask
    # Lidar hits other pixels in each frame: the mean of its row stands for a pixel that was never hit.
    hits = count.sum(axis=1)
    rows = np.interp(np.arange(height), np.nonzero(hits)[0], (total.sum(axis=1) / np.maximum(hits, 1))[hits > 0])
    mean_map = np.where(count > 0, total / np.maximum(count, 1), rows[:, None])
    # A plane is linear in inverse depth: a x + b y + c; the road is one.
    y, x = np.nonzero(count)
    design = np.stack([x, y, np.ones_like(x)], axis=1).astype(np.float64)
    plane = np.linalg.lstsq(design, (count[y, x] / total[y, x]), rcond=None)[0]
    grid_y, grid_x = np.mgrid[:height, :width]
    maps = {
        "constant": np.ones((height, width)),
        "mean depth": mean_map,
        "mean of each row": np.repeat(rows[:, None], width, axis=1),
        "plane": 1.0 / np.maximum(plane[0] * grid_x + plane[1] * grid_y + plane[2], 1 / 80.0),
    }
    return {name: float(np.mean([abs_rel_median(m, t, k) for t, k in scored])) for name, m in maps.items()}


def abs_rel_median(pred: Map, truth: Map, mask: Mask) -> float:
    """Return AbsRel after scaling the median of a prediction to that of the truth."""
    p, g = pred[mask], truth[mask]
    p = np.clip(p * np.median(g) / np.median(p), 1e-3, 80.0)
    return float(np.mean(np.abs(p - g) / g))


def path_errors(folder: Path, recipe: Recipe, dataset: DepthDataset) -> dict[str, Any]:
    """Chain the predicted motions and compare with the true path over snippets of five frames.

    A straight line at constant speed is scored, too: what every forward-moving camera gives away.
    """
    import torch

    from fathom.data.torch_adapter import collate
    from fathom.train.selfsupervised import find_motions, load_partner
    from fathom.train.views import WithRotations

    config = recipe.selfsupervised
    assert config is not None and recipe.data.resize is not None
    partner, step = load_partner(folder, config), min(offset for offset in config.neighbours if offset > 0)
    dataset = WithRotations(dataset) if config.rotation == "matched" else dataset
    found, truth = [], []
    for index in range(0, len(dataset), step):
        sample = dataset[index]
        batch = collate([resize_sample(sample, *recipe.data.resize)])
        with torch.no_grad():
            motions, _ = find_motions(
                partner,
                batch["image"] / 255.0,
                batch["neighbours"] / 255.0,
                config,
                rotations=batch["neighbour_poses"] if config.rotation == "matched" else None,
                intrinsics=batch["intrinsics"],
            )
        found.append(motions[0, config.neighbours.index(step)].double().numpy())
        truth.append(np.asarray(sample.meta["pose"], np.float64))
    if len(found) < 5:
        return {"frames_apart": step, "snippets": 0}
    path, poses = chain_motions(np.stack(found))[:-1], np.stack(truth)
    line = np.tile(np.eye(4), (len(truth), 1, 1))
    line[:, 2, 3] = np.arange(len(truth))
    errors, straight = snippet_ate(path, poses), snippet_ate(line, poses)
    return {
        "frames_apart": step,
        "snippets": errors.num_snippets,
        "ate_mean_m": round(errors.ate_mean, 5),
        "ate_std_m": round(errors.ate_std, 5),
        "ate_of_a_straight_line_m": round(straight.ate_mean, 5),
        "mean_step_m": round(float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).mean()), 4),
    }


def score_video(
    run_folder: Path, train_set: DepthDataset, test_set: DepthDataset, cap: float, picture: str = "depth"
) -> dict[str, Any]:
    """Score depth median-scaled, beside baselines, which know the depth of the training frames."""
    predictor = Predictor(run_folder, runtime="torch")
    scored = depths_of(test_set, cap)
    rows, scores, plain = [], [], []
    for index, (truth, mask) in enumerate(scored):
        sample = test_set[index]
        depth = predictor.predict(sample.image)
        pred = np.asarray(depth.values, np.float64)
        usable = mask & depth.valid_mask
        scores.append(abs_rel_median(pred, truth, usable))
        if depth.kind is DepthKind.METRIC_DEPTH:
            plain.append(float(relative_errors(pred, truth, usable).mean()))
        if index % 3 == 0:
            scaled = np.clip(pred * np.median(truth[mask]) / np.median(pred[mask]), 0, cap)
            rows.append([sample.image, painted(scaled, depth.valid_mask, DepthKind.METRIC_DEPTH)])
    picture_of(rows[:4], run_folder / f"{picture}.png")
    baselines = baselines_of(scored, depths_of(train_set, cap))
    return {
        "frames": len(scores),
        "abs_rel": round(float(np.mean(scores)), 4),
        "per_frame": [round(score, 4) for score in scores],
        "abs_rel_in_metres": round(float(np.mean(plain)), 4) if plain else None,
        "baselines": {name: round(value, 4) for name, value in baselines.items()},
        "below_best_baseline": round(1.0 - float(np.mean(scores)) / min(baselines.values()), 4),
    }


def depths_of(dataset: DepthDataset, cap: float) -> list[tuple[Map, Mask]]:
    """Return depth and mask of every frame, up to `cap` [m]."""
    samples = [dataset[index] for index in range(len(dataset))]
    return [(s.target.astype(np.float64), s.valid_mask & (s.target > 1e-3) & (s.target < cap)) for s in samples]


def kitti360(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Train on the first 40 frames of KITTI-360 without depth or poses; score the last 10 against lidar."""
    assert recipe.selfsupervised is not None
    around: dict[str, Any] = {"neighbours": recipe.selfsupervised.neighbours}
    root = options.data / "kitti360-mono"
    train, test = (0, 40), (-10, None)
    seconds = run(
        recipe,
        options,
        open_dataset("kitti-360", root, frames=train, **around),
        open_dataset("kitti-360", root, frames=test, **around),
    )
    seen, unseen = (open_dataset("kitti-360", root, frames=part) for part in (train, test))
    return {"seconds": seconds, **score_video(options.out, seen, unseen, cap=80.0)}


def seven_scenes(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Train on the first 60 of 90 frames of a room; score depth and path on the last 30, and on the 60 themselves.

    A video is often all that is wanted, and no truth of the 60 was seen, either.
    """
    assert recipe.selfsupervised is not None
    around: dict[str, Any] = {"neighbours": recipe.selfsupervised.neighbours}
    root = options.data / "7scenes-redkitchen"
    train, test = (0, 60), (-30, None)
    sets = [open_dataset("7-scenes", root, frames=part, **around) for part in (train, test)]
    seconds = run(recipe, options, *sets)
    seen, unseen = (open_dataset("7-scenes", root, frames=part) for part in (train, test))
    result = {
        "seconds": seconds,
        **score_video(options.out, seen, unseen, cap=10.0),
        "training_frames": score_video(options.out, seen, seen, cap=10.0, picture="training"),
    }
    if recipe.selfsupervised.pose != "given":
        result["path_kept_out"] = path_errors(options.out, recipe, sets[1])
        result["path_training"] = path_errors(options.out, recipe, sets[0])
    return result


def kitti_path(options: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """Train on the left pictures of sequence a as video; score the path on b, which has poses."""
    assert recipe.selfsupervised is not None
    root = options.data / "kitti-stereo"
    sets = [
        open_dataset("kitti-odometry", root, name, sequences=(name,), neighbours=recipe.selfsupervised.neighbours)
        for name in ("a", "b")
    ]
    seconds = run(recipe, options, *sets)
    return {
        "seconds": seconds,
        "path_kept_out": path_errors(options.out, recipe, sets[1]),
        "path_training": path_errors(options.out, recipe, sets[0]),
    }


SFMLEARNER = (
    "selfsupervised={warp: depth, neighbours: [-1, 1], pose: sfmlearner, pose_options: {base_channels: 16}, "
    "photometric: l1, intensity_span: 2.0, mask_outside: true, smoothness: second_order, smoothness_weight: 0.1, "
    "smoothness_normalised: true}"
)
RUNS: dict[str, tuple[Callable[[argparse.Namespace, Recipe], dict[str, Any]], str, tuple[str, ...]]] = {
    "kitti-stereo": (kitti_stereo, "unet-stereo-small", ()),
    "kitti-pairs": (kitti_stereo, "dispnet-stereo-small", ()),
    "middlebury": (
        middlebury,
        "unet-stereo-small",
        ("data.resize=[160, 192]", "augment.crop=[160, 192]", "model.options.head_options.initial_depth=15.0"),
    ),
    "middlebury-pairs": (
        middlebury,
        "dispnet-stereo-small",
        (
            "data.resize=[256, 320]",
            "augment.crop=[192, 256]",
            "augment.slide=[-4.0, 8.0]",
            "optimiser.lr=4.0e-4",
            "steps=500",
            "validation.every_steps=500",
        ),
    ),
    "kitti360-sfmlearner": (kitti360, "unet-video-small", ("data.resize=[96, 352]", SFMLEARNER)),
    "kitti360-monodepth2": (kitti360, "unet-video-small", ("data.resize=[96, 352]",)),
    # The camera moves 2 cm and turns by 1 degree from frame to frame: less than a pixel of parallax, two of turning.
    "7scenes": (
        seven_scenes,
        "unet-video-small",
        (
            "data.resize=[128, 160]",
            "selfsupervised.neighbours=[-6, -3, 3, 6]",
            "selfsupervised.rotation=matched",
            "steps=1500",
            "validation.every_steps=1500",
        ),
    ),
    "7scenes-poses": (
        seven_scenes,
        "unet-video-small",
        (
            "data.resize=[128, 160]",
            "selfsupervised.neighbours=[-6, -3, 3, 6]",
            "selfsupervised.pose=given",
            "selfsupervised.pose_options={}",
            "model.kind=metric_depth",
            "model.options.head_options.initial_depth=2.0",
            "steps=1500",
            "validation.every_steps=1500",
        ),
    ),
    "kitti-path": (kitti_path, "unet-video-small", ()),
}
"""Function, recipe, and what the data changes in it."""


def main() -> None:
    """Run one of `RUNS` and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--data", type=Path, required=True, help="Folder of the development sets.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the run; must not hold one.")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Change of the recipe.")
    parser.add_argument("--encoder", type=Path, help="Weights for the encoder of a network smp:..., in timm's names.")
    options = parser.parse_args()
    function, config, changes = RUNS[options.run]
    changes = (*changes, *(["model.pretrained=null"] if options.encoder else []), *options.set)
    result = function(options, load_recipe(CONFIGS / f"{config}.yaml", changes))
    text = json.dumps({"run": options.run, "recipe": config, "changes": list(changes), **result}, indent=1)
    (options.out / "result.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
