"""Small frames, predictions and protocols for the tests of evaluation."""

import numpy as np

from fathom.protocol import load_protocol
from fathom.types import Depth, DepthKind, Sample

TINY = (
    "image_crop=none",
    "target_size=null",
    "split.images=null",
    "score_crop={name: none, unit: fraction, rows: [0.0, 1.0], columns: [0.0, 1.0], frame: full, frame_size: null}",
)
AFFINE = DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH


def tiny(name="nyu-eigen", *changes):
    """A named protocol for any number of targets of any size."""
    return load_protocol(name, [*TINY, *changes])


def frame(index, shape=(24, 32), holes=0, **meta):
    """One frame; the picture's first pixel tells which it is, so that a callable can find its prediction."""
    rng = np.random.default_rng(index)
    target = (np.linspace(8.0, 1.0, shape[0])[:, None] + rng.uniform(0, 1.0, shape)).astype(np.float32)
    valid = np.ones(shape, bool)
    valid.flat[:holes] = False
    image = rng.integers(0, 255, (*shape, 3), dtype=np.uint8)
    image[0, 0] = index
    return Sample(image, np.where(valid, target, 0), valid, meta={"id": f"{index:04d}", **meta})


def frames(count=6, **options):
    """Several frames."""
    return [frame(index, **options) for index in range(count)]


def noisy(samples, sigma=0.1, seed=0, kind=DepthKind.METRIC_DEPTH):
    """A callable that knows the truth and errs by log-normal noise."""
    truth = {int(sample.image[0, 0, 0]): sample.target for sample in samples}

    def predict(image):
        index = int(image[0, 0, 0])
        rng = np.random.default_rng((seed, index))
        target = np.where(truth[index] > 0, truth[index], 1.0)
        depth = target * np.exp(rng.normal(0, sigma, target.shape))
        return Depth(1.0 / depth if kind is AFFINE else depth, kind)

    return predict
