"""How much a network's scores suffer from small changes of the picture: noise, FGSM and PGD. Needs torch."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fathom.attacks import Model, fgsm, pgd, uniform_noise
from fathom.errors import EmptyMaskError
from fathom.evaluate.loop import sample_name
from fathom.evaluate.records import SkippedImage
from fathom.metrics.scoring import score_image
from fathom.protocol import Protocol
from fathom.types import Depth, DepthKind, Sample

SUCCESS_FACTOR = 1.25
"""An attack on an image succeeds when it raises its AbsRel by this factor."""


@dataclass(frozen=True)
class RobustnessRow:
    """Scores under one attack.

    Attributes:
        attack: ``"clean"``, ``"noise"``, ``"fgsm"`` or ``"pgd"``.
        epsilon: Largest change of a pixel, on the scale 0 to 1.
        abs_rel: Mean over images.
        delta1: Mean over images.
        success_rate: Share of images whose AbsRel rose by `SUCCESS_FACTOR` or more.
    """

    attack: str
    epsilon: float
    abs_rel: float
    delta1: float
    success_rate: float


@dataclass(frozen=True)
class RobustnessReport:
    """Clean and attacked scores of one model under one protocol.

    Attributes:
        model: Name of the model.
        protocol: How images were scored.
        rows: One for the clean pictures, then one for each attack and strength.
        num_images: Number of scored images.
        skipped: Images that could not be scored.
    """

    model: str
    protocol: Protocol
    rows: tuple[RobustnessRow, ...]
    num_images: int
    skipped: tuple[SkippedImage, ...]

    def warnings(self) -> list[str]:
        """Say where the figures look like a weak attack instead of a strong model (gradient masking)."""
        found = []
        for attack in ("fgsm", "pgd"):
            rows = sorted((row for row in self.rows if row.attack == attack), key=lambda row: row.epsilon)
            for weak, strong in itertools.pairwise(rows):
                if strong.abs_rel < weak.abs_rel:
                    found.append(
                        f"{attack} at {strong.epsilon * 255:g}/255 does less harm than at {weak.epsilon * 255:g}/255: "
                        "the gradient may be masked."
                    )
        noise = {row.epsilon: row.abs_rel for row in self.rows if row.attack == "noise"}
        for row in self.rows:
            if row.attack == "pgd" and row.abs_rel < noise.get(row.epsilon, 0.0):
                found.append(f"Noise of {row.epsilon * 255:g}/255 does more harm than pgd: the attack is too weak.")
        return found

    def markdown(self) -> str:
        """Write the table."""
        lines = [
            f"## Robustness of {self.model} ({self.protocol.label}, {self.num_images} images)",
            "",
            "| attack | epsilon | AbsRel | delta1 | success rate |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row.attack} | {row.epsilon * 255:g}/255 | {row.abs_rel:.4f} | {row.delta1:.4f} | "
            f"{row.success_rate:.1%} |"
            for row in self.rows
        ]
        lines += ["", *(f"- {warning}" for warning in self.warnings())]
        if self.skipped:
            lines.append(f"- {len(self.skipped)} images were skipped: {', '.join(s.name for s in self.skipped)}.")
        return "\n".join(lines).rstrip() + "\n"


def evaluate_robustness(
    model: Model,
    samples: Iterable[Sample],
    protocol: Protocol,
    *,
    kind: DepthKind,
    epsilons: Sequence[float] = (1 / 255, 2 / 255, 4 / 255, 8 / 255),
    num_steps: int = 10,
    to_tensor: Callable[[Sample], Tensor] | None = None,
    name: str = "model",
    seed: int = 0,
) -> RobustnessReport:
    """Score a network on clean, noisy and attacked pictures.

    Attacks raise the L1 distance to the clean prediction, so they need no ground truth; FGSM starts from the clean
    prediction moved by a random tenth of `epsilon`, because the distance has no slope at its own zero.

    Args:
        model: Takes pictures in [0, 1], shape (1, 3, h, w); gives a map of shape (1, 1, h, w) or (1, h, w).
        samples: Pictures with ground truth.
        protocol: How to score; without test-time augmentation.
        kind: What the network's output is.
        epsilons: Strengths, on the scale 0 to 1.
        num_steps: Steps of PGD.
        to_tensor: Makes the network's picture from a sample; default: the picture at its own size.
        name: Name for the report.
        seed: Seed of noise and random starts.

    Returns:
        Rows for clean, noise, FGSM and PGD at each strength.

    Raises:
        EmptyMaskError: If no image could be scored.
        KindError: If the protocol cannot score this kind.
    """
    cases = [("clean", 0.0), *((attack, eps) for attack in ("noise", "fgsm", "pgd") for eps in epsilons)]
    scores: dict[tuple[str, float], list[tuple[float, float]]] = {case: [] for case in cases}
    skipped: list[SkippedImage] = []
    generator = torch.Generator().manual_seed(seed)
    for index, sample in enumerate(samples):
        image = to_tensor(sample) if to_tensor is not None else _as_tensor(sample)
        with torch.no_grad():
            clean = model(image)
        everywhere = torch.isfinite(clean)
        row: dict[tuple[str, float], tuple[float, float]] = {}
        try:
            for attack, epsilon in cases:
                attacked = image
                if attack == "noise":
                    attacked = uniform_noise(image, epsilon=epsilon, generator=generator)
                elif attack == "fgsm":
                    # One step of the rest of the ball, from a random point near the picture.
                    start = uniform_noise(image, epsilon=0.1 * epsilon, generator=generator)
                    attacked = fgsm(model, start, clean, everywhere, epsilon=0.9 * epsilon)
                elif attack == "pgd":
                    attacked = pgd(
                        model, image, clean, everywhere, epsilon=epsilon, num_steps=num_steps, generator=generator
                    )
                with torch.no_grad():
                    values = model(attacked)
                depth = Depth(values.reshape(values.shape[-2:]).cpu().numpy().astype(np.float32), kind)
                found = score_image(depth, sample, protocol).scores
                row[attack, epsilon] = (found["abs_rel"], found["delta1"])
        except EmptyMaskError as error:
            skipped.append(SkippedImage(sample_name(sample, index), str(error)))
            continue
        for case, values_of_case in row.items():
            scores[case].append(values_of_case)
    if not scores["clean", 0.0]:
        raise EmptyMaskError(f"No image could be scored; {len(skipped)} were skipped. Check the masks and the crop.")
    base = np.array(scores["clean", 0.0])
    rows = []
    for attack, epsilon in cases:
        table = np.array(scores[attack, epsilon])
        success = float(np.mean(table[:, 0] >= SUCCESS_FACTOR * base[:, 0])) if attack != "clean" else 0.0
        rows.append(RobustnessRow(attack, epsilon, float(table[:, 0].mean()), float(table[:, 1].mean()), success))
    return RobustnessReport(name, protocol, tuple(rows), len(base), tuple(skipped))


def _as_tensor(sample: Sample) -> Tensor:
    picture = np.ascontiguousarray(sample.image.transpose(2, 0, 1))
    return torch.from_numpy(picture)[None].float() / 255.0
