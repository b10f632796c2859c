"""Geometry: resizing without torch here; cameras, poses and warping in modules of their own, which need torch.

``fathom.geometry.camera``, ``fathom.geometry.pose`` and ``fathom.geometry.warp`` are imported by their full names, so
that prediction and scoring stay free of torch.
"""

from fathom.geometry.resize import Interpolation as Interpolation
from fathom.geometry.resize import resize_image as resize_image
from fathom.geometry.resize import resize_map as resize_map
