"""Whole runs of small networks: they learn, and every section of a recipe does what it says."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from train_helpers import csv_columns, make_folder, make_recipe, write_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

from fathom import models  # noqa: E402
from fathom.data import open_dataset  # noqa: E402
from fathom.errors import ConfigError, FathomError  # noqa: E402
from fathom.predict import load_model  # noqa: E402
from fathom.train.fit import fit  # noqa: E402
from fathom.train.record import git_state  # noqa: E402
from fathom.types import Depth, DepthKind  # noqa: E402


def quiet(_: str) -> None:
    """Print nothing."""


def losses_of(folder) -> list[float]:
    return [float(row[0]) for row in csv_columns(folder / "train.csv", "loss")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data):
    """Return the folder of a run with everything at its default."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    fit(make_recipe(data), folder, say=quiet)
    return folder


def test_twenty_steps_overfit_one_batch(tmp_path):
    data = make_folder(tmp_path / "data", 2)
    recipe = make_recipe(data, model={"options": {"base_channels": 8}}, optimiser={"lr": 0.02}, steps=20)
    fit(recipe, tmp_path / "run", say=quiet)
    losses = losses_of(tmp_path / "run")
    assert losses[-1] < 0.25 * losses[0]


def test_what_a_run_leaves(plain, data):
    names = {path.name for path in plain.iterdir()}
    assert {"recipe.yaml", "environment.json", "train.csv", "val.csv", "last.ckpt", "best.ckpt"} <= names
    assert {"model.safetensors", "card.json", "summary.json"} <= names
    assert not [name for name in names if name.endswith(".tmp")]
    saved = yaml.safe_load((plain / "recipe.yaml").read_text())
    assert saved == make_recipe(data).model_dump(mode="json")
    (start,) = json.loads((plain / "environment.json").read_text())
    assert start["versions"]["torch"]
    assert start["git"] == git_state(os.getcwd())
    assert [row[0] for row in csv_columns(plain / "train.csv", "step")] == [repr(step) for step in range(1, 7)]
    assert [row[0] for row in csv_columns(plain / "val.csv", "step")] == ["3", "6"]
    summary = json.loads((plain / "summary.json").read_text())
    best = min(float(row[0]) for row in csv_columns(plain / "val.csv", "abs_rel"))
    assert summary["best"] == best


def test_the_best_model_predicts_what_was_scored(plain, data):
    dataset = open_dataset("folder", data, "val")
    predictor = load_model(plain, runtime="torch", device="cpu")
    assert predictor.kind is DepthKind.METRIC_DEPTH
    sample = dataset[0]
    network = models.build("unet", base_channels=2, pretrained=str(plain / "model.safetensors")).eval()
    law = models.entry("unet").input_law
    image = torch.from_numpy(sample.image.copy()).movedim(-1, 0)[None].float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (law.mean, law.std))
    with torch.no_grad():
        expected = network((image - mean) / std)[0, 0].numpy()
    assert np.allclose(predictor.predict(sample.image).values, expected, rtol=1e-4, atol=1e-5)


def test_repeating_a_run_gives_the_same_bits(tmp_path, plain, data):
    fit(make_recipe(data), tmp_path / "run", say=quiet)
    assert csv_columns(tmp_path / "run" / "train.csv", "loss") == csv_columns(plain / "train.csv", "loss")
    fit(make_recipe(data, seed=1), tmp_path / "other", say=quiet)
    assert csv_columns(tmp_path / "other" / "train.csv", "loss") != csv_columns(plain / "train.csv", "loss")


def test_accumulating_two_batches_counts_as_one_step(tmp_path, data):
    fit(make_recipe(data, accumulate=2), tmp_path / "run", say=quiet)
    assert len(losses_of(tmp_path / "run")) == 6


def test_channels_last_and_bf16_train(tmp_path, plain, data, monkeypatch):
    monkeypatch.setattr("fathom.train.fit.cpu_has_bf16", lambda: True)
    hardware = {"accelerator": "cpu", "channels_last": True, "precision": "bf16"}
    fit(make_recipe(data, hardware=hardware), tmp_path / "run", say=quiet)
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(plain), rel=0.05)
    assert losses_of(tmp_path / "run") != pytest.approx(losses_of(plain), rel=1e-5)
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["precision"] == "bf16"


def test_a_cpu_without_bf16_computes_in_fp32_and_says_so(tmp_path, plain, data, monkeypatch):
    monkeypatch.setattr("fathom.train.fit.cpu_has_bf16", lambda: False)
    lines: list[str] = []
    recipe = make_recipe(data, hardware={"accelerator": "cpu", "precision": "bf16"})
    fit(recipe, tmp_path / "run", say=lines.append)
    assert losses_of(tmp_path / "run") == pytest.approx(losses_of(plain), rel=1e-5)
    assert "This CPU has no fast bf16; the run computes in fp32." in lines
    (start,) = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert start["precision"] == "fp32"
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert saved["hardware"]["precision"] == "bf16"


def test_the_average_lags_behind_the_weights_and_is_what_is_scored(tmp_path, data):
    fit(make_recipe(data, ema={"decay": 0.9}), tmp_path / "run", say=quiet)
    state = torch.load(tmp_path / "run" / "best.ckpt", weights_only=False)
    average = next(value for key, value in state["callbacks"].items() if key.startswith("Ema"))["average"]
    weights = {k.removeprefix("network."): v for k, v in state["state_dict"].items() if k.startswith("network.")}
    assert any(not torch.equal(average[name], weights[name]) for name in weights)
    from safetensors.torch import load_file

    exported = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(exported[name], average[name]) for name in exported)


def test_phases_move_only_what_they_name(tmp_path, data):
    phases = [{"steps": 2, "freeze": ["head"]}, {"steps": 2, "freeze": ["trunk"], "losses": [{"name": "mse"}]}]
    recipe = make_recipe(data, steps=None, phases=phases, checkpoint={"every_steps": 1}, data={"val": None})
    seen = {}

    def watch(_: str) -> None:
        """Print nothing."""

    from fathom.train import callbacks

    original = callbacks.save_atomic

    def spy(trainer, path):
        seen[trainer.global_step] = {k: v.clone() for k, v in trainer.lightning_module.network.state_dict().items()}
        original(trainer, path)

    callbacks.save_atomic = spy
    try:
        fit(recipe, tmp_path / "run", say=watch)
    finally:
        callbacks.save_atomic = original

    def moved(part, before, after):
        names = [name for name in seen[before] if name.startswith(f"{part}.") and "num_batches" not in name]
        return any(not torch.equal(seen[before][name], seen[after][name]) for name in names)

    assert moved("trunk", 1, 2)
    assert not moved("head", 1, 2)
    assert moved("head", 2, 3)
    assert not moved("trunk", 2, 4)  # its batch moments stand still, too


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_attacked_pictures_raise_the_loss(tmp_path, plain, data, method):
    attack = {"method": method, "epsilon": 0.1, "weight": 1.0}
    fit(make_recipe(data, adversarial=attack), tmp_path / "run", say=quiet)
    assert losses_of(tmp_path / "run")[0] > losses_of(plain)[0]


def test_a_plateau_lowers_the_rate_and_then_stops(tmp_path, data):
    # With this rate nothing improves after the first validation.
    recipe = make_recipe(
        data,
        optimiser={"name": "sgd", "lr": 1e-12},
        schedule={"name": "plateau", "lr_patience": 1, "gamma": 0.5},
        validation={"every_steps": 2},
        early_stop={"patience": 4},
        steps=40,
        model={"options": {"base_channels": 2}, "freeze": ["trunk"]},
    )
    lines: list[str] = []
    result = fit(recipe, tmp_path / "run", say=lines.append)
    assert result.step < 40
    assert any("Stopping early" in line for line in lines)
    rates = [float(row[0]) for row in csv_columns(tmp_path / "run" / "train.csv", "lr")]
    assert rates[0] == 1e-12
    assert rates[-1] == 0.5e-12
    assert (tmp_path / "run" / "last.ckpt").is_file()


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, data):
    recipe = make_recipe(data, optimiser={"name": "sgd", "lr": 1e30}, losses=[{"name": "mse"}])
    with pytest.raises(FathomError, match=r"The loss is (nan|inf) at step \d"):
        fit(recipe, tmp_path / "run", say=quiet)


def teacher_of(calls):
    def load(name):
        def predict(image):
            calls.append(name)
            return Depth(1.0 + image[..., 0] / 255.0, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)

        return predict

    return load


def test_a_teacher_is_asked_once_for_each_picture(tmp_path, data):
    recipe = make_recipe(
        data,
        losses=[{"name": "l1"}, {"name": "scale_shift_invariant", "target": "teacher"}],
        distillation={"teacher": "somebody", "cache": str(tmp_path / "cache")},
        augment={"flip": 0.5, "zoom": [1.0, 1.3], "crop": [24, 32]},
    )
    calls: list[str] = []
    fit(recipe, tmp_path / "one", load_teacher=teacher_of(calls), say=quiet)
    assert calls == ["somebody"] * 6
    fit(recipe, tmp_path / "two", say=quiet)
    assert losses_of(tmp_path / "one") == losses_of(tmp_path / "two")
    with pytest.raises(ConfigError, match="6 predictions of the teacher other are missing"):
        other = {"teacher": "other", "cache": str(tmp_path / "cache")}
        fit(recipe.model_copy(update={"distillation": recipe.distillation.model_validate(other, strict=False)}), "x")


def test_the_teachers_map_moves_with_the_picture(tmp_path, data):
    from fathom.train.loader import Pick, Prepare, TrainSamples
    from fathom.train.teacher import make_labels

    recipe = make_recipe(
        data,
        losses=[{"name": "scale_shift_invariant", "target": "teacher"}],
        distillation={"teacher": "somebody", "cache": str(tmp_path)},
        augment={"flip": 0.5, "zoom": [1.0, 1.4], "rotate_deg": 10.0, "crop": [24, 32]},
    )
    dataset = open_dataset("folder", data, "train")
    labels = make_labels(recipe.distillation, recipe.data.train, dataset, teacher_of([]))
    samples = TrainSamples(dataset, Prepare(recipe.data, None), recipe.augment, 0, labels)
    for position in range(6):
        batch = samples[Pick(position, 1)]
        # Zooming brings the scene nearer, so inverse depth grows with it; the pattern stays that of the picture.
        inside = batch["teacher_mask"][0]
        pair = torch.stack([batch["teacher"][0][inside], batch["image"][0, 0][inside]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.98


def test_scores_under_a_protocol_are_those_of_evaluation(tmp_path):
    data = make_folder(tmp_path / "data", 3, (480, 640), holes=False)
    recipe = make_recipe(
        data,
        data={"resize": [48, 64]},
        validation={"protocol": "nyu-eigen", "every_steps": 2},
        steps=2,
    )
    result = fit(recipe, tmp_path / "run", say=quiet)
    from fathom.metrics.scoring import score_image
    from fathom.protocol import load_protocol

    predictor = load_model(tmp_path / "run", runtime="torch", device="cpu")
    protocol = load_protocol("nyu-eigen")
    dataset = open_dataset("folder", data, "val")
    expected = [score_image(predictor.predict(s.image), s, protocol).scores["abs_rel"] for s in dataset]
    # The predictor resizes the picture without rounding to whole grey levels.
    assert result.scores["abs_rel"] == pytest.approx(np.mean(expected), rel=0.02)


def test_validation_pictures_that_the_network_refuses_are_told_before_the_first_step(tmp_path):
    data = make_folder(tmp_path / "data", 3, (104, 136), holes=False)
    eigen = {"name": "eigen2015-vgg", "options": {"width": 0.0625, "hidden": 8, "input_size": [100, 132]}}
    recipe = make_recipe(data, model=eigen, augment={"crop": [100, 132]}, losses=[{"name": "l1"}])
    with pytest.raises(FathomError, match="got \\(104, 136\\)"):
        fit(recipe, tmp_path / "run", say=quiet)
    assert not (tmp_path / "run" / "train.csv").exists()


def test_pictures_are_painted_for_every_task(tmp_path, data):
    recipe = make_recipe(
        data,
        tasks=["depth", "normals", "labels"],
        model={
            "task_options": {
                "normals": {"head": "classes", "head_options": {"num_classes": 3}},
                "labels": {"head": "classes", "head_options": {"num_classes": 2}},
            }
        },
        data={"normals_from_depth": True},
        losses=[{"name": "l1"}, {"name": "normals"}, {"name": "cross_entropy"}],
        steps=1,
        validation={"pictures": 2},
    )
    result = fit(recipe, tmp_path / "run", say=quiet)
    assert {"abs_rel", "mean_deg", "miou"} <= set(result.scores)
    names = {path.name for path in (tmp_path / "run" / "pictures").iterdir()}
    assert names == {f"{task}_{index}_0000001.png" for task in recipe.tasks for index in range(2)}
    assert not (tmp_path / "run" / "card.json").exists()


def test_tensorboard_gets_curves_and_pictures(tmp_path, data):
    pytest.importorskip("tensorboard", reason="the logger's package is not installed")
    fit(make_recipe(data, loggers=[{"name": "tensorboard"}], validation={"pictures": 1}), tmp_path / "run", say=quiet)
    assert list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents*"))


@pytest.mark.slow
def test_compiled_networks_train_alike(tmp_path, plain, data, monkeypatch):
    # The graph is traced as it would be; only the slow C++ compiler is left out.
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile_module(module, backend="eager"))
    fit(make_recipe(data, hardware={"compile": True}, steps=1), tmp_path / "run", say=quiet)
    assert losses_of(tmp_path / "run")[0] == pytest.approx(losses_of(plain)[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path):
    # No batch moments, no dropout, no holes: the mean over two halves is then the mean over the whole.
    data = make_folder(tmp_path / "data", 8, holes=False)
    changes = {
        "model": {"name": "vgg16-regressor", "options": {"width": 0.0625, "hidden": 8, "dropout": 0.0}},
        "augment": {"flip": 0.5, "brightness": 0.3},
        "optimiser": {"name": "sgd", "lr": 0.001},
        "validation": {"every_steps": 3},
    }
    recipe = write_recipe(tmp_path / "r.yaml", data, **changes)
    folders = {}
    for devices, batch in ((1, 4), (2, 2)):
        folders[devices] = tmp_path / f"run{devices}"
        sets = ["--set", f"hardware.devices={devices}", "--set", f"data.batch_size={batch}"]
        subprocess.run(
            [sys.executable, "-m", "fathom", "train", str(recipe), "--out", str(folders[devices]), *sets],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=500,
            capture_output=True,
        )
    assert losses_of(folders[2]) == pytest.approx(losses_of(folders[1]), rel=1e-5)
    scores = [[float(x) for row in csv_columns(folders[n] / "val.csv", "abs_rel", "rmse") for x in row] for n in (1, 2)]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)
    one, two = (torch.load(folders[n] / "last.ckpt", weights_only=False)["state_dict"] for n in (1, 2))
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6) for name in one)
