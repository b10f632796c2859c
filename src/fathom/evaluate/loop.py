"""The scoring loop: samples and predictions in, reports out."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fathom.errors import ConfigError, EmptyMaskError, FathomError, InputError, KindError
from fathom.evaluate.records import ImageRecord, Report, SkippedImage
from fathom.evaluate.sources import SavedPredictions
from fathom.metrics.scoring import ImageScore, Pixels, check_kind, fit_pixels, gather_pixels, score_pixels
from fathom.postprocess import predict_at_scales, predict_flipped
from fathom.protocol import Protocol, kb_box
from fathom.types import Depth, DepthKind, InvalidReason, Sample

Predict = Callable[..., Depth]
"""Any callable from an image, uint8 RGB (H, W, 3), to a `Depth`; with given intrinsics it also takes ``camera=``."""


@dataclass(frozen=True)
class FromPair:
    """A model that sees both views of a rectified stereo pair; the scoring loop gives it those of the sample.

    Args:
        predict: Called as ``predict(image, right=...)``, such as ``Predictor(...).predict`` of such a model.
    """

    predict: Predict

    def __call__(self, image: NDArray[np.uint8], **views: Any) -> Depth:
        """Predict the depth of the first view."""
        return self.predict(image, **views)


RANGE_EDGES = (0.0, 2.0, 4.0, 6.0, 10.0, 20.0, 40.0, 80.0)
"""Distances [m] between which the breakdown by range counts."""


def evaluate(
    predict: Predict | SavedPredictions,
    samples: Iterable[Sample],
    protocol: Protocol,
    *,
    model: str = "model",
    is_partial: bool = False,
    range_edges: Sequence[float] = RANGE_EDGES,
    boundary: bool = False,
    num_workers: int | None = None,
    on_image: Callable[[str], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> Report:
    """Score a model, or saved predictions, under one protocol.

    Args:
        predict: Any callable from an image to a `Depth`, such as ``Predictor(...).predict``, within `FromPair` if it
            sees stereo pairs; or saved predictions.
        samples: Pictures with ground truth: a dataset, or any iterable. ``meta["id"]`` names a sample;
            ``meta["scene"]`` is its clip where the protocol fits one scale for each clip.
        protocol: How to score.
        model: Name for the report.
        is_partial: Allow another number of images than the protocol states, and samples without a saved prediction;
            the report says so beside its numbers.
        range_edges: Increasing distances [m] of the breakdown by range.
        boundary: Whether Depth Pro's boundary F1 is computed too.
        num_workers: Threads that read and score; default: one for each core.
        on_image: Called with the name of each image once it is scored.
        source: Kept in the report, so that `explain` can score again.

    Returns:
        The report.

    Raises:
        KindError: If the protocol cannot score this kind of prediction; with the cure.
        ConfigError: If the number of images is not the protocol's, or another ground truth is declared.
        InputError: If a prediction is missing or unusable; names the image.

    Example:
        >>> from fathom.protocol import load_protocol
        >>> target = np.full((480, 640), 2.0, np.float32)
        >>> sample = Sample(np.zeros((480, 640, 3), np.uint8), target, target > 0)
        >>> def predict(image):
        ...     return Depth(np.full(image.shape[:2], 2.2), DepthKind.METRIC_DEPTH)
        >>> report = evaluate(predict, [sample], load_protocol("nyu-eigen"), is_partial=True)
        >>> round(report.scores["abs_rel"], 4), report.num_images
        (0.1, 1)
    """
    [result] = evaluate_protocols(
        predict,
        samples,
        [protocol],
        model=model,
        is_partial=is_partial,
        range_edges=range_edges,
        boundary=boundary,
        num_workers=num_workers,
        on_image=on_image,
        source=source,
    )
    if isinstance(result, FathomError):
        raise result
    return result


def evaluate_protocols(
    predict: Predict | SavedPredictions,
    samples: Iterable[Sample],
    protocols: Sequence[Protocol],
    *,
    model: str = "model",
    is_partial: bool = False,
    range_edges: Sequence[float] = RANGE_EDGES,
    boundary: bool = False,
    num_workers: int | None = None,
    on_image: Callable[[str], None] | None = None,
    source: Mapping[str, Any] | None = None,
) -> list[Report | FathomError]:
    """Score the same predictions under several protocols; each picture is read once.

    A network runs once for each way in which the protocols treat pictures (crop, flip, scales, camera).

    Args:
        predict: As in `evaluate`.
        samples: As in `evaluate`.
        protocols: How to score.
        model: As in `evaluate`.
        is_partial: As in `evaluate`.
        range_edges: As in `evaluate`.
        boundary: As in `evaluate`.
        num_workers: As in `evaluate`.
        on_image: As in `evaluate`.
        source: As in `evaluate`.

    Returns:
        For each protocol its report, or the error that says why it cannot score these predictions.

    Raises:
        InputError: If a picture or a prediction cannot be read.
    """
    tallies = [_Tally(protocol, range_edges, boundary) for protocol in protocols]
    for tally in tallies:
        tally.check_count(samples, is_partial)
    workers = num_workers or _num_cores()
    _warm_allocator()
    pending: deque[Future[str]] = deque()

    def collect(limit: int) -> None:
        while len(pending) > limit:
            name = pending.popleft().result()
            if on_image is not None:
                on_image(name)

    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            if isinstance(predict, SavedPredictions):

                def read_and_score(index: int, read: Callable[[], Sample]) -> str:
                    sample = read()
                    depth = _read_saved(predict, sample_name(sample, index), is_partial)
                    return _score(tallies, sample, index, dict.fromkeys(map(_pass_of, protocols), depth))

                for index, read in _readers(samples):
                    if all(tally.error for tally in tallies):
                        break
                    pending.append(pool.submit(read_and_score, index, read))
                    collect(2 * workers)
            else:
                for index, sample in _read_ahead(samples, pool):
                    if all(tally.error for tally in tallies):
                        break
                    depths = _predict_passes(predict, sample, index, [t for t in tallies if t.error is None])
                    pending.append(pool.submit(_score, tallies, sample, index, depths))
                    collect(2 * workers)
            collect(0)
        except BaseException:
            # What is queued is of no use any more; waiting for it would only delay the message.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [tally.finish(model, is_partial, source or {}) for tally in tallies]


def sample_name(sample: Sample, index: int) -> str:
    """Return the name of a sample: its ``meta["id"]``, else its position."""
    return str(sample.meta.get("id", f"{index:06d}"))


class _Tally:
    """The results of one protocol so far; images come in any order, from several threads."""

    def __init__(self, protocol: Protocol, range_edges: Sequence[float], boundary: bool) -> None:
        self.protocol = protocol
        self.range_edges, self.boundary = tuple(range_edges), boundary
        self.error: FathomError | None = None
        self.kind: DepthKind | None = None
        self.weights_sha256 = ""
        self.results: dict[int, tuple[str, str, Pixels | ImageScore | SkippedImage]] = {}

    def check_count(self, samples: Iterable[Sample], is_partial: bool) -> None:
        """Find a wrong number of images before any work is done, where the number is known."""
        if not is_partial and isinstance(samples, Sized):
            self._check_count(len(samples))

    def _check_count(self, found: int, skipped: Sequence[SkippedImage] = ()) -> None:
        wanted = self.protocol.split.images
        if wanted is not None and found != wanted and self.error is None:
            which = f" ({len(skipped)} skipped: {', '.join(s.name for s in skipped[:5])})" if skipped else ""
            self.error = ConfigError(
                f"{self.protocol.name} scores {wanted} images; these are {found}{which}. Give it the split "
                f"'{self.protocol.split.name}', or allow a partial set (is_partial=True, --partial), which is printed "
                "beside the numbers."
            )

    def add(self, sample: Sample, index: int, depth: Depth | SkippedImage) -> None:
        """Score one image, or keep its pixels until its whole group is there."""
        if self.error is not None:
            return
        name, unit = sample_name(sample, index), self.protocol.alignment.unit
        group = str(sample.meta.get("scene", "")) if unit == "clip" else ""
        if isinstance(depth, SkippedImage):
            self.results[index] = (name, group, depth)
            return
        declared = sample.meta.get("ground_truth")
        try:
            if declared is not None and declared != self.protocol.split.ground_truth:
                raise ConfigError(
                    f"{self.protocol.name} scores against {self.protocol.split.ground_truth} ground truth; this data "
                    f"declares {declared}. Read the other one, or --set split.ground_truth={declared}, which changes "
                    "the protocol's hash."
                )
            if self.protocol.image_crop == "kb_crop":
                depth = put_back(depth, sample)
            depth = _with_baseline(depth, sample, self.protocol)
            check_kind(depth.kind, self.protocol)
            self.kind = self.kind or depth.kind
            if depth.kind is not self.kind:
                raise InputError(f"All predictions must be of one kind; got {self.kind.value} and {depth.kind.value}.")
            self.weights_sha256 = depth.provenance.weights_sha256
            pixels = gather_pixels(depth, sample, self.protocol, range_edges=self.range_edges, boundary=self.boundary)
            result: Pixels | ImageScore = pixels
            if unit == "image":
                result = self._scored([pixels])[0]
            self.results[index] = (name, group, result)
        except EmptyMaskError as error:
            self.results[index] = (name, group, SkippedImage(name, str(error)))
        except FathomError as error:
            self.error = _named(error, name)

    def _scored(self, images: Sequence[Pixels]) -> list[ImageScore]:
        fit = fit_pixels(images, self.protocol)
        return [score_pixels(pixels, fit, self.protocol, range_edges=self.range_edges) for pixels in images]

    def finish(self, model: str, is_partial: bool, source: Mapping[str, Any]) -> Report | FathomError:
        """Fit what is fitted by group, check the count, and make the report."""
        if self.error is not None:
            return self.error
        groups: dict[str, list[int]] = {}
        for index, (_, group, result) in sorted(self.results.items()):
            if isinstance(result, Pixels):
                groups.setdefault(group, []).append(index)
        for group, members in groups.items():
            pixels = [result for index in members if isinstance(result := self.results[index][2], Pixels)]
            try:
                scores = self._scored(pixels)
            except FathomError as error:
                return _named(error, group or "the whole set")
            for index, score in zip(members, scores, strict=True):
                self.results[index] = (self.results[index][0], group, score)
        ordered = [result for _, result in sorted(self.results.items())]
        skipped = [result for _, _, result in ordered if isinstance(result, SkippedImage)]
        records = [ImageRecord.from_score(name, score) for name, _, score in ordered if isinstance(score, ImageScore)]
        if not is_partial:
            self._check_count(len(records), skipped)
            if self.error is not None:
                return self.error
        if not records:
            first = f" The first: {skipped[0].name}: {skipped[0].reason}" if skipped else ""
            return EmptyMaskError(f"No image was scored; {len(skipped)} were skipped.{first}")
        assert self.kind is not None, "an image was scored"
        # Only some cameras may have the baseline that d1 takes, and its mean over their images would pass for all.
        shared = set(records[0].scores).intersection(*(record.scores for record in records))
        return Report(
            model,
            self.protocol,
            self.kind,
            tuple(
                replace(record, scores={name: score for name, score in record.scores.items() if name in shared})
                for record in records
            ),
            tuple(skipped),
            # A subset is only partial where it differs from what the protocol fixes.
            is_partial=is_partial and self.protocol.split.images not in (None, len(records)),
            weights_sha256=self.weights_sha256,
            source=source,
        )


_Pass = tuple[str, str, tuple[float, ...], str]


def _pass_of(protocol: Protocol) -> _Pass:
    """Return what decides the network's input."""
    return protocol.image_crop, protocol.test_time.flip, protocol.test_time.scales, protocol.intrinsics


def _score(tallies: Sequence[_Tally], sample: Sample, index: int, depths: Mapping[_Pass, Depth | SkippedImage]) -> str:
    for tally in tallies:
        key = _pass_of(tally.protocol)
        if tally.error is None and key in depths:
            depth = depths[key]
            tally.add(sample, index, depth)
    return sample_name(sample, index)


def _predict_passes(
    predict: Predict, sample: Sample, index: int, tallies: Sequence[_Tally]
) -> dict[_Pass, Depth | SkippedImage]:
    """Run the network once for each way of feeding it; a protocol that cannot feed it is given up, the others go on."""
    depths: dict[_Pass, Depth | SkippedImage] = {}
    for tally in tallies:
        key = _pass_of(tally.protocol)
        if key not in depths:
            try:
                call, image = _feed(predict, sample, tally.protocol)
            except FathomError as error:
                tally.error = _named(error, sample_name(sample, index))
                continue
            depths[key] = call(image)
    return depths


def predict_for(predict: Predict, sample: Sample, protocol: Protocol) -> Depth:
    """Predict a sample as a protocol states: cropped, mirrored, at several sizes, with or without the true camera.

    Without any of these the callable gets the picture untouched, as `predict` on the same file would.

    Args:
        predict: Callable from an image to a `Depth`.
        sample: The sample.
        protocol: The protocol.

    Returns:
        The prediction, of the cropped picture where the protocol crops.

    Raises:
        InputError: If the protocol gives the camera and the sample has none.
    """
    call, image = _feed(predict, sample, protocol)
    return call(image)


def _feed(predict: Predict, sample: Sample, protocol: Protocol) -> tuple[Predict, NDArray[np.uint8]]:
    """Return the callable with its test-time treatment, and the picture to give it."""
    image: NDArray[np.uint8] = sample.image
    call = predict
    if protocol.intrinsics == "given":
        if sample.camera is None:
            raise InputError(f"{protocol.name} gives the true camera, and this data has none. Use other data.")
        call = partial(predict, camera=sample.camera)
    views = [image, _second_view(sample, protocol)] if isinstance(predict, FromPair) else [image]
    if protocol.image_crop == "kb_crop":
        top, bottom, left, right = kb_box(*image.shape[:2])
        views = [np.ascontiguousarray(view[top:bottom, left:right]) for view in views]
    if len(views) == 2:
        call = partial(call, right=views[1])
    if protocol.test_time.scales != (1.0,):
        call = partial(predict_at_scales, call, scales=protocol.test_time.scales)
    if protocol.test_time.flip != "none":
        call = partial(predict_flipped, call, border_blend=protocol.test_time.flip == "border_blend")
    return call, views[0]


def _second_view(sample: Sample, protocol: Protocol) -> NDArray[np.uint8]:
    second: NDArray[np.uint8] | None = sample.meta.get("image_right")
    if second is None or sample.meta.get("baseline_sign", 1) != 1:
        raise InputError(
            "This model sees both views of a stereo pair, and this data gives no right one. Use a set of pairs, with "
            "`--data-option stereo=true` where its reader has that option."
        )
    if protocol.test_time.flip != "none" or protocol.test_time.scales != (1.0,):
        raise ConfigError(
            f"{protocol.name} predicts mirrored or resized pictures, too, which a model of stereo pairs does not take. "
            "Set `test_time.flip=none` and `test_time.scales=[1.0]`."
        )
    return second


def put_back(depth: Depth, sample: Sample) -> Depth:
    """Put the prediction of the KITTI benchmark crop back into the full frame; one of the full frame stays."""
    height, width = sample.target.shape
    top, bottom, left, right = kb_box(height, width)
    if (depth.height, depth.width) != (bottom - top, right - left):
        return depth
    values, mask = np.zeros((height, width), np.float32), np.zeros((height, width), np.bool_)
    reason = np.full((height, width), InvalidReason.BORDER, np.uint8)
    values[top:bottom, left:right] = depth.values
    mask[top:bottom, left:right] = depth.valid_mask
    reason[top:bottom, left:right] = depth.invalid_reason
    return Depth(values, depth.kind, mask, reason, provenance=depth.provenance)


def _read_saved(saved: SavedPredictions, name: str, is_partial: bool) -> Depth | SkippedImage:
    if is_partial and saved.path_of(name) is None:
        return SkippedImage(name, f"No prediction in '{saved.folder}'.")
    return saved.read(name)


def _readers(samples: Iterable[Sample]) -> Iterator[tuple[int, Callable[[], Sample]]]:
    """Return a function for each sample that reads it: at once for an iterable, when called for a dataset."""
    if hasattr(samples, "__getitem__") and isinstance(samples, Sized):
        for index in range(len(samples)):
            yield index, partial(samples.__getitem__, index)
    else:
        for index, sample in enumerate(samples):
            yield index, partial(_same, sample)


def _with_baseline(depth: Depth, sample: Sample, protocol: Protocol) -> Depth:
    """Give the disparity of a stereo-trained network the camera of its picture, where a protocol scores metres.

    Its own camera has no baseline, which no single picture tells; that of the data is part of such protocols.
    """
    scores_metres = protocol.alignment.method == "none" and protocol.alignment.fixed_scale is None
    camera = sample.camera
    if depth.kind is not DepthKind.DISPARITY or not scores_metres or camera is None or camera.baseline_m is None:
        return depth
    # A disparity counts the pixels of its own map, which may be smaller than the picture.
    height, width = sample.image.shape[:2]
    return replace(depth, camera=camera.scaled(depth.width / width, depth.height / height)).to_inverse_depth()


def _same(sample: Sample) -> Sample:
    return sample


def _read_ahead(samples: Iterable[Sample], pool: ThreadPoolExecutor) -> Iterator[tuple[int, Sample]]:
    """Read the next sample while the network works on this one."""
    waiting: deque[tuple[int, Future[Sample]]] = deque()
    for index, read in _readers(samples):
        waiting.append((index, pool.submit(read)))
        if len(waiting) > 1:
            first, future = waiting.popleft()
            yield first, future.result()
    for first, future in waiting:
        yield first, future.result()


def _named(error: FathomError, name: str) -> FathomError:
    # A wrong kind is no matter of one image.
    return error if isinstance(error, KindError) else type(error)(f"{name}: {error}")


def _num_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _warm_allocator() -> None:
    """Make glibc keep freed memory.

    It returns large blocks to the system after each image, and faulting them in again takes half of the scoring time.
    Freeing one block of this size raises its threshold, which is what it does by itself for programs that do so.
    """
    np.empty(30 << 20, np.uint8)
