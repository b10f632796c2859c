"""The readout that makes metres of a relative map: the fit of one map, the regression, and both on a network."""

import pytest
import torch
from train_helpers import make_folder

pytest.importorskip("lightning", reason="training needs Lightning (pip install 'fathom-depth[train]')")
pytest.importorskip("transformers", reason="Depth Anything needs transformers (pip install 'fathom-depth[hub]')")

from fathom.errors import ConfigError, InputError
from fathom.models import InputLaw
from fathom.models.depth_anything import DepthAnything
from fathom.train.config import load_recipe
from fathom.train.config_extras import ReadoutConfig
from fathom.train.fit import fit
from fathom.train.module import normalise
from fathom.train.readout import fit_relative, ridge, solve_readout
from fathom.types import DepthKind

TINY = {"hidden_size": 24, "heads": 2, "layers": 4, "neck": (4, 4, 8, 8), "fusion": 8}
LAW = InputLaw()


def test_a_few_wrong_pixels_do_not_move_the_fit():
    relative = torch.linspace(0.2, 4, 200)
    depth = 1 / (0.3 * relative + 0.15)
    depth[::10] = 9.0
    scale, shift = fit_relative(relative, depth)
    assert abs(scale.item() - 0.3) < 0.003
    assert abs(shift.item() - 0.15) < 0.003


def test_the_fit_never_turns_near_and_far_round():
    scale, _ = fit_relative(torch.linspace(0, 1, 50), torch.linspace(1, 5, 50))
    assert scale.item() == 0


def test_ridge_is_the_solution_of_the_normal_equations():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 5, 0.1, 2, 1, 3])
    y = torch.randn(40, 2, generator=generator, dtype=torch.float64)
    weight, bias = ridge(x, y, (2, 4), 0.7)
    share = torch.tensor([2.0, 2, 4, 4, 4, 4]).double() ** -0.5
    known = (x - x.mean(0)) / x.std(0) * share
    solution = torch.linalg.solve(known.T @ known + 0.7 * torch.eye(6).double(), known.T @ (y - y.mean(0)))
    expected = known @ solution + y.mean(0)
    torch.testing.assert_close(x @ weight.double().T + bias.double(), expected, rtol=1e-5, atol=1e-5)


def tiny() -> DepthAnything:
    torch.manual_seed(0)
    network = DepthAnything(**TINY).eval()
    last = network.network.head.conv3
    with torch.no_grad():  # a fresh network's map hardly varies
        last.bias.fill_(1.0)
        relative = network.look(normalise(torch.rand(1, 3, 84, 112), LAW))[0]
        factor = 0.5 / relative.std()
        last.weight.mul_(factor)
        last.bias.copy_(1.5 - (relative.mean() - 1) * factor)
    return network


def pictures(network: DepthAnything, count: int) -> list[dict[str, torch.Tensor]]:
    """Make pictures whose ground truth is the network's own map, brighter pictures being nearer."""
    generator = torch.Generator().manual_seed(1)
    batches = []
    for index in range(count):
        image = torch.rand(1, 3, 84, 112, generator=generator) * (0.3 + 0.7 * index / count)
        with torch.no_grad():
            relative = network.eval().look(normalise(image, LAW))[0]
        depth = 1 / (0.2 + 0.1 * index / count + (0.2 + 0.1 * index / count) * relative / relative.mean())
        batches.append({"image": image, "target": depth, "valid_mask": depth > 0})
    return batches


def test_before_it_is_solved_far_is_4_m_and_near_2_m():
    network = tiny().eval()
    image = normalise(pictures(network, 2)[1]["image"], LAW)
    with torch.no_grad():
        relative, quantiles, read = network.look(image)
        scale, shift = network.line(quantiles, read)
        depth = network(image)
    ends = 1 / (scale.flatten() * quantiles[0, [0, -1]] + shift.flatten())
    torch.testing.assert_close(ends, torch.tensor([4.0, 2.0]), rtol=1e-4, atol=0)
    torch.testing.assert_close(depth, 1 / (scale * relative + shift).clamp_min(0.1))


def test_a_solved_network_gives_metres_on_pictures_it_has_not_seen():
    network = tiny()
    batches = pictures(network, 24)
    before, after = [], []
    for scores in (before, after):
        with torch.no_grad():
            for batch in batches[1::4]:
                depth = network.eval()(normalise(batch["image"], LAW))
                scores.append(((depth - batch["target"]).abs() / batch["target"]).mean().item())
        if scores is before:
            rest = [batch for index, batch in enumerate(batches) if index % 4 != 1]
            assert solve_readout(network.train(), rest, LAW, ReadoutConfig(ridge=1e-3)) == 18
            assert network.training
    assert max(after) < 0.05 < min(before)


def test_pictures_with_little_ground_truth_are_left_out():
    network = tiny()
    batches = pictures(network, 4)
    batches[0]["valid_mask"] = torch.zeros_like(batches[0]["valid_mask"])
    assert solve_readout(network, batches, LAW, ReadoutConfig()) == 3
    with pytest.raises(InputError, match="two at least; found 1"):
        solve_readout(network, batches[:2], LAW, ReadoutConfig())


def test_other_sizes_and_other_networks_are_refused():
    network = tiny()
    batch = {"image": torch.rand(1, 3, 80, 112)}
    with pytest.raises(ConfigError, match="multiple of 14 px; got 80 x 112"):
        solve_readout(network, [batch], LAW, ReadoutConfig())
    with pytest.raises(ConfigError, match="depth-anything"):
        solve_readout(torch.nn.Identity(), [], LAW, ReadoutConfig())


def test_a_recipe_solves_it_before_the_first_step(tmp_path):
    data = make_folder(tmp_path / "data", count=6, size=(84, 112))
    source = "{{dataset: folder, root: {}, split: {}}}"
    text = f"""
name: tiny
model: {{name: depth-anything, options: {{hidden_size: 24, heads: 2, layers: 4, neck: [4, 4, 8, 8], fusion: 8}}}}
data:
  train: {source.format(data, "train")}
  val: {source.format(data, "val")}
  resize: [84, 112]
  batch_size: 2
readout: {{passes: 2}}
optimiser: {{lr: 1.0e-9}}
steps: 1
lint: {{enabled: false}}
"""
    (tmp_path / "tiny.yaml").write_text(text)
    lines: list[str] = []
    network = tiny()
    fit(load_recipe(tmp_path / "tiny.yaml"), tmp_path / "run", network=network, say=lines.append)
    assert any(line.startswith("Solved the readout from ") for line in lines)
    assert network.readout.weight.abs().max() > 1e-6


def test_ground_truth_that_is_not_in_metres_is_refused(tmp_path):
    class Inverse:
        kind = DepthKind.INVERSE_DEPTH

        def __len__(self):
            return 2

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        "name: tiny\nmodel: {name: depth-anything}\ndata: {train: {dataset: folder, root: x}, resize: [84, 112]}\n"
        "readout: {}\nsteps: 1\n"
    )
    with pytest.raises(ConfigError, match="metres; the training pictures have inverse_depth"):
        fit(load_recipe(recipe), tmp_path / "run", network=tiny(), train_set=Inverse())
