"""How outputs meet their targets, and how the parts add up to one loss."""

import pytest
from train_helpers import make_recipe

torch = pytest.importorskip("torch")

from fathom import losses  # noqa: E402
from fathom.errors import ConfigError, KindError, ShapeError  # noqa: E402
from fathom.train.config import OptimiserConfig, ScheduleConfig  # noqa: E402
from fathom.train.network import SharedTrunk, build_network, set_modes  # noqa: E402
from fathom.train.objective import Objective, convert_depth  # noqa: E402
from fathom.train.optim import build_optimiser, lr_factor  # noqa: E402
from fathom.types import DepthKind  # noqa: E402

METRIC = DepthKind.METRIC_DEPTH


def batch_of(height=8, width=12, count=2):
    target = torch.rand(count, height, width) * 4 + 1
    return {"target": target, "valid_mask": torch.rand(count, height, width) > 0.2, "id": ["a"] * count}


def objective_of(kind=METRIC, **changes):
    recipe = make_recipe("a.yaml", **changes)
    return Objective(recipe, torch.nn.Identity(), kind)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    batch, pred = batch_of(), torch.rand(2, 1, 8, 12) + 1
    terms = [{"name": "l1", "weight": 0.5}, {"name": "mse", "weight": 2.0}]
    value = objective_of(losses=terms)(pred, batch)
    arguments = pred, batch["target"][:, None], batch["valid_mask"][:, None]
    l1, mse = losses.l1_loss(*arguments), losses.mse_loss(*arguments)
    assert list(value.parts) == ["l1", "mse"]
    assert torch.allclose(value.total, 0.5 * l1 + 2 * mse)


def test_smaller_outputs_meet_the_pixel_under_them():
    ramp = torch.arange(228.0)[:, None].expand(228, 304)[None, None]
    everywhere = torch.ones_like(ramp, dtype=torch.bool)
    _, target, _ = objective_of().meet(torch.zeros(1, 1, 114, 152), ramp, everywhere)
    assert target[0, 0, :3, 0].tolist() == [1.0, 3.0, 5.0]  # centres at 1, 3, 5 belong to pixels 1, 3, 5
    _, target, mask = objective_of().meet(torch.zeros(1, 1, 128, 160), ramp, everywhere)
    assert target.shape == mask.shape == (1, 1, 128, 160)


def test_eigen_outputs_meet_the_centres_they_see():
    rows = torch.arange(228.0)[:, None].expand(228, 304)[None, None]
    everywhere = torch.ones_like(rows, dtype=torch.bool)
    eigen = objective_of(data={"supervise": "eigen"})
    _, coarse, _ = eigen.meet(torch.zeros(1, 1, 55, 74), rows, everywhere)
    assert coarse[0, 0, [0, 1, -1], 0].tolist() == [5.0, 9.0, 221.0]
    _, fine, _ = eigen.meet(torch.zeros(1, 1, 109, 147), rows, everywhere)
    assert fine[0, 0, [0, 1, -1], 0].tolist() == [5.0, 7.0, 221.0]


def test_unpadded_outputs_meet_the_middle_and_others_may_be_enlarged():
    rows = torch.arange(10.0)[:, None].expand(10, 10)[None, None]
    everywhere = torch.ones_like(rows, dtype=torch.bool)
    _, target, _ = objective_of(data={"supervise": "centre"}).meet(torch.zeros(1, 1, 4, 6), rows, everywhere)
    assert target[0, 0, :, 0].tolist() == [3.0, 4.0, 5.0, 6.0]
    with pytest.raises(ShapeError, match="does not fit"):
        objective_of(data={"supervise": "centre"}).meet(torch.zeros(1, 1, 12, 6), rows, everywhere)
    pred, target, _ = objective_of(data={"supervise": "upsample"}).meet(torch.zeros(1, 1, 5, 5), rows, everywhere)
    assert pred.shape == target.shape == rows.shape


def test_targets_become_what_the_network_gives():
    depth = torch.tensor([[[2.0, 0.0]]])
    mask = depth > 0
    inverse = convert_depth(depth, mask, METRIC, DepthKind.INVERSE_DEPTH, {})
    assert inverse.tolist() == [[[0.5, 0.0]]]
    camera = {"intrinsics": torch.diag(torch.tensor([100.0, 100.0, 1.0]))[None], "baseline_m": torch.tensor([0.5])}
    disparity = convert_depth(depth, mask, METRIC, DepthKind.DISPARITY, camera)
    assert disparity.tolist() == [[[25.0, 0.0]]]
    assert convert_depth(disparity, mask, DepthKind.DISPARITY, METRIC, camera).tolist() == [[[2.0, 0.0]]]
    assert convert_depth(disparity, mask, DepthKind.DISPARITY, DepthKind.INVERSE_DEPTH, camera)[0, 0, 0] == 0.5
    with pytest.raises(KindError, match="need the camera"):
        convert_depth(depth, mask, METRIC, DepthKind.DISPARITY, {})
    with pytest.raises(KindError, match="Choose another"):
        convert_depth(depth, mask, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, METRIC, {})


def test_a_teacher_without_scale_is_compared_in_inverse_depth():
    recipe = make_recipe(
        "a.yaml",
        losses=[{"name": "scale_shift_invariant", "target": "teacher"}],
        distillation={"teacher": "fathom-general", "cache": "c"},
    )
    objective = Objective(recipe, torch.nn.Identity(), METRIC, DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH)
    pred = torch.rand(2, 1, 8, 12) + 1
    teacher = 7.0 / pred[:, 0] - 3.0
    batch = {**batch_of(), "teacher": teacher, "teacher_mask": torch.ones_like(teacher, dtype=torch.bool)}
    assert float(objective(pred, batch).total) < 1e-6
    with pytest.raises(ConfigError, match="Use scale_shift_invariant"):
        Objective(
            make_recipe(
                "a.yaml",
                losses=[{"name": "l1", "target": "teacher"}],
                distillation={"teacher": "fathom-general", "cache": "c"},
            ),
            torch.nn.Identity(),
            METRIC,
            DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH,
        )


def test_classes_leave_out_what_is_not_labelled():
    objective = objective_of(None, tasks=["labels"], losses=[{"name": "cross_entropy"}])
    labels = torch.tensor([[[0, 1], [-1, -1]]])
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0, 0, 0] = logits[0, 1, 0, 1] = 50.0
    logits[0, :, 1] = torch.nan
    assert float(objective(logits, {"labels": labels}).total) < 1e-6


def test_binary_masks_take_logits_whatever_the_loss():
    labels = torch.tensor([[[0, 1], [1, -1]]])
    logits = torch.tensor([[[[-50.0, 50.0], [50.0, 3.0]]]])
    for name in ("bce", "dice", "bce_dice"):
        objective = objective_of(None, tasks=["segmentation"], losses=[{"name": name}])
        assert float(objective(logits, {"labels": labels}).total) < 1e-5
        assert float(objective(-logits, {"labels": labels}).total) > 0.9


def test_missing_maps_are_named():
    objective = objective_of(METRIC, tasks=["normals"], losses=[{"name": "normals"}])
    with pytest.raises(ConfigError, match=r"Set `data.normals_from_depth`"):
        objective(torch.zeros(1, 3, 8, 12), batch_of(count=1))
    with pytest.raises(ConfigError, match="has none"):
        objective_of(None)


def test_uncertainty_weights_are_learned_without_decay():
    terms = [{"name": "l1"}, {"name": "mse"}]
    objective = objective_of(losses=terms, uncertainty_weighting=True)
    value = objective(torch.rand(2, 1, 8, 12), batch_of())
    assert torch.allclose(value.total, 0.5 * (value.parts["l1"] + value.parts["mse"]))
    network = torch.nn.Linear(1, 1)
    groups = build_optimiser(network, objective.weigh, OptimiserConfig(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1] * (len(groups) - 1) + [0.0]
    value.total.backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())


def test_ordinal_and_bin_losses_read_what_they_need_from_the_head():
    for head, terms in (
        ("ordinal", [{"name": "ordinal_regression", "output": "ordinal_logits"}]),
        ("bins", [{"name": "silog_adabins"}, {"name": "bins_chamfer", "output": "bin_centers", "weight": 0.1}]),
    ):
        recipe = make_recipe("a.yaml", model={"options": {"base_channels": 2, "head": head}}, losses=terms)
        network = build_network(recipe)
        value = Objective(recipe, network, METRIC)(network(torch.rand(2, 3, 8, 12)), batch_of())
        value.total.backward()
        assert torch.isfinite(value.total)
    with pytest.raises(ConfigError, match="needs the head 'ordinal'"):
        objective_of(losses=[{"name": "ordinal_regression"}])


def test_virtual_normals_see_the_camera_of_the_output():
    objective = objective_of(losses=[{"name": "virtual_normal", "options": {"min_distance": 0.0}}])
    batch = batch_of(16, 24)
    batch["intrinsics"] = torch.tensor([[[20.0, 0, 12], [0, 20, 8], [0, 0, 1]]]).repeat(2, 1, 1)
    exact = batch["target"][:, None, 1::2, 1::2]  # what "nearest" picks for half the size
    torch.manual_seed(0)
    assert float(objective(exact, batch).total) < 1e-5
    assert float(objective(exact * torch.rand_like(exact), batch).total) > 1e-3


def test_rates_of_parts_and_of_papers():
    network = build_network(make_recipe("a.yaml"))
    config = OptimiserConfig(lr=0.1, rates={"trunk": 0.5, "trunk.fuse": 0.1})
    rates = {group["name"]: group["lr"] for group in build_optimiser(network, None, config).param_groups}
    assert rates == {"trunk": 0.05, "trunk.fuse": pytest.approx(0.01), "head": 0.1}
    eigen = {"name": "eigen2014", "options": {"width": 0.0625, "hidden": 4}}
    recipe = make_recipe("a.yaml", model=eigen, augment={"crop": [228, 304]})
    paper = build_optimiser(build_network(recipe), None, OptimiserConfig(name="sgd", lr=1.0, paper_rates=True))
    assert {group["name"]: group["lr"] for group in paper.param_groups}["coarse.full1"] == 0.1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"warmup_steps": 3}, [0.25, 0.5, 0.75, 1]),
        ({"name": "step", "milestones": (1, 3), "gamma": 0.1}, [1, 0.1, 0.1, 0.01]),
        ({"name": "polynomial", "power": 2.0}, [1, 0.5625, 0.25, 0.0625]),
        ({"name": "one_cycle", "rise": 0.5}, [0.04, 0.52, 1, 0.50005]),
        ({"name": "plateau"}, [1, 1, 1, 1]),
    ],
)
def test_schedules(values, expected):
    config = ScheduleConfig(**values)
    assert [lr_factor(config, step, 4) for step in range(4)] == pytest.approx(expected)


def test_frozen_parts_stand_still_in_training_mode():
    network = build_network(make_recipe("a.yaml", model={"freeze": ["trunk"]}))
    set_modes(network, ["trunk"])
    assert network.training
    assert not any(module.training for module in network.trunk.modules())
    assert all(not parameter.requires_grad for parameter in network.trunk.parameters())


def test_several_tasks_share_one_trunk():
    recipe = make_recipe(
        "a.yaml",
        tasks=["depth", "normals", "labels"],
        model={
            "task_options": {
                "normals": {"head": "classes", "head_options": {"num_classes": 3}},
                "labels": {"head": "classes", "head_options": {"num_classes": 5}},
            }
        },
        losses=[{"name": "l1"}, {"name": "normals"}, {"name": "cross_entropy"}],
    )
    network = build_network(recipe)
    assert isinstance(network, SharedTrunk)
    single = build_network(make_recipe("a.yaml"))
    extra = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in single.parameters())
    assert extra == 8 * (2 + 1)  # 3 + 5 output channels of a 1x1 convolution on 2 channels
    batch = {**batch_of(16, 16), "labels": torch.randint(-1, 5, (2, 16, 16)), "normals": torch.rand(2, 3, 16, 16)}
    value = Objective(recipe, network, METRIC)(network(torch.rand(2, 3, 16, 16)), batch)
    value.total.backward()
    assert list(value.parts) == ["l1", "normals", "cross_entropy"]
    assert all(parameter.grad is not None for parameter in network.parameters())
    with pytest.raises(ValueError, match="cannot share its trunk"):
        SharedTrunk({"depth": torch.nn.Linear(1, 1)})
