"""NYU Depth V2 in the layouts it is passed around in; indoor Kinect frames of 640 x 480 with depth in metres.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. Research use, no formal
licence. Four readers:

* `NyuLabelled`: ``nyu_depth_v2_labeled.mat``, the 1449 labelled frames, with ``splits.mat``.
* `NyuFolder`: the same frames as pictures, ``rgb/ depth/ labels40/`` with ``train.txt`` and ``val.txt``.
* `NyuBts`: the synchronised export that BTS and its successors train on.
* `NyuSparseToDense`: the h5 files of Ma & Karaman, "Sparse-to-Dense", ICRA 2018.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fathom.data.base import (
    DepthDataset,
    camera_from_calibration,
    check_choice,
    existing_folder,
    make_sample,
    read_list,
)
from fathom.data.stored import read_stored
from fathom.errors import InputError, require
from fathom.io import read_image
from fathom.types import Camera, DepthKind, Sample

RGB_CALIBRATION = {
    "fx": 518.85790117450188,
    "fy": 519.46961112127485,
    "cx": 325.58244941119034,
    "cy": 253.73616633400465,
    "k1": 0.20796615318809061,
    "k2": -0.58613825163911781,
    "p1": 0.00072231363135888329,
    "p2": 0.0010479627195765181,
    "k3": 0.49856986684705107,
}
"""Colour camera of the toolbox (camera_params.m), first pixel centre at (0, 0)."""
DEPTH_CALIBRATION = {
    "fx": 582.62448167737955,
    "fy": 582.69103270988637,
    "cx": 313.04475870804731,
    "cy": 238.44389626620386,
    "k1": -0.099897236553084481,
    "k2": 0.39065324602765344,
    "p1": 0.0019290592870229277,
    "p2": -0.0019422022475975055,
    "k3": -0.51031725053400578,
}
"""Depth camera of the toolbox."""
DEPTH_TO_RGB_TRANSLATION_M = (0.075031875059141302, 0.00066238747008330102, 0.029342312935846411)
"""Translation x, y, z [m]; the toolbox assigns it in the order x, z, y."""

BORDER_ROWS, BORDER_COLUMNS = (7, 474), (7, 632)
"""Rows and columns with a picture; what lies outside is the white frame left by undistortion."""

_MAX_CACHE_BYTES = 64 * 2**20
"""Most memory that one field of the .mat may keep of decompressed chunks."""

_PIXEL_FIELDS = ("images", "depths", "rawDepths", "labels", "instances")


def nyu_camera() -> Camera:
    """Return the colour camera of the 640 x 480 frames."""
    k = RGB_CALIBRATION
    return camera_from_calibration(k["fx"], k["fy"], k["cx"], k["cy"])


def kinect_raw_to_depth(raw: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return metres for the numbers of the raw Kinect dump: ``351.3 / (1092.5 - raw)``, limited to 0..10 m.

    Reference:
        Toolbox of NYU Depth V2, depth_rel2depth_abs.m and camera_params.m.

    Example:
        >>> kinect_raw_to_depth(np.array([1000])).round(5).tolist()
        [3.79784]
    """
    raw = np.asarray(raw, np.float64)
    with np.errstate(divide="ignore"):
        depth = 351.3 / (1092.5 - raw)
    # Past the pole at 1092.5 the formula turns negative: there is no measurement.
    return np.clip(np.where(raw < 1092.5, depth, 0.0), 0.0, 10.0)


def read_kinect_pgm(path: str | Path) -> npt.NDArray[np.uint16]:
    """Return the numbers of a ``d-*.pgm`` of the raw dump, whose two bytes are in the wrong order.

    The dump declares big-endian samples and stores little-endian ones, so every number is swapped after reading.

    Raises:
        InputError: If it is not a 16-bit grey PGM.
    """
    stored = read_stored(path)
    if stored.max(initial=0) <= 255 and stored.dtype == np.uint8:
        raise InputError(f"Expected a 16-bit PGM of the NYU raw dump; '{path}' has 8 bits.")
    return np.asarray(stored, np.uint16).byteswap()


def read_splits(path: str | Path) -> dict[str, npt.NDArray[np.intp]]:
    """Return the official split of the labelled frames from ``splits.mat``, counted from 0.

    Returns:
        ``{"train": 795 indices, "test": 654 indices}``.

    Raises:
        InputError: If the file is not such a split.
        MissingExtraError: If scipy is not installed.
    """
    scipy_io = require("scipy.io", "train", "Reading splits.mat")
    try:
        content = scipy_io.loadmat(path)
        # MATLAB counts from 1.
        return {part: content[f"{part}Ndxs"].ravel().astype(np.intp) - 1 for part in ("train", "test")}
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"Expected splits.mat with trainNdxs and testNdxs; cannot use '{path}': {error}.") from None


class NyuLabelled(DepthDataset):
    """The 1449 labelled frames, straight from ``nyu_depth_v2_labeled.mat`` (2.8 GB), one frame at a time.

    The file is opened on first use in each process, so the dataset can be pickled, forked and spawned freely; the
    decompressed chunks of HDF5 are cached just as far as consecutive frames share them.

    ``meta`` holds `index` (counted from 0), `number` (from 1), `scene`, `labels` (uint16, 0 unlabelled, 894 classes)
    and `instances`.

    Args:
        root: The .mat file, or a folder that holds it and ``splits.mat``.
        split: ``"train"`` (795), ``"test"`` (654) or ``"all"``.
        depth: ``"filled"`` is the in-painted depth; ``"raw"`` the projected one, 0 where the sensor saw nothing.
        splits_file: The ``splits.mat``; default: beside the .mat. Not needed for ``"all"``.
        mask_border: Leave the white frame of the picture out of `valid_mask`.

    Raises:
        InputError: If a file is missing or of another layout.
    """

    kind = DepthKind.METRIC_DEPTH
    ignore_label = 0

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        depth: Literal["filled", "raw"] = "filled",
        splits_file: str | Path | None = None,
        mask_border: bool = False,
    ) -> None:
        self.name, self.split = "nyu-labelled", check_choice("split", split, ("train", "test", "all"))
        self._ground_truth = check_choice("depth", depth, ("filled", "raw"))
        self._field = {"filled": "depths", "raw": "rawDepths"}[depth]
        root = Path(root)
        self.path = root / "nyu_depth_v2_labeled.mat" if root.is_dir() else root
        if not self.path.is_file():
            raise InputError(f"Expected nyu_depth_v2_labeled.mat; there is no file '{self.path}'.")
        self._mask_border = mask_border
        self._handle: tuple[int, Any, dict[str, Any]] | None = None
        self._scenes: list[str] | None = None
        images = self._fields()["images"]
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError(f"Expected images (N, 3, W, H) in '{self.path}'; got {images.shape}.")
        self.indices = np.arange(len(images))
        if split != "all":
            self.indices = read_splits(splits_file or self.path.parent / "splits.mat")[split]
            if self.indices.max() >= len(images):
                raise InputError(f"'{self.path}' holds {len(images)} frames, its split names {self.indices.max() + 1}.")
        self.close()

    def _fields(self) -> dict[str, Any]:
        """Return the open fields; a handle opened before a fork is never used after it."""
        if self._handle is None or self._handle[0] != os.getpid():
            h5py = require("h5py", "train", "Reading the NYU .mat")
            try:
                with h5py.File(self.path, "r") as file:
                    missing = [name for name in ("images", self._field) if name not in file]
                    cache = max(_chunk_cache_bytes(file[name]) for name in _PIXEL_FIELDS if name in file)
                if missing:
                    raise InputError(
                        f"Expected the fields images and {self._field} in '{self.path}'; {missing} missing."
                    )
                # rdcc_w0 = 0: with more, HDF5 drops a chunk once it was read, although the next frame lies in it too.
                # The cache lives as long as the field object, so the objects are kept.
                file = h5py.File(self.path, "r", rdcc_nbytes=cache, rdcc_nslots=10007, rdcc_w0=0.0)
            except (OSError, ValueError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(
                    f"Expected a MATLAB 7.3 file (HDF5); cannot read '{self.path}': {error}. Is it cut off?"
                ) from None
            self._handle = (os.getpid(), file, {name: file[name] for name in file if name != "#refs#"})
        return self._handle[2]

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._handle is not None and self._handle[0] == os.getpid():
            self._handle[1].close()
        self._handle = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        frame = int(self.indices[index])
        fields = self._fields()
        planes = fields["images"][frame]
        image = np.empty((planes.shape[2], planes.shape[1], 3), np.uint8)
        for channel in range(3):  # three plane transposes are three times as fast as one of all axes
            image[..., channel] = planes[channel].T
        depth = np.ascontiguousarray(fields[self._field][frame].T)
        meta: dict[str, Any] = {"id": f"{frame + 1:04d}", "index": frame, "number": frame + 1}
        meta |= {"scene": self.scene(index), "ground_truth": self._ground_truth}
        for name in ("labels", "instances"):
            if name in fields:
                meta[name] = np.ascontiguousarray(fields[name][frame].T)
        mask = _inside_border(depth.shape) if self._mask_border else None
        return make_sample(image, depth, mask, camera=nyu_camera(), meta=meta)

    def scene(self, index: int) -> str:
        """Return the room."""
        if self._scenes is None:
            fields = self._fields()
            self._scenes = _cell_strings(fields["scenes"]) if "scenes" in fields else [""] * len(fields["images"])
        return self._scenes[int(self.indices[index])]

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their numbers."""
        return ("unlabelled", *_cell_strings(self._fields()["names"]))


def _chunk_cache_bytes(field: Any) -> int:
    """Return a cache for all chunks that one frame touches, with a quarter to spare; at least HDF5's own 1 MiB."""
    if field.chunks is None:
        return 2**20
    touched = int(field.chunks[0] * field.dtype.itemsize)
    for size, chunk in zip(field.shape[1:], field.chunks[1:], strict=True):
        touched *= -(-size // chunk) * chunk
    return max(2**20, min(touched * 5 // 4, _MAX_CACHE_BYTES))


def _cell_strings(cells: Any) -> list[str]:
    """Return a MATLAB cell array of texts: references to arrays of character codes."""
    return ["".join(chr(code) for code in cells.file[reference][()].ravel()) for reference in cells[()].ravel()]


def _inside_border(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(shape, np.bool_)
    inside[slice(*BORDER_ROWS), slice(*BORDER_COLUMNS)] = True
    return inside


class NyuFolder(DepthDataset):
    """NYU frames as pictures: ``rgb/NNNN.jpg``, ``depth/NNNN.png`` [mm] and, where present, ``labels40/NNNN.png``.

    Args:
        root: The folder.
        split: Name of a list ``<split>.txt`` in it with one number in each line, or ``"all"``.
        depth: Whether ``depth/`` was made of the in-painted depth, ``"filled"``, or of the projected one, ``"raw"``.
            The files do not tell, so by default neither is declared.
        mask_border: Leave the white frame of the picture out of `valid_mask`.

    Raises:
        InputError: If a folder or list is missing, or the list names a frame that is not there.
    """

    kind = DepthKind.METRIC_DEPTH
    ignore_label = 0

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        depth: Literal["filled", "raw"] | None = None,
        mask_border: bool = False,
    ) -> None:
        self.name, self.split, self._mask_border = "nyu-folder", split, mask_border
        self._ground_truth = None if depth is None else check_choice("depth", depth, ("filled", "raw"))
        self.root = existing_folder(root, "rgb/ and depth/ of NYU Depth V2")
        self._images = {path.stem: path for path in sorted((self.root / "rgb").glob("*")) if path.is_file()}
        if not self._images:
            raise InputError(f"Expected pictures in '{self.root / 'rgb'}'; found none.")
        self.stems = list(self._images) if split == "all" else read_list(self.root / f"{split}.txt")
        absent = [stem for stem in self.stems if stem not in self._images]
        if absent:
            raise InputError(f"{split}.txt names {len(absent)} frames that are not in '{self.root}/rgb': {absent[:3]}.")

    def __len__(self) -> int:
        return len(self.stems)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        stem = self.stems[index]
        depth = read_stored(self.root / "depth" / f"{stem}.png").astype(np.float32) * np.float32(0.001)
        labels = self.root / "labels40" / f"{stem}.png"
        meta: dict[str, Any] = {"id": stem, "number": int(stem), "image_path": str(self._images[stem])}
        if self._ground_truth is not None:
            meta["ground_truth"] = self._ground_truth
        if labels.is_file():
            meta["labels"] = read_stored(labels)
        mask = _inside_border(depth.shape) if self._mask_border else None
        return make_sample(read_image(self._images[stem]).rgb, depth, mask, camera=nyu_camera(), meta=meta)


class NyuBts(DepthDataset):
    """The synchronised frames exported for BTS: ``<scene>/rgb_%05d.jpg`` and ``<scene>/sync_depth_%05d.png`` [mm].

    Each line of the list is ``image depth focal``; a line whose depth is ``None`` is left out and counted.

    Args:
        root: Folder that the paths of the list start from.
        split: Name of this part.
        list_file: The list, for instance ``nyudepthv2_train_files_with_gt.txt``.
        mask_border: Leave the black frame of the picture out of `valid_mask`.

    Attributes:
        missing: Images whose ground truth is ``None``.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(
        self, root: str | Path, split: str = "train", *, list_file: str | Path, mask_border: bool = False
    ) -> None:
        self.name, self.split, self._mask_border = "nyu-bts", split, mask_border
        self.root = existing_folder(root, "the BTS export of NYU Depth V2")
        rows = [line.split() for line in read_list(list_file)]
        wrong = [row for row in rows if len(row) < 3]
        if wrong:
            raise InputError(f"Expected lines 'image depth focal' in '{list_file}'; got {' '.join(wrong[0])!r}.")
        self.missing = [row[0] for row in rows if row[1] == "None"]
        self.rows = [(row[0].lstrip("/"), row[1].lstrip("/"), float(row[2])) for row in rows if row[1] != "None"]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        image, depth_file, focal = self.rows[index]
        depth = read_stored(self.root / depth_file).astype(np.float32) * np.float32(0.001)
        mask = _inside_border(depth.shape) if self._mask_border else None
        meta = {
            "id": image,
            "scene": self.scene(index),
            "focal_px": focal,
            "image_path": str(self.root / image),
            "ground_truth": "raw",
        }
        return make_sample(read_image(self.root / image).rgb, depth, mask, camera=nyu_camera(), meta=meta)

    def scene(self, index: int) -> str:
        """Return the room."""
        return str(Path(self.rows[index][0]).parent)


class NyuSparseToDense(DepthDataset):
    """``{train,val}/<scene>/*.h5`` with ``rgb`` (3, H, W) uint8 and ``depth`` (H, W) float32 [m].

    Args:
        root: Folder that holds ``train`` and ``val``.
        split: ``"train"`` or ``"val"``.
    """

    kind = DepthKind.METRIC_DEPTH

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.name, self.split = "nyu-sparse-to-dense", split
        self.root = existing_folder(root, "train/ and val/ of the sparse-to-dense NYU files")
        self.files = sorted((self.root / split).glob("*/*.h5"))
        if not self.files:
            raise InputError(f"Expected {split}/<scene>/*.h5 in '{root}'; found none.")

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Sample:
        """Read one sample."""
        h5py = require("h5py", "train", "Reading sparse-to-dense files")
        path = self.files[index]
        try:
            with h5py.File(path, "r") as file:
                rgb, depth = file["rgb"][()], file["depth"][()]
        except (OSError, KeyError) as error:
            raise InputError(f"Expected an h5 with rgb and depth; cannot read '{path}': {error}.") from None
        meta = {"id": f"{path.parent.name}/{path.stem}", "scene": self.scene(index), "image_path": str(path)}
        image, camera = np.ascontiguousarray(rgb.transpose(1, 2, 0)), None
        if depth.shape == (480, 640):  # the same format holds other sets too
            meta["ground_truth"], camera = "filled", nyu_camera()
        return make_sample(image, depth, camera=camera, meta=meta)

    def scene(self, index: int) -> str:
        """Return the room."""
        return self.files[index].parent.name
