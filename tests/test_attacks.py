import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fathom.attacks import PixelModel, fgsm, masked_l1, pgd, uniform_noise  # noqa: E402
from fathom.errors import ConfigError, EmptyMaskError, ShapeError  # noqa: E402
from fathom.evaluate.robustness import RobustnessReport, RobustnessRow, evaluate_robustness  # noqa: E402
from fathom.protocol import load_protocol  # noqa: E402
from fathom.types import DepthKind, Sample  # noqa: E402

TINY = (
    "split.images=null",
    "score_crop={name: none, unit: fraction, rows: [0.0, 1.0], columns: [0.0, 1.0], frame: full, frame_size: null}",
)


class Net(torch.nn.Module):
    """A small network with batch norm and dropout, so that the mode matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1),
            torch.nn.BatchNorm2d(8),
            torch.nn.Tanh(),
            torch.nn.Dropout(0.5),
            torch.nn.Conv2d(8, 1, 3, padding=1),
            torch.nn.Softplus(),
        )

    def forward(self, image):
        return self.layers(image) + 0.5


def setting(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = 0.1 + 0.8 * torch.rand(1, 3, size, size, generator=generator)
    target = 1.0 + torch.rand(1, 1, size, size, generator=generator)
    return Net().eval(), image, target, torch.ones_like(target, dtype=torch.bool)


def test_oracle_1_no_epsilon_no_change():
    model, image, target, mask = setting()
    for attacked in (
        fgsm(model, image, target, mask, epsilon=0.0),
        pgd(model, image, target, mask, epsilon=0.0),
        uniform_noise(image, epsilon=0.0),
    ):
        assert torch.equal(attacked, image)


@pytest.mark.parametrize("epsilon", [1 / 255, 8 / 255, 0.5])
def test_oracle_2_the_ball_and_the_pixel_range_hold(epsilon):
    model, image, target, mask = setting()
    for attacked in (
        fgsm(model, image, target, mask, epsilon=epsilon),
        pgd(model, image, target, mask, epsilon=epsilon),
        pgd(model, image, target, mask, epsilon=epsilon, step_size=1.0),
        uniform_noise(image, epsilon=epsilon),
    ):
        assert (attacked - image).abs().max() <= epsilon + 1e-7
        assert attacked.min() >= 0 and attacked.max() <= 1


def linear(size=6):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(1, 3, size, size, generator=generator, dtype=torch.float64)
    image = torch.full((1, 3, size, size), 0.5, dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)

    def model(x):
        return (weight * x).sum().reshape(1)

    def loss(pred, reference, mask):
        return pred.sum()

    return model, image, nothing, nothing == 0, loss, weight


def test_oracle_3_fgsm_raises_a_linear_loss_by_epsilon_times_the_l1_norm():
    model, image, nothing, mask, loss, weight = linear()
    attacked = fgsm(model, image, nothing, mask, epsilon=0.03, loss=loss)
    assert float(model(attacked) - model(image)) == pytest.approx(0.03 * float(weight.abs().sum()), rel=1e-12)


def test_oracle_4_pgd_equals_fgsm_on_a_linear_loss_and_beats_it_on_a_convex_one():
    model, image, nothing, mask, loss, _ = linear()
    weak = fgsm(model, image, nothing, mask, epsilon=0.03, loss=loss)
    strong = pgd(model, image, nothing, mask, epsilon=0.03, num_steps=20, loss=loss)
    assert float(model(strong)) == pytest.approx(float(model(weak)), rel=1e-9)

    def convex(pred, reference, mask):
        return (pred - 0.1).square().sum()

    start = torch.tensor([[[[0.5]], [[0.5]], [[0.5]]]], dtype=torch.float64)
    mix = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).reshape(1, 3, 1, 1)

    def quadratic(x):
        return (mix * x).sum(dim=1)

    values = [
        float(convex(quadratic(a), nothing, mask))
        for a in (
            fgsm(quadratic, start, nothing, mask, epsilon=0.2, loss=convex),
            pgd(quadratic, start, nothing, mask, epsilon=0.2, num_steps=20, random_start=False, loss=convex),
        )
    ]
    assert values[1] >= values[0] - 1e-12


def test_oracle_5_one_step_of_pgd_without_random_start_is_fgsm():
    model, image, target, mask = setting()
    step = pgd(model, image, target, mask, epsilon=0.02, num_steps=1, step_size=0.02, random_start=False)
    assert torch.equal(step, fgsm(model, image, target, mask, epsilon=0.02))


def test_oracle_6_pixels_without_a_slope_stay():
    image = torch.full((1, 3, 2, 4), 0.5)
    half = torch.zeros_like(image, dtype=torch.bool)
    half[..., :2] = True
    attacked = fgsm(lambda x: x, image, torch.zeros_like(image), half, epsilon=0.1)
    assert torch.equal(attacked[..., 2:], image[..., 2:]) and (attacked[..., :2] > 0.55).all()


def test_oracle_7_no_valid_pixel_is_a_no_op():
    model, image, target, mask = setting()
    target[:] = float("nan")
    assert torch.equal(fgsm(model, image, target, ~mask, epsilon=0.1), image)
    assert torch.equal(pgd(model, image, target, ~mask, epsilon=0.1, random_start=False), image)
    assert float(masked_l1(torch.ones(3), torch.full((3,), float("nan")), torch.zeros(3, dtype=torch.bool))) == 0.0


def test_masked_pixels_do_not_steer_the_attack():
    model, image, target, mask = setting()
    mask[..., 4:] = False
    other = target.clone()
    other[..., 4:] = float("nan")
    assert torch.equal(fgsm(model, image, target, mask, epsilon=0.02), fgsm(model, image, other, mask, epsilon=0.02))


def test_the_network_is_left_as_it_was():
    model, image, target, mask = setting()
    model.train()
    model.layers[4].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pgd(model, image, target, mask, epsilon=0.02, num_steps=2)
    assert model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.layers[4].weight.requires_grad and model.layers[0].weight.requires_grad


def test_an_attack_raises_the_error_and_a_generator_repeats_it():
    model, image, target, mask = setting()
    with torch.no_grad():
        clean = masked_l1(model(image), target, mask)
        runs = [
            pgd(model, image, target, mask, epsilon=0.05, generator=torch.Generator().manual_seed(1)) for _ in range(2)
        ]
        assert torch.equal(runs[0], runs[1])
        assert masked_l1(model(runs[0]), target, mask) > clean


def test_epsilon_is_in_pixels_because_the_model_normalises():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x.detach())
            return x

    model = PixelModel(Spy(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    image = torch.full((1, 3, 2, 2), 0.5)
    attacked = fgsm(model, image, torch.zeros_like(image) - 9, torch.ones_like(image, dtype=torch.bool), epsilon=0.1)
    assert (attacked - image).abs().max() == pytest.approx(0.1, abs=1e-6)
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([0.0, 0.4, 0.4], abs=1e-6)


def test_wrong_arguments_are_told():
    model, image, target, mask = setting()
    with pytest.raises(ConfigError, match="4 / 255"):
        fgsm(model, image, target, mask, epsilon=4.0)
    with pytest.raises(ConfigError, match="at least one step"):
        pgd(model, image, target, mask, epsilon=0.1, num_steps=0)
    with pytest.raises(ShapeError, match="PixelModel"):
        fgsm(model, image * 255, target, mask, epsilon=0.1)


def frames(count, size=12):
    samples = []
    for index in range(count):
        rng = np.random.default_rng(index)
        image = rng.integers(20, 230, (size, size, 3), dtype=np.uint8)
        target = (0.5 + image[..., 0] / 40.0).astype(np.float32)
        samples.append(Sample(image, target, target > 0, meta={"id": str(index)}))
    return samples


class Bright(torch.nn.Module):
    """A network that is right on clean pictures."""

    def forward(self, image):
        return 0.5 + image[:, :1] * 255.0 / 40.0


def test_oracle_8_and_9_the_report_has_clean_noise_and_attacked_rows_in_order():
    protocol = load_protocol("nyu-eigen", TINY)
    report = evaluate_robustness(
        Bright(),
        frames(3),
        protocol,
        kind=DepthKind.METRIC_DEPTH,
        epsilons=(2 / 255, 8 / 255),
        num_steps=3,
        name="bright",
    )
    rows = {(row.attack, round(row.epsilon * 255)): row for row in report.rows}
    assert rows["clean", 0].abs_rel < 1e-6 and rows["clean", 0].success_rate == 0.0
    assert rows["pgd", 8].abs_rel > rows["pgd", 2].abs_rel > rows["clean", 0].abs_rel
    assert rows["pgd", 8].abs_rel > rows["noise", 8].abs_rel
    assert rows["pgd", 8].success_rate == 1.0
    assert rows["fgsm", 8].abs_rel <= rows["pgd", 8].abs_rel + 1e-6
    assert report.warnings() == [] and report.num_images == 3
    text = report.markdown()
    assert "| pgd | 8/255 |" in text and report.protocol.hash in text


def test_oracle_9_signs_of_a_masked_gradient_are_told():
    def report(*rows):
        made = tuple(RobustnessRow(attack, epsilon / 255, abs_rel, 0.9, 0.0) for attack, epsilon, abs_rel in rows)
        return RobustnessReport("m", load_protocol("nyu-eigen"), made, 1, ())

    sound = report(("noise", 2, 0.11), ("noise", 8, 0.12), ("pgd", 2, 0.2), ("pgd", 8, 0.4), ("fgsm", 2, 0.2))
    assert sound.warnings() == []
    weaker = report(("fgsm", 8, 0.1), ("fgsm", 2, 0.2))
    assert weaker.warnings() == ["fgsm at 8/255 does less harm than at 2/255: the gradient may be masked."]
    beaten = report(("noise", 2, 0.3), ("pgd", 2, 0.2))
    assert beaten.warnings() == ["Noise of 2/255 does more harm than pgd: the attack is too weak."]


def test_images_without_a_target_are_skipped_and_named():
    protocol = load_protocol("nyu-eigen", TINY)
    good, [bad] = frames(1), frames(1)
    empty = Sample(bad.image, np.zeros_like(bad.target), np.zeros(bad.target.shape, bool), meta={"id": "empty"})
    report = evaluate_robustness(
        Bright(), [*good, empty], protocol, kind=DepthKind.METRIC_DEPTH, epsilons=(2 / 255,), num_steps=1
    )
    assert [skipped.name for skipped in report.skipped] == ["empty"] and "1 images were skipped" in report.markdown()
    with pytest.raises(EmptyMaskError, match="No image could be scored"):
        evaluate_robustness(Bright(), [empty], protocol, kind=DepthKind.METRIC_DEPTH)
