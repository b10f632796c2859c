"""What the checks before the first step notice."""

import pytest
from train_helpers import make_folder, make_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")

from torch import nn  # noqa: E402

from fathom import models  # noqa: E402
from fathom.errors import ConfigError, FathomError  # noqa: E402
from fathom.train.callbacks import is_collapsed  # noqa: E402
from fathom.train.fit import fit  # noqa: E402
from fathom.train.lint import depth_limits, lint  # noqa: E402
from fathom.train.network import build_network  # noqa: E402
from fathom.train.objective import Objective  # noqa: E402
from fathom.types import DepthKind  # noqa: E402


def batch_of(scale=1.0):
    image = torch.rand(2, 3, 32, 48)
    target = scale * (1 + 3 * image.mean(1))
    mask = torch.ones_like(target, dtype=torch.bool)
    return {"image": image, "target": target, "valid_mask": mask, "id": ["a", "b"]}


def findings_of(network=None, batch=None, overfit_steps=0, **changes):
    recipe = make_recipe("a.yaml", lint={"enabled": True, "overfit_steps": overfit_steps}, **changes)
    network = network or build_network(recipe)
    objective = Objective(recipe, network, DepthKind.METRIC_DEPTH)
    law = models.entry(recipe.model.name).input_law
    return {finding.check: finding for finding in lint(network, objective, recipe, law, batch or batch_of())}


def test_a_sound_recipe_raises_no_warning_and_changes_nothing():
    recipe = make_recipe("a.yaml")
    network = build_network(recipe)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = findings_of(network, overfit_steps=10)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert "overfit one batch" in found
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


class Last(nn.Module):
    """A network that ends in a module of choice."""

    def __init__(self, last: nn.Module, bias: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        nn.init.constant_(self.conv.bias, bias)
        self.last = last

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(image))


def test_dead_outputs():
    finding = findings_of(Last(nn.ReLU(), -100.0))["dead outputs"]
    assert finding.level == "warning"
    assert "exactly 0" in finding.text
    inner = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1))
    finding = findings_of(Last(inner, -100.0))["dead outputs"]
    assert finding.level == "warning"
    assert "last.0" in finding.text


def test_targets_outside_the_range_of_the_head():
    head = {"options": {"base_channels": 2, "head": "sigmoid", "head_options": {"max_depth": 2.0}}}
    finding = findings_of(model=head)["depth range"]
    assert finding.level == "warning"
    assert "The network gives 0 to 2" in finding.text


def test_saturated_outputs():
    head = {"options": {"base_channels": 2, "head": "sigmoid", "head_options": {"max_depth": 10.0}}}
    network = build_network(make_recipe("a.yaml", model=head))
    nn.init.constant_(network.head.conv.bias, 30.0)
    finding = findings_of(network, model=head)["saturation"]
    assert finding.level == "warning"
    assert "upper end" in finding.text


def test_targets_in_millimetres():
    finding = findings_of(batch=batch_of(1000.0))["scale"]
    assert finding.level == "warning"
    assert "unit" in finding.text


def test_parts_that_no_loss_reaches():
    eigen = {"name": "eigen2015-vgg", "options": {"width": 0.0625, "hidden": 8, "input_size": [100, 132]}}
    recipe = {"model": eigen, "losses": [{"name": "l1", "output": "depth_scale2"}], "augment": {"crop": [100, 132]}}
    batch = batch_of()
    batch = {
        "image": torch.rand(2, 3, 100, 132),
        "target": torch.rand(2, 100, 132) + 1,
        "valid_mask": torch.ones(2, 100, 132, dtype=torch.bool),
        "id": ["a", "b"],
    }
    finding = findings_of(batch=batch, **recipe)["frozen parts"]
    assert finding.level == "warning"
    assert "scale3" in finding.text


def test_a_rate_with_which_nothing_is_learned():
    finding = findings_of(overfit_steps=3, optimiser={"lr": 1e-12})["overfit one batch"]
    assert finding.level == "warning"
    assert "hardly learns" in finding.text


def test_a_batch_without_targets():
    batch = batch_of()
    batch["valid_mask"] = torch.zeros_like(batch["valid_mask"])
    assert findings_of(batch=batch)["loss at start"].level == "warning"


def test_a_loss_that_is_no_number():
    batch = batch_of()
    batch["image"][0, 0, 0, 0] = torch.nan
    with pytest.raises(FathomError, match="before the first step"):
        findings_of(batch=batch)


def test_strict_lint_stops_the_run(tmp_path):
    data = make_folder(tmp_path / "data", 2)
    recipe = make_recipe(data, lint={"enabled": True, "strict": True, "overfit_steps": 3}, optimiser={"lr": 1e-12})
    with pytest.raises(ConfigError, match="Checks before training failed"):
        fit(recipe, tmp_path / "run", say=lambda _: None)
    lines: list[str] = []
    relaxed = make_recipe(data, lint={"enabled": True, "overfit_steps": 3}, optimiser={"lr": 1e-12}, steps=1)
    fit(relaxed, tmp_path / "run", say=lines.append)
    assert lines[0].startswith("Warning (overfit one batch)")


def test_limits_of_heads():
    for head, options, limits in (
        ("sigmoid", {"max_depth": 8.0}, (0.0, 8.0)),
        ("bins", {"min_depth": 0.5, "max_depth": 9.0}, (0.5, 9.0)),
        ("ordinal", {"min_depth": 0.5, "max_depth": 9.0}, (0.5, 9.0)),
        ("softplus", {}, None),
    ):
        found = depth_limits(models.build("unet", base_channels=2, head=head, head_options=options))
        assert found == (pytest.approx(limits) if limits else None)


def test_collapse_is_seen_while_running():
    varied = torch.linspace(1, 2, 64).reshape(1, 1, 8, 8)
    assert not is_collapsed(varied)
    assert is_collapsed(torch.full((2, 1, 8, 8), 3.0))
    assert not is_collapsed(torch.cat([varied, torch.full((1, 1, 8, 8), 3.0)]))
    assert is_collapsed(torch.zeros(1, 1, 4, 4))
