"""The section `selfsupervised` of a recipe: which other views depth is learned from, and how they are compared."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fathom.config import StrictConfig

Smoothness = Literal["squared", "edge_aware", "second_order"]


class SelfSupervisedConfig(StrictConfig):
    """Learn depth without depth labels, by rebuilding the picture from other views of the scene.

    The published systems are combinations of these options; `configs/` holds one recipe for each.

    Example:
        >>> SelfSupervisedConfig(warp="disparity", stereo=True, photometric="ssim", left_right_weight=1.0).num_views
        1
    """

    warp: Literal["linearised", "disparity", "depth"]
    """How another view is read. linearised: shifted by disparity to first order, from coarse to fine (Garg).
    disparity: shifted by disparity (monodepth). depth: by depth, camera and motion (SfMLearner, monodepth2)."""
    stereo: bool = False
    """Use the second view of a stereo pair."""
    neighbours: tuple[int, ...] = ()
    """Offsets of the frames of a video that are used, for instance [-1, 1]."""
    pose: Literal["sfmlearner", "monodepth2", "given"] | None = None
    """Network that finds the motion to the neighbours; it is trained together with the depth network. given: no
    network, the motion that the dataset knows (odometry, a tracker), so that depth is in metres."""
    pose_options: dict[str, Any] = Field(default_factory=dict)
    """Options of its builder; trunk widths, for instance base_channels."""
    rotation: Literal["learned", "matched"] = "learned"
    """matched: features tell how the camera turned, pictures are turned back, and the network finds what is left. For
    cameras held by hand, whose turning hides the little parallax there is."""
    nominal_baseline: float | None = Field(default=None, gt=0)
    """Baseline that every stereo pair is taken to have [units of depth]; null: the camera's own, so that depth is in
    metres."""
    photometric: Literal["squared", "l1", "ssim"] = "ssim"
    """How pictures are compared: squared difference, absolute difference, or SSIM with absolute difference."""
    ssim_weight: float = Field(default=0.85, ge=0, le=1)
    """Share of SSIM in `ssim`."""
    intensity_span: float = Field(default=1.0, gt=0)
    """Difference of white and black in the comparison by `squared` and `l1`: 1, 2 for pictures in -1 to 1, or 255."""
    choose: Literal["mean", "minimum"] = "mean"
    """Over the other views: compare with all, or at each pixel with the one that fits best (monodepth2)."""
    auto_mask: bool = False
    """Leave out pixels that an unmoved neighbour fits better than a warped one (monodepth2)."""
    mask_outside: bool = False
    """Leave out pixels that the other view does not show; false: its border is repeated."""
    full_resolution: bool = False
    """Enlarge every scale to the size of the picture before warping (monodepth2); false: shrink the pictures."""
    average_scales: bool = False
    """Divide the sum over the scales by their number."""
    smoothness: Smoothness = "edge_aware"
    """squared: squared gradient of disparity [px]. edge_aware: its gradient (as a share of the width), less at edges of
    the picture. second_order: its second differences (SfMLearner)."""
    smoothness_weight: float = Field(default=0.1, ge=0)
    """Weight of smoothness at the finest scale."""
    smoothness_halves: bool = True
    """Halve that weight from each scale to the next coarser one."""
    smoothness_normalised: bool = False
    """Divide disparity by its mean first, so that shrinking it does not pay (monodepth2)."""
    left_right_weight: float = Field(default=0.0, ge=0)
    """Weight of the consistency of left and right disparity (monodepth)."""
    explainability_weight: float = Field(default=0.0, ge=0)
    """Weight of the explainability masks' regulariser (SfMLearner); 0: no masks."""

    @property
    def num_views(self) -> int:
        """Number of other views."""
        return len(self.neighbours) + self.stereo

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = {
            "Set `stereo: true` or `neighbours`: there is no other view to learn from.": self.num_views == 0,
            "`neighbours` are offsets from the picture; 0 is the picture itself. Remove it.": 0 in self.neighbours,
            "`neighbours` holds an offset twice. Name each once.": len(set(self.neighbours)) < len(self.neighbours),
            f"`warp: {self.warp}` shifts along rows, so it needs `stereo: true` and no `neighbours`. For video set "
            "`warp: depth`.": self.warp != "depth" and (not self.stereo or bool(self.neighbours)),
            "`neighbours` need their motion. Set `pose`.": bool(self.neighbours) and self.pose is None,
            "`pose` finds the motion to `neighbours`, and there are none. Remove it.": self.pose is not None
            and not self.neighbours,
            "`rotation: matched` belongs to a network for the motion. Set `pose: monodepth2` or sfmlearner.": (
                self.rotation == "matched" and self.pose in (None, "given")
            ),
            "`pose_options` belong to a network, and `pose: given` has none. Remove them.": self.pose == "given"
            and bool(self.pose_options),
            "`left_right_weight` compares disparities. Set `warp: disparity`, or remove it.": self.left_right_weight > 0
            and self.warp != "disparity",
            "`explainability_weight` needs `pose: sfmlearner` and `choose: mean`.": self.explainability_weight > 0
            and (self.pose != "sfmlearner" or self.choose != "mean"),
            "`auto_mask` compares with unmoved neighbours at each pixel. Set `warp: depth` and `choose: minimum`.": (
                self.auto_mask and (self.warp != "depth" or self.choose != "minimum")
            ),
            "`warp: linearised` is made for `photometric: squared`. Set it.": self.warp == "linearised"
            and self.photometric != "squared",
            "`nominal_baseline` belongs to `stereo: true` and `warp: depth`.": self.nominal_baseline is not None
            and (not self.stereo or self.warp != "depth"),
            "`full_resolution` belongs to `warp: depth`.": self.full_resolution and self.warp != "depth",
        }
        for text, is_wrong in problems.items():
            if is_wrong:
                raise ValueError(text)
        return self
