"""Segmentation metrics from a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fathom.alignment import BoolArray
from fathom.errors import EmptyMaskError, InputError, ShapeError


def confusion_matrix(
    pred: NDArray[np.integer],
    target: NDArray[np.integer],
    valid_mask: BoolArray,
    *,
    num_classes: int,
    ignore: Sequence[int] = (255,),
) -> NDArray[np.int64]:
    """Count pixels by true class (row) and predicted class (column).

    Matrices of several images add up, which is how scores of a whole test set are made.

    Args:
        pred: Class of each pixel, shape (H, W), 0 to num_classes - 1.
        target: True class, shape (H, W).
        valid_mask: Pixels to score, shape (H, W).
        num_classes: C.
        ignore: True labels that are not scored, for instance 255, or 0 for "unlabelled".

    Returns:
        Counts, shape (C, C).

    Raises:
        ShapeError: If the shapes differ.
        EmptyMaskError: If no pixel is left.
        InputError: If a label that counts is not a class.

    Example:
        >>> pred, target = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 255])
        >>> confusion_matrix(pred, target, target >= 0, num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    if not pred.shape == target.shape == valid_mask.shape:
        raise ShapeError(
            f"`pred`, `target` and `valid_mask` must have one shape; got {pred.shape}, {target.shape} and "
            f"{valid_mask.shape}."
        )
    usable = valid_mask & ~np.isin(target, list(ignore))
    if not usable.any():
        raise EmptyMaskError("At least one labelled pixel is needed; there is none. Skip this image and count it.")
    rows, columns = target[usable].astype(np.int64), pred[usable].astype(np.int64)
    for name, labels in (("target", rows), ("pred", columns)):
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InputError(
                f"Labels of `{name}` must lie in 0 to {num_classes - 1}; got {labels.min()} to {labels.max()}. "
                "Raise num_classes, or list the others in `ignore`."
            )
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def score_confusion(confusion: NDArray[np.integer]) -> dict[str, float]:
    """Compute the usual segmentation scores.

    With n_ij the counts, t_i the row sums (truth) and q_i the column sums (prediction), over the classes with t_i > 0:
    pixel_accuracy ``sum n_ii / sum t_i``; class_accuracy ``mean n_ii / t_i``; miou ``mean n_ii / (t_i + q_i - n_ii)``;
    fwiou ``sum (t_i / sum t) IoU_i``; dice ``mean 2 n_ii / (t_i + q_i)``, which is 2 IoU / (1 + IoU) class by class.

    Args:
        confusion: Counts by true class (row) and predicted class (column), shape (C, C).

    Returns:
        Scores by name.

    Raises:
        EmptyMaskError: If the matrix is all zero.

    Example:
        >>> scores = score_confusion(np.array([[1, 1], [1, 1]]))
        >>> scores["dice"], round(scores["miou"], 6)
        (0.5, 0.333333)

    Reference:
        Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, section 5.
    """
    counts = confusion.astype(np.float64)
    truth, predicted, correct = counts.sum(axis=1), counts.sum(axis=0), np.diag(counts)
    present = truth > 0
    if not present.any():
        raise EmptyMaskError("The confusion matrix is empty. Add at least one labelled pixel.")
    truth, predicted, correct = truth[present], predicted[present], correct[present]
    iou = correct / (truth + predicted - correct)
    return {
        "pixel_accuracy": float(correct.sum() / truth.sum()),
        "class_accuracy": float(np.mean(correct / truth)),
        "miou": float(iou.mean()),
        "fwiou": float(truth @ iou / truth.sum()),
        "dice": float(np.mean(2 * correct / (truth + predicted))),
    }


def score_segmentation(
    pred: NDArray[np.integer],
    target: NDArray[np.integer],
    valid_mask: BoolArray,
    *,
    num_classes: int,
    ignore: Sequence[int] = (255,),
) -> dict[str, float]:
    """Compute the scores of `score_confusion` for one label map. Arguments and errors as in `confusion_matrix`.

    Example:
        >>> target = np.array([[0, 1]])
        >>> score_segmentation(target, target, target >= 0, num_classes=2)["miou"]
        1.0
    """
    return score_confusion(confusion_matrix(pred, target, valid_mask, num_classes=num_classes, ignore=ignore))
