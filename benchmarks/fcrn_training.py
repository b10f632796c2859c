"""Time FCRN-UpProj against a public PyTorch FCRN: training steps, predictions, and reading NYU.

    python benchmarks/fcrn_training.py [--reference CHECKOUT] [--data NYU] [--threads N] [--repeats N] [--batch N]
        [--only training|prediction|loader]

CHECKOUT is a clone of https://github.com/fangchangma/sparse-to-dense.pytorch, whose network (ResNet-50, decoder
`upproj`), loss (L1), optimiser and loader are imported from there and run as its main.py runs them; without it only
Fathom's figures are printed. NYU is a folder with rgb/, depth/ and train.txt. Goal: three times its pictures a second.

* Training: what `fathom train configs/fcrn-upproj.yaml` does for a step in bfloat16 (float32 on a CPU without it) with
  channels last, by Lightning; the same in float32 and contiguous, without Lightning.
* Prediction: batches, and single pictures.
* Loader: reading and augmenting, one process and one thread. The reference reads h5 files, which are written first,
  uncompressed; Fathom reads the folder without its labels, the same h5 files, and what `fathom data prepare` makes.

All are run in turns in one process, so that a busy machine disturbs them alike, and the figures are medians. On one
thread time is processor time, which other programs disturb less than the clock on the wall. Memory is what one pass
holds at its height beyond weights and optimiser, as the profiler saw it allocated.
"""

import argparse
import collections
import collections.abc
import contextlib
import importlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's notes about devices that are not there

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from fathom import models
from fathom.data import DepthDataset, open_dataset
from fathom.data.base import Subset
from fathom.data.prepare import prepare
from fathom.runtime.torch import cpu_has_bf16
from fathom.train.config import Recipe, load_recipe
from fathom.train.loader import Prepare, StepSampler, TrainSamples, train_loader
from fathom.train.module import TrainingModule
from fathom.train.network import build_network
from fathom.train.objective import Objective
from fathom.types import DepthKind

RECIPE = Path(__file__).parents[1] / "configs" / "fcrn-upproj.yaml"
SIZE = (228, 304)
Runs = dict[str, Callable[[], object]]


def clock() -> float:
    """Return processor time on one thread, else the time on the wall [s]."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds_of(run: Callable[[], object]) -> float:
    """Time one call."""
    started = clock()
    run()
    return clock() - started


def in_turns(runs: Runs, repeats: int) -> dict[str, list[float]]:
    """Time every run in turns, after one that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            taken = seconds_of(run)
            if repeat:
                seconds[name].append(taken)
    return seconds


def peak_of(record: Any) -> float:
    """Return the most that was held at once while a profiler ran [GiB]."""
    held = highest = 0
    events = (event for event in record.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest / 2**30


def memory_of(run: Callable[[], object]) -> float:
    """Run once and return the peak of what was allocated meanwhile [GiB]."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    return peak_of(record)


def show(what: str, pictures: int, seconds: dict[str, list[float]], memory: dict[str, float] | None = None) -> None:
    """Print pictures a second, and how many times those of the reference they are."""
    print(f"\n{what}")
    rates = {name: pictures / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        spread = f"{pictures / max(seconds[name]):.2f} to {pictures / min(seconds[name]):.2f}"
        ratio = f"  {rate / rates['reference']:5.2f}x reference" if "reference" in rates else ""
        peak = f"  {memory[name]:.2f} GiB" if memory else ""
        print(f"  {name:34s} {rate:7.2f} pictures/s ({spread}){ratio}{peak}")


class Turns(pl.Callback):
    """Times Lightning's steps, and lets others run between them.

    The clock starts before the module's own hook and stops behind the optimiser, so that a step is whole: learning
    rate, forward pass, loss, backward pass, clipping where the recipe asks for it, optimiser.
    """

    def __init__(self, others: Runs, repeats: int) -> None:
        self.others, self.repeats = others, repeats
        self.name = f"Fathom, {'bfloat16' if cpu_has_bf16() else 'float32'}, channels last"
        self.seconds: dict[str, list[float]] = {name: [] for name in (*others, self.name)}
        self.memory: dict[str, float] = {}
        self._started = 0.0
        self._record: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int):
        if batch_idx > self.repeats:
            self._record = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._record.start()
        self._started = clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ):
        taken = clock() - self._started
        if batch_idx > self.repeats:
            self._record.stop()
            self.memory[self.name] = peak_of(self._record)
            self.memory |= {name: memory_of(run) for name, run in self.others.items()}
            return
        for name, other in {self.name: None, **self.others}.items():
            value = taken if other is None else seconds_of(other)
            if batch_idx:  # the first warms up
                self.seconds[name].append(value)


def recipe_for(batch: int) -> Recipe:
    """Return the shipped recipe in short numbers, on random weights."""
    changes = ("model.options={}", "hardware={precision: bf16, channels_last: true}", f"data.batch_size={batch}")
    return load_recipe(RECIPE, changes)


def random_batch(batch: int) -> dict[str, Any]:
    """Return random pictures with depth everywhere."""
    generator = torch.Generator().manual_seed(0)
    depth = 1 + 5 * torch.rand(batch, *SIZE, generator=generator)
    return {
        "image": torch.rand(batch, 3, *SIZE, generator=generator),
        "target": depth,
        "valid_mask": torch.ones_like(depth, dtype=torch.bool),
        "kind": DepthKind.METRIC_DEPTH,
    }


def module_of(recipe: Recipe, steps: int) -> TrainingModule:
    """Build what `fathom train` trains."""
    torch.manual_seed(recipe.seed)
    network = build_network(recipe)
    objective = Objective(recipe, network, DepthKind.METRIC_DEPTH)
    return TrainingModule(network, objective, recipe, models.entry(recipe.model.name).input_law, steps)


def plain_step(recipe: Recipe, batch: dict[str, Any]) -> Callable[[], object]:
    """Return Fathom's step in float32, without Lightning."""
    hardware = recipe.hardware.model_copy(update={"channels_last": False, "precision": "fp32"})
    module = module_of(recipe.model_copy(update={"hardware": hardware}), 1)
    module.train()
    optimiser = module.configure_optimizers()

    def step() -> None:
        optimiser.zero_grad()
        module.objective(module(batch["image"]), batch).total.backward()
        optimiser.step()

    return step


def compare_training(checkout: Path | None, batch_size: int, repeats: int) -> None:
    """Print the time of training steps."""
    recipe, batch = recipe_for(batch_size), random_batch(batch_size)
    others: Runs = {"Fathom, float32": plain_step(recipe, batch)}
    if checkout is not None:
        others["reference"] = reference_step(checkout, batch)
    turns = Turns(others, repeats)
    steps = repeats + 2  # one warms up, the last is profiled
    module = module_of(recipe, steps)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision="bf16-mixed" if cpu_has_bf16() else "32-true",
        max_steps=steps,
        gradient_clip_val=recipe.clip_norm,
        callbacks=[turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader: DataLoader[Any] = DataLoader([batch] * steps, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    show(f"Training, batches of {batch_size} at {SIZE[0]}x{SIZE[1]}", batch_size, turns.seconds, turns.memory)


def reference_network(checkout: Path) -> nn.Module:
    """Build the reference's network without a GPU and without a download."""
    with mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's about its old way to ask for weights
        source = imported("models", checkout)
        network: nn.Module = source.ResNet(layers=50, decoder="upproj", output_size=SIZE, pretrained=False)
    return network


def reference_step(checkout: Path, batch: dict[str, Any]) -> Callable[[], object]:
    """Return a training step with the reference's own loss and the options that its main.py takes by default."""
    network = reference_network(checkout).train()
    criterion = imported("criteria", checkout).MaskedL1Loss()
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    target = batch["target"][:, None]

    def step() -> None:
        loss = criterion(network(batch["image"]), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def imported(name: str, checkout: Path) -> Any:
    """Import a module of the reference."""
    with mock.patch.object(sys, "path", [str(checkout), *sys.path]):
        return importlib.import_module(name)


def compare_prediction(checkout: Path | None, batch: int, repeats: int) -> None:
    """Print the time of predictions, and how far short numbers are from long ones."""
    torch.manual_seed(0)
    plain = models.build("fcrn-upproj").eval()
    short = models.build("fcrn-upproj").eval()
    short.load_state_dict(plain.state_dict())
    short.to(torch.bfloat16, memory_format=torch.channels_last)
    image = random_batch(batch)["image"]

    def predict(network: nn.Module, images: Tensor) -> Tensor:
        with torch.inference_mode():
            depth: Tensor = network(images)
        return depth

    def predict_short(images: Tensor) -> Tensor:
        return predict(short, images.to(torch.bfloat16, memory_format=torch.channels_last)).float()

    ways: dict[str, Callable[[Tensor], Tensor]] = {"Fathom, float32": lambda images: predict(plain, images)}
    if cpu_has_bf16():  # else torch emulates it, and the time says nothing
        ways["Fathom, bfloat16, channels last"] = predict_short
    if checkout is not None:
        theirs = reference_network(checkout).eval()
        ways["reference"] = lambda images: predict(theirs, images)
    for count in dict.fromkeys((batch, 1)):
        part = image[:count]
        runs: Runs = {name: lambda way=way, part=part: way(part) for name, way in ways.items()}
        seconds = in_turns(runs, repeats)
        memory = {name: memory_of(run) for name, run in runs.items()}
        show(f"Prediction, batches of {count} at {SIZE[0]}x{SIZE[1]}", count, seconds, memory)
    difference, whole = predict_short(image) - predict(plain, image), predict(plain, image)
    print(f"  bfloat16 - float32: {float(difference.std() / whole.std()):.1%} of the spread of the maps")


def write_h5(frames: DepthDataset, folder: Path) -> None:
    """Write frames in the layout that the reference reads."""
    import h5py

    (folder / "train" / "scene").mkdir(parents=True)
    for index, sample in enumerate(frames):
        with h5py.File(folder / "train" / "scene" / f"{index:05d}.h5", "w") as file:
            file["rgb"] = sample.image.transpose(2, 0, 1)
            file["depth"] = sample.target


def without_labels(data: Path, folder: Path) -> Path:
    """Return the NYU folder without its labels, which the reference does not read either."""
    folder.mkdir()
    for name in ("rgb", "depth", "train.txt"):
        (folder / name).symlink_to((data / name).resolve())
    return folder


def batches_of_fathom(recipe: Recipe, name: str, root: Path, batch: int, count: int) -> Iterator[Any]:
    """Yield batches as `fathom train` gets them from a loader without worker processes."""
    frames = open_dataset(name, root, "train")
    samples = TrainSamples(frames, Prepare(recipe.data, frames.ignore_label), recipe.augment, recipe.seed)
    return iter(train_loader(samples, StepSampler(len(frames), batch, count, seed=recipe.seed), 0))


def resized(array: np.ndarray, size: float, interp: str = "nearest", mode: str | None = None) -> np.ndarray:
    """Resize by a factor with Pillow; stands in for `scipy.misc.imresize`, which SciPy no longer has."""
    picture = Image.fromarray(array.astype(np.float32) if mode == "F" else array)
    kernel = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}[interp]
    return np.array(picture.resize((int(picture.width * size), int(picture.height * size)), kernel))


@contextlib.contextmanager
def old_libraries() -> Iterator[None]:
    """Give the reference's loader the names of old SciPy, NumPy and Python that it uses."""
    import scipy.ndimage

    misc, interpolation = types.ModuleType("scipy.misc"), types.ModuleType("scipy.ndimage.interpolation")
    misc.imresize = resized  # type: ignore[attr-defined]
    interpolation.rotate = scipy.ndimage.rotate  # type: ignore[attr-defined]
    modules = {misc.__name__: misc, interpolation.__name__: interpolation}
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(scipy, "misc", misc, create=True),
        mock.patch.object(scipy.ndimage, "interpolation", interpolation, create=True),
        mock.patch.object(np, "asfarray", lambda array, dtype: np.asarray(array, dtype), create=True),
        mock.patch.object(collections, "Iterable", collections.abc.Iterable, create=True),
    ):
        yield


def batches_of_reference(checkout: Path, root: Path, batch: int) -> Iterator[Any]:
    """Yield batches of the reference's loader without worker processes, for ever."""
    with contextlib.redirect_stdout(io.StringIO()):
        frames = imported("dataloaders.nyu_dataloader", checkout).NYUDataset(str(root / "train"), type="train")
    while True:
        yield from DataLoader(frames, batch_size=batch, shuffle=True, drop_last=True)


def compare_loaders(checkout: Path | None, data: Path, batch: int, repeats: int) -> None:
    """Print the time of reading and augmenting."""
    recipe, threads = recipe_for(batch), torch.get_num_threads()
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002  the reference draws from it
    with tempfile.TemporaryDirectory() as temporary, old_libraries():
        folder, h5, prepared = (Path(temporary) / name for name in ("nyu", "h5", "prepared"))
        frames = open_dataset("nyu-folder", without_labels(data, folder), "train")
        frames = Subset(frames, range(min(len(frames), batch * (repeats + 1))), "train")
        write_h5(frames, h5)
        prepare(frames, prepared, size=recipe.data.resize)
        sources = {
            "Fathom, jpg and png": ("nyu-folder", folder),
            "Fathom, the reference's h5": ("nyu-sparse-to-dense", h5),
            "Fathom, prepared at 240x320": ("prepared", prepared),
        }
        loaders = {
            label: batches_of_fathom(recipe, name, root, batch, repeats + 1) for label, (name, root) in sources.items()
        }
        if checkout is not None:
            loaders["reference"] = batches_of_reference(checkout, h5, batch)
        runs: Runs = {name: lambda loader=loader: next(loader) for name, loader in loaders.items()}
        seconds = in_turns(runs, repeats)
    torch.set_num_threads(threads)
    show(f"NYU loader, 480x640 to {SIZE[0]}x{SIZE[1]}, one process, one thread", batch, seconds)
    if checkout is not None:
        print("  (for the reference scipy.misc.imresize, scipy.ndimage.interpolation, numpy.asfarray and")
        print("  collections.Iterable are put back; imresize by Pillow, which SciPy called for it)")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, metavar="CHECKOUT")
    parser.add_argument("--data", type=Path, metavar="NYU")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", choices=("training", "prediction", "loader"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    timed = "processor time" if options.threads == 1 else "time on the wall"
    print(f"torch {torch.__version__}, {options.threads} thread(s), {timed}, load {load}")
    if options.reference is None:
        print("Without --reference only Fathom's figures. Clone https://github.com/fangchangma/sparse-to-dense.pytorch")
    elif not (options.reference / "models.py").is_file():
        parser.error(f"Expected models.py of sparse-to-dense.pytorch in '{options.reference}'.")
    if options.only in (None, "training"):
        compare_training(options.reference, options.batch, options.repeats)
    if options.only in (None, "prediction"):
        compare_prediction(options.reference, options.batch, options.repeats)
    if options.data is None:
        print("\nWithout --data the loader is not timed. Give a folder with rgb/, depth/ and train.txt of NYU.")
    elif options.only in (None, "loader"):
        compare_loaders(options.reference, options.data, options.batch, options.repeats)


if __name__ == "__main__":
    main()
