"""Segmentation sets for U-Net and its kin; they have no depth, their labels lie in ``meta["labels"]``.

ISBI 2012: Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for connectomics",
Frontiers in Neuroanatomy 2015 (challenge data). CamVid: Brostow et al., "Semantic object classes in video", PRL 2009,
in the 11-class form of the SegNet tutorial.
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from fathom.data.base import DepthDataset, check_choice, existing_folder, make_sample, read_list
from fathom.data.stored import read_stored
from fathom.errors import InputError
from fathom.io import read_image
from fathom.types import Sample

CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
CAMVID_VOID = 11
ISBI_NUM_VAL = 6


class Isbi2012(DepthDataset):
    """The 30 electron-microscopy slices: ``image/N.png label/N.png``, or ``train-volume.tif train-labels.tif``.

    Labels are 0 membrane, 1 cell. The slices are neighbours in one block, so the validation part is its far end: the
    last 6 slices; ``"train"`` is the first 24.

    Args:
        root: The folder.
        split: ``"train"``, ``"val"`` or ``"all"``.

    Raises:
        InputError: If pictures or labels are missing.
    """

    kind = None

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.name, self.split = "isbi2012", check_choice("split", split, ("train", "val", "all"))
        self.root = existing_folder(root, "the ISBI 2012 slices")
        self._volume = (self.root / "train-volume.tif").is_file()
        if self._volume:
            count = _num_pages(self.root / "train-volume.tif")
            if _num_pages(self.root / "train-labels.tif") != count:
                raise InputError(f"train-volume.tif and train-labels.tif in '{root}' differ in length.")
            numbers = list(range(count))
        else:
            numbers = sorted(int(path.stem) for path in (self.root / "image").glob("*.png") if path.stem.isdigit())
            absent = [n for n in numbers if not (self.root / "label" / f"{n}.png").is_file()]
            if absent or not numbers:
                raise InputError(f"Expected image/N.png with label/N.png in '{root}'; missing {absent or 'all'}.")
        parts = {"all": numbers, "train": numbers[:-ISBI_NUM_VAL], "val": numbers[-ISBI_NUM_VAL:]}
        self.numbers = parts[split]

    def __len__(self) -> int:
        return len(self.numbers)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their numbers."""
        return ("membrane", "cell")

    def read(self, index: int) -> Sample:
        """Read one sample."""
        number = self.numbers[index]
        if self._volume:
            grey, stored = (_page(self.root / f"train-{what}.tif", number) for what in ("volume", "labels"))
            image = np.repeat(grey[..., None], 3, axis=2)
        else:
            image = read_image(self.root / "image" / f"{number}.png").rgb
            stored = read_stored(self.root / "label" / f"{number}.png")
        meta = {"id": f"{number:02d}", "index": number, "labels": (stored > 0).astype(np.uint8)}
        return make_sample(image, None, meta=meta)


def _num_pages(path: Path) -> int:
    try:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"Expected a TIFF of many pages; cannot read '{path}': {error}.") from None


def _page(path: Path, number: int) -> np.ndarray:
    with Image.open(path) as image:
        image.seek(number)
        return np.asarray(image, np.uint8)


class CamVid(DepthDataset):
    """Road scenes with 11 classes: ``train/ trainannot/ val/ valannot/ test/ testannot/``; 11 = void.

    Args:
        root: Folder of these folders.
        split: ``"train"``, ``"val"`` or ``"test"``.
        list_file: Lines ``image label`` whose last two path parts are used; default: every picture of the folder.

    Raises:
        InputError: If pictures or labels are missing.
    """

    kind = None
    ignore_label = CAMVID_VOID

    def __init__(self, root: str | Path, split: str = "train", *, list_file: str | Path | None = None) -> None:
        self.name, self.split = "camvid", check_choice("split", split, ("train", "val", "test"))
        self.root = existing_folder(root, "CamVid as in the SegNet tutorial")
        if list_file is not None:
            names = [Path(line.split()[0]).name for line in read_list(list_file)]
        else:
            names = sorted(path.name for path in (self.root / split).glob("*.png"))
        absent = [name for name in names if not (self.root / f"{split}annot" / name).is_file()]
        if absent or not names:
            raise InputError(
                f"Expected {split}/*.png with {split}annot/*.png in '{root}'; missing {absent[:3] or 'all'}."
            )
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of their numbers."""
        return CAMVID_CLASSES

    def scene(self, index: int) -> str:
        """Return the sequence."""
        # 0001TP_006690: the number of the sequence comes first.
        return self.names[index].partition("_")[0]

    def read(self, index: int) -> Sample:
        """Read one sample."""
        name = self.names[index]
        path = self.root / self.split / name
        labels = read_stored(self.root / f"{self.split}annot" / name)
        meta = {"id": name, "scene": self.scene(index), "image_path": str(path), "labels": labels}
        return make_sample(read_image(path).rgb, None, meta=meta)
