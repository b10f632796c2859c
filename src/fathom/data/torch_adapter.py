"""From samples to batches of tensors: the one thin place where data meets torch, which is imported when called.

A batch is a dict:

    ====================  =================================================================
    ``image``             uint8, (B, 3, H, W), RGB
    ``target``            float32, (B, H, W), 0 where not valid
    ``valid_mask``        bool, (B, H, W)
    ``intrinsics``        float32, (B, 3, 3) [px], where every sample has a camera
    ``baseline_m``        float32, (B,), where every camera has one
    ``labels``            int64, (B, H, W), where the set has labels; ``instances`` likewise
    ``normals``           float32, (B, 3, H, W), where the set has normals
    ``image_right`` ...   companions of a stereo pair, shaped as their left counterparts
    ``baseline_sign``     float32, (B,), 1 where the second view lies to the right of ``image``, -1 to the left
    ``neighbours``        uint8, (B, S, 3, H, W), other frames of the same camera
    ``neighbour_poses``   float32, (B, S, 4, 4), from this camera to that of each neighbour, where known
    ``kind``              `DepthKind` of the targets
    ``id``, ``scene``     lists of text
    ====================  =================================================================
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fathom.data.base import DepthDataset
from fathom.errors import ShapeError, require
from fathom.types import Sample

_EXTRA = ("train", "Batches of tensors")
_PIXELS: dict[str, str] = {
    "labels": "int64",
    "instances": "int64",
    "normals": "float32",
    "image_right": "uint8",
    "target_right": "float32",
    "valid_mask_right": "bool",
}


class TensorSamples:
    """A dataset as `torch.utils.data.DataLoader` wants one: by index, each sample changed by a function.

    Args:
        dataset: Where samples come from.
        transform: Called with each sample in the worker, for instance a resize.
    """

    def __init__(self, dataset: DepthDataset, transform: Callable[[Sample], Sample] | None = None) -> None:
        self.dataset, self.transform = dataset, transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return sample if self.transform is None else self.transform(sample)


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples into a batch.

    Raises:
        ShapeError: If their sizes or kinds differ.
        MissingExtraError: If torch is not installed.
    """
    torch = require("torch", *_EXTRA)
    sizes = {sample.image.shape[:2] for sample in samples}
    kinds = {sample.kind for sample in samples}
    if len(sizes) != 1 or len(kinds) != 1:
        what = f"sizes {sorted(sizes)}" if len(sizes) != 1 else f"kinds {sorted(kinds)}"
        raise ShapeError(f"The samples of a batch must share one size and kind; got {what}. Resize or crop them first.")

    def channels_first(images: list[Any]) -> Any:
        # np.stack copies, so read-only views of files never reach torch; the move of the axis copies once more.
        return torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2)))

    batch: dict[str, Any] = {
        "image": channels_first([sample.image for sample in samples]),
        "target": torch.from_numpy(np.stack([sample.target for sample in samples])),
        "valid_mask": torch.from_numpy(np.stack([sample.valid_mask for sample in samples])),
        "kind": samples[0].kind,
        "id": [str(sample.meta.get("id", "")) for sample in samples],
        "scene": [str(sample.meta.get("scene", "")) for sample in samples],
    }
    cameras = [sample.camera for sample in samples]
    if all(camera is not None for camera in cameras):
        matrices = np.stack([camera.intrinsics for camera in cameras if camera is not None])
        batch["intrinsics"] = torch.from_numpy(matrices.astype(np.float32))
        baselines = [camera.baseline_m for camera in cameras if camera is not None]
        if all(baseline is not None for baseline in baselines):
            batch["baseline_m"] = torch.tensor(baselines, dtype=torch.float32)
    for key, dtype in _PIXELS.items():
        if all(sample.meta.get(key) is not None for sample in samples):
            arrays = [np.asarray(sample.meta[key], dtype) for sample in samples]
            batch[key] = channels_first(arrays) if arrays[0].ndim == 3 else torch.from_numpy(np.stack(arrays))
    batch.update(_other_views(samples, torch))
    return batch


def _other_views(samples: Sequence[Sample], torch: Any) -> dict[str, Any]:
    """Return what a batch holds about the frames around each picture, and the side of its second view."""
    metas = [sample.meta for sample in samples]
    views: dict[str, Any] = {}
    if all(meta.get("image_right") is not None for meta in metas):
        # Every reader puts the second view to the right, unless it says otherwise.
        views["baseline_sign"] = torch.tensor([float(meta.get("baseline_sign", 1)) for meta in metas])
    if all(meta.get("neighbours") is not None for meta in metas):
        counts = sorted({len(meta["neighbours"]) for meta in metas})
        if len(counts) != 1:
            raise ShapeError(f"The samples of a batch must have the same number of neighbours; got {counts}.")
        stacked = np.stack([np.stack(meta["neighbours"]) for meta in metas])
        views["neighbours"] = torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 1, 4, 2, 3)))
        if all(meta.get("neighbour_poses") is not None for meta in metas):
            poses = np.stack([np.asarray(meta["neighbour_poses"], np.float32) for meta in metas])
            views["neighbour_poses"] = torch.from_numpy(poses)
    return views


def make_loader(
    dataset: DepthDataset,
    batch_size: int,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    transform: Callable[[Sample], Sample] | None = None,
    seed: int = 0,
    drop_last: bool = False,
) -> Any:
    """Return a `DataLoader` of batches.

    Args:
        dataset: Where samples come from.
        batch_size: Samples in a batch.
        shuffle: Whether to draw them in random order.
        num_workers: Processes that read; they are kept between epochs.
        transform: Called with each sample in the worker.
        seed: Of the order.
        drop_last: Leave out a last batch that is not full.
    """
    torch = require("torch", *_EXTRA)
    return torch.utils.data.DataLoader(
        TensorSamples(dataset, transform),
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
    )
