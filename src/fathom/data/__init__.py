"""Datasets: readers, transforms, the data doctor, and fast training files. No torch outside `torch_adapter`.

`DATASETS` is the list of readers; `open_dataset` opens one by name. To add your own, pass your own `DepthDataset`
wherever a dataset is wanted: there is no registry.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fathom.config import nearest_name
from fathom.data.base import DepthDataset as DepthDataset
from fathom.data.base import Subset as Subset
from fathom.data.config import DatasetConfig as DatasetConfig
from fathom.data.config import load_dataset_config as load_dataset_config
from fathom.data.diode import Diode
from fathom.data.folder import FolderDataset as FolderDataset
from fathom.data.frames import FrameFolder, VideoFrames
from fathom.data.ibims import Ibims1
from fathom.data.kitti import KittiRaw, KittiStereo2015
from fathom.data.kitti_video import Kitti360, KittiOdometry
from fathom.data.make3d import Make3D
from fathom.data.middlebury import Middlebury
from fathom.data.nyu import NyuBts, NyuFolder, NyuLabelled, NyuSparseToDense
from fathom.data.prepare import PreparedDataset
from fathom.data.segmentation import CamVid, Isbi2012
from fathom.data.sevenscenes import SevenScenes
from fathom.data.sunrgbd import SunRgbd
from fathom.data.tum import TumRgbd
from fathom.errors import ConfigError


@dataclass(frozen=True)
class DatasetEntry:
    """One reader.

    Args:
        builder: Called as ``builder(root, split, **options)``.
        description: What it holds, in a line.
        licence: Terms of the owners; goes into the card of a model trained on it.
    """

    builder: Callable[..., DepthDataset]
    description: str
    licence: str


_NYU_TERMS = "research use, no formal licence"
_KITTI_TERMS = "CC BY-NC-SA 3.0"

DATASETS: dict[str, DatasetEntry] = {
    "folder": DatasetEntry(FolderDataset, "your own folder, described by a YAML file", "yours"),
    "frames": DatasetEntry(FrameFolder, "frames of any video in a folder, no depth; for self-supervision", "yours"),
    "video": DatasetEntry(VideoFrames, "any video file, no depth; for self-supervision", "yours"),
    "prepared": DatasetEntry(PreparedDataset, "what `fathom data prepare` wrote", "that of its source"),
    "nyu-labelled": DatasetEntry(NyuLabelled, "NYU Depth V2, nyu_depth_v2_labeled.mat", _NYU_TERMS),
    "nyu-folder": DatasetEntry(NyuFolder, "NYU Depth V2, rgb/ depth/ labels40/", _NYU_TERMS),
    "nyu-bts": DatasetEntry(NyuBts, "NYU Depth V2, synchronised export of BTS", _NYU_TERMS),
    "nyu-sparse-to-dense": DatasetEntry(NyuSparseToDense, "NYU Depth V2, h5 files of sparse-to-dense", _NYU_TERMS),
    "kitti-raw": DatasetEntry(KittiRaw, "KITTI raw drives with lidar or accumulated depth", _KITTI_TERMS),
    "kitti-odometry": DatasetEntry(KittiOdometry, "KITTI odometry, stereo video with poses", _KITTI_TERMS),
    "kitti-stereo-2015": DatasetEntry(KittiStereo2015, "KITTI stereo 2015, disparity", _KITTI_TERMS),
    "kitti-360": DatasetEntry(Kitti360, "KITTI-360, one camera with lidar depth", _KITTI_TERMS),
    "make3d": DatasetEntry(Make3D, "Make3D, outdoor pictures with a laser grid", "research use"),
    "tum-rgbd": DatasetEntry(TumRgbd, "TUM RGB-D, one sequence", "CC BY 4.0"),
    "sun-rgbd": DatasetEntry(SunRgbd, "SUN RGB-D, indoor frames of four cameras", "research use"),
    "7-scenes": DatasetEntry(SevenScenes, "7-Scenes, one room", "Microsoft, non-commercial research"),
    "diode": DatasetEntry(Diode, "DIODE, indoor and outdoor laser depth with normals", "MIT"),
    "middlebury": DatasetEntry(Middlebury, "Middlebury stereo", "free to use with citation"),
    "ibims1": DatasetEntry(Ibims1, "iBims-1, evaluation only", "research use"),
    "isbi2012": DatasetEntry(Isbi2012, "ISBI 2012 membranes, segmentation", "challenge data"),
    "camvid": DatasetEntry(CamVid, "CamVid road scenes, segmentation in 11 classes", "research use"),
}
"""Every reader, by name."""


def open_dataset(name: str, root: str | Path, split: str | None = None, **options: Any) -> DepthDataset:
    """Open a dataset by name.

    Args:
        name: A name in `DATASETS`.
        root: Its folder, or for ``"folder"`` its YAML.
        split: Which part; default: that of the reader.
        options: Options of the reader.

    Raises:
        ConfigError: If the name or an option is unknown.
        InputError: If the files are not there.

    Example:
        >>> open_dataset("nyu-foldr", "/nowhere")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        fathom.errors.ConfigError: Unknown dataset 'nyu-foldr'. Did you mean 'nyu-folder'? Known: folder, ...
    """
    entry = DATASETS.get(name)
    if entry is None:
        raise ConfigError(f"Unknown dataset '{name}'. {nearest_name(name, DATASETS)}")
    known = inspect.signature(entry.builder).parameters
    for option in options:
        if option not in known or option in ("root", "split"):
            allowed = nearest_name(option, [key for key in known if key not in ("root", "split")])
            raise ConfigError(f"Unknown option '{option}' of the dataset {name}. {allowed}")
    required = [k for k, p in known.items() if p.default is p.empty and k not in ("root", "split") and k not in options]
    if required:
        raise ConfigError(f"The dataset {name} needs the option {', '.join(required)}.")
    return entry.builder(root, **({"split": split} if split is not None else {}), **options)
