"""What a recipe may say, and the sentences about what it may not."""

import pytest
from train_helpers import make_folder, make_recipe, recipe_values

from fathom.config import parse_config
from fathom.errors import ConfigError, KindError, MissingExtraError, ModelError
from fathom.train.config import Recipe, check_names, kind_of, load_recipe, total_steps
from fathom.types import DepthKind

SECTION = {"dataset": "folder", "root": "a.yaml"}


def refused(match: str, **changes):
    with pytest.raises(ConfigError, match=match):
        parse_config(recipe_values("a.yaml", **changes), Recipe)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimiser": {"learning_rate": 0.1}}, r"Unknown option 'optimiser.learning_rate'\..* Known: name, lr"),
        ({"optimiser": {"weight_decy": 0.1}}, r"Did you mean 'weight_decay'\?"),
        ({"optimiser": {"lr": "1e-4"}}, r"write 1.0e-4"),
        ({"optimiser": {"name": "lion"}}, r"'optimiser.name' must be 'sgd', 'adam' or 'adamw'; got the text 'lion'"),
        ({"optimiser": {"rates": {"head": 0.1}, "paper_rates": True}}, "not both"),
        ({"optimiser": {"rates": {"head": 0.0}}}, "Freeze it instead"),
        ({"epochs": 2}, "Set either `steps` or `epochs`; got steps and epochs"),
        ({"steps": None}, "got neither"),
        ({"phases": [{"steps": 3}]}, "remove `steps`"),
        ({"schedule": {"name": "step"}}, "`milestones` belong to the schedule 'step'"),
        ({"schedule": {"name": "step", "milestones": [4, 2]}}, "`milestones` must rise"),
        ({"schedule": {"name": "one_cycle", "warmup_steps": 5}}, "one_cycle rises by itself"),
        ({"data": {"val": None}, "early_stop": {"patience": 2}}, "`early_stop` needs scores: set `data.val`"),
        ({"data": {"val": None}, "schedule": {"name": "plateau"}}, "`schedule: plateau` needs scores"),
        ({"data": {"min_depth": 3.0, "max_depth": 2.0}}, "`min_depth` must be below `max_depth`"),
        ({"data": {"normals_sigma": 2.0}}, "Set it to true"),
        ({"losses": [{"name": "l1", "target": "teacher"}]}, "needs the section `distillation`"),
        ({"distillation": {"teacher": "fathom-general", "cache": "c"}}, "has no effect"),
        ({"losses": [{"name": "l1", "task": "normals"}]}, "not among `tasks`"),
        ({"uncertainty_weighting": True}, "two or more"),
        (
            {
                "uncertainty_weighting": True,
                "tasks": ["depth", "normals"],
                "losses": [{"name": "l1"}, {"name": "normals"}],
            },
            "starts at -1",
        ),
        ({"tasks": ["depth", "depth"]}, "each task once"),
        ({"hardware": {"accelerator": "cpu", "sync_batchnorm": True}}, "exists on GPUs only"),
        (
            {"validation": {"protocol": "nyu-eigen", "whole_frame": False}, "augment": {"crop": [8, 8]}},
            "whole pictures",
        ),
        ({"tasks": ["labels"], "validation": {"protocol": "nyu-eigen"}}, "scores depth, which is not"),
        ({"model": {"task_options": {"depth": {}}}}, "put them into `model.options`"),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(changes, sentence):
    refused(sentence, **changes)


def test_names_are_checked_before_data():
    with pytest.raises(ModelError, match="Did you mean 'fcrn-upproj'"):
        check_names(make_recipe("a.yaml", model={"name": "fcrn-upprj", "options": {}}))
    with pytest.raises(ConfigError, match=r"Unknown dataset 'nyu-foldr'. Did you mean 'nyu-folder'"):
        check_names(make_recipe("a.yaml", data={"train": {"dataset": "nyu-foldr"}}))
    with pytest.raises(ConfigError, match="nyu-eigen"):
        check_names(make_recipe("a.yaml", validation={"protocol": "nyu-eigne"}))
    with pytest.raises(ConfigError, match="does not learn 'normals'"):
        check_names(make_recipe("a.yaml", model={"name": "fcrn-upproj", "options": {}}, tasks=["normals"]))
    with pytest.raises(ConfigError, match="one input size only"):
        check_names(make_recipe("a.yaml", model={"name": "eigen2014", "options": {}}))


def test_overrides_and_file_are_checked_alike(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("name: a\nmodel: {name: unet}\ndata: {train: {dataset: folder, root: d.yaml}}\nsteps: 5\n")
    recipe = load_recipe(path, ["optimiser.lr=0.5", "augment.flip=0.5", "model.options.base_channels=4"])
    assert (recipe.optimiser.lr, recipe.augment.flip, recipe.model.options) == (0.5, 0.5, {"base_channels": 4})
    with pytest.raises(ConfigError, match="Did you mean 'flip'"):
        load_recipe(path, ["augment.flp=0.5"])


def test_the_length_of_a_run():
    assert total_steps(make_recipe("a.yaml", steps=7), 100) == 7
    by_epochs = make_recipe("a.yaml", steps=None, epochs=2.0, accumulate=2)
    assert total_steps(by_epochs, 100) == 50  # 200 pictures, 2 a batch, 2 batches a step
    assert total_steps(by_epochs, 100, num_processes=2) == 25
    assert total_steps(make_recipe("a.yaml", steps=None, phases=[{"steps": 3}, {"steps": 4}]), 100) == 7


def test_the_kind_can_be_stated():
    assert kind_of(make_recipe("a.yaml")) is DepthKind.METRIC_DEPTH
    stated = make_recipe("a.yaml", model={"name": "dispnet-s", "kind": "inverse_depth", "options": {}})
    assert kind_of(stated) is DepthKind.INVERSE_DEPTH


def quiet(_: str) -> None:
    """Print nothing."""


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"losses": [{"name": "berhuu"}]}, ConfigError, r"Unknown loss 'berhuu'. Did you mean 'berhu'"),
        ({"losses": [{"name": "min_reprojection"}]}, ConfigError, "needs more than a picture and its target"),
        ({"losses": [{"name": "cross_entropy"}]}, ConfigError, "is for the task labels; the recipe learns depth"),
        ({"losses": [{"name": "berhu", "options": {"treshold": 1}}]}, ConfigError, "Unknown option 'treshold'"),
        ({"model": {"options": {"base_chanels": 2}}}, Exception, "base_chanels"),
        ({"model": {"freeze": ["trnk"]}}, ConfigError, r"no part 'trnk'. Did you mean 'trunk'"),
        ({"model": {"freeze": ["trunk", "head"]}}, ConfigError, "nothing can learn"),
        ({"optimiser": {"rates": {"trnk": 0.5}}}, ConfigError, r"Did you mean 'trunk'"),
        ({"optimiser": {"paper_rates": True}}, ConfigError, "states no relative rates"),
        ({"phases": [{"steps": 2, "run": "coarse"}], "steps": None}, ConfigError, "needs a network of Eigen"),
        ({"validation": {"monitor": "abs_rle"}}, Exception, "names 'abs_rle', which is not scored"),
        ({"losses": [{"name": "l1", "output": "depth_scale2"}]}, ConfigError, "gives no output 'depth_scale2'"),
        (
            {"model": {"name": "dispnet-s", "kind": "affine_invariant_inverse_depth", "options": {"base_channels": 2}}},
            ConfigError,
            "not free of scale and shift",
        ),
        ({"model": {"kind": "disparity"}}, KindError, "need the camera and its baseline"),
    ],
)
def test_a_run_that_cannot_work_says_why(tmp_path, changes, error, sentence):
    pytest.importorskip("lightning")
    from fathom.train.fit import fit

    with pytest.raises(error, match=sentence):
        fit(make_recipe(make_folder(tmp_path / "data", 3), **changes), tmp_path / "run", say=quiet)


def test_a_logger_that_is_not_installed_names_the_cure(monkeypatch):
    pytest.importorskip("lightning")
    from fathom.train import loggers

    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "mlflow", "wandb", "neptune"):
        with pytest.raises(MissingExtraError, match=f"Run: pip install {name}"):
            loggers.check_loggers(make_recipe("a.yaml", loggers=[{"name": name}]))


def test_importing_recipes_does_not_import_torch():
    import subprocess
    import sys

    code = "import fathom.train.config, fathom.train.runs, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
