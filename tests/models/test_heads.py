import math

import pytest
import torch
from checks_b import EXPORT_WARNINGS, check_export, check_gradients

from fathom.errors import ConfigError
from fathom.models.heads import (
    HEADS,
    AdaptiveBinsHead,
    LogDepthHead,
    OrdinalHead,
    SigmoidHead,
    SoftplusHead,
    build_head,
    spaced_thresholds,
)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_every_head_keeps_the_size_and_learns(name, kernel_size):
    head = build_head(name, 6, kernel_size=kernel_size)
    output = head(torch.randn(2, 6, 7, 5))
    main = output["depth"] if isinstance(output, dict) else output
    assert main.shape == (2, 1, 7, 5)
    check_gradients(head, torch.randn(2, 6, 7, 5))


@pytest.mark.parametrize(("name", "low", "high"), [("softplus", 0, math.inf), ("log_depth", 0, math.inf)])
def test_positive_heads(name, low, high):
    depth = build_head(name, 4)(5.0 * torch.randn(1, 4, 9, 9))
    assert ((depth > low) & (depth < high)).all()


def test_formulas_of_the_simple_heads():
    features = torch.tensor([-2.0, 0.0, 1.5]).reshape(1, 1, 1, 3)
    for head, formula in (
        (SoftplusHead(1), lambda x: math.log(1 + math.exp(x))),
        (LogDepthHead(1), math.exp),
        (SigmoidHead(1, max_depth=80.0), lambda x: 80.0 / (1 + math.exp(-x))),
    ):
        torch.nn.init.ones_(head.conv.weight)
        torch.nn.init.zeros_(head.conv.bias)
        expected = torch.tensor([formula(x) for x in (-2.0, 0.0, 1.5)]).reshape(1, 1, 1, 3)
        torch.testing.assert_close(head(features), expected)


def test_log_thresholds_have_one_ratio_and_uniform_ones_one_step():
    log, uniform = spaced_thresholds(40, 0.7, 10.0), spaced_thresholds(40, 0.7, 10.0, "uniform")
    assert log.shape == uniform.shape == (41,)
    torch.testing.assert_close(log[1:] / log[:-1], torch.full((40,), (10.0 / 0.7) ** (1 / 40)))
    torch.testing.assert_close(uniform.diff(), torch.full((40,), 9.3 / 40), rtol=1e-4, atol=0.0)
    for borders in (log, uniform):
        torch.testing.assert_close(borders[[0, -1]], torch.tensor([0.7, 10.0]))


def test_ordinal_counts_the_yes_answers():
    head = OrdinalHead(2, num_intervals=4, min_depth=1.0, max_depth=16.0)
    torch.testing.assert_close(head.borders, torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]))
    answers = torch.tensor([[-1.0, -1, -1], [1, -1, -1], [1, 1, -1], [1, 1, 1]]).T.reshape(1, 3, 1, 4)
    torch.testing.assert_close(head.decode(answers), torch.tensor([1.5, 3.0, 6.0, 12.0]).reshape(1, 1, 1, 4))
    # A probability of exactly one half counts as yes.
    assert head.decode(torch.zeros(1, 3, 1, 1)).item() == 12.0


def test_ordinal_decodes_any_depth_to_its_own_interval():
    head = OrdinalHead(2, num_intervals=80, min_depth=0.5, max_depth=10.0)
    depth = torch.linspace(0.51, 9.99, 500).reshape(1, 1, 1, 500)
    logits = torch.where(depth > head.borders[1:-1].reshape(1, -1, 1, 1), 5.0, -5.0)
    ratio = (10.0 / 0.5) ** (1 / 80)
    decoded = head.decode(logits)
    assert (torch.maximum(decoded / depth, depth / decoded) <= ratio).all()


def test_adaptive_bins_follow_the_formula():
    head = AdaptiveBinsHead(3, num_bins=5, min_depth=1.0, max_depth=11.0)
    features = torch.randn(4, 3, 6, 6)
    outputs = head(features)
    centers = outputs["bin_centers"]
    assert (centers.diff(dim=1) > 0).all() and (centers > 1.0).all() and (centers < 11.0).all()
    depth = (head.conv(features).softmax(1) * centers[:, :, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(outputs["depth"], depth)
    # Equal widths put the centres in the middle of fifths.
    torch.nn.init.zeros_(head.widths[2].weight)
    torch.nn.init.zeros_(head.widths[2].bias)
    torch.testing.assert_close(head(features)["bin_centers"][0], torch.tensor([2.0, 4.0, 6.0, 8.0, 10.0]))


def test_adaptive_bins_differ_between_pictures():
    centers = AdaptiveBinsHead(3, num_bins=8)(torch.randn(2, 3, 1, 1) * 5)["bin_centers"]
    assert not torch.allclose(centers[0], centers[1])


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("nonsense", {}, "linear, softplus"),
        ("sigmoid", {"maximum": 3.0}, "'sigmoid' does not know"),
        ("sigmoid", {"max_depth": 0.0}, "above 0 m; got 0.0"),
        ("log_depth", {"initial_depth": -1.0}, "above 0 m; got -1.0"),
        ("ordinal", {"min_depth": 0.0}, "0 < min_depth < max_depth"),
        ("ordinal", {"num_intervals": 1}, "at least 2; got 1"),
        ("ordinal", {"spacing": "cubic"}, "'log' or 'uniform'; got 'cubic'"),
        ("bins", {"min_depth": 5.0, "max_depth": 5.0}, "0 < min_depth < max_depth"),
        ("bins", {"num_bins": 0}, "at least 2; got 0"),
    ],
)
def test_a_wrong_option_is_told(name, options, text):
    with pytest.raises(ConfigError, match=text):
        build_head(name, 4, **options)


@pytest.mark.slow
class TestExport:
    pytestmark = EXPORT_WARNINGS

    def test_adaptive_bins(self):
        check_export(AdaptiveBinsHead(3), (torch.rand(2, 3, 9, 11),), [(torch.rand(1, 3, 4, 20),)])
