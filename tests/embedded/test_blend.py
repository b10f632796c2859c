"""Networks that are written otherwise, but compute the same, are one network to `blend.py`."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

from fathom.models.embedded import HEAD_WIDTH, KEY_WIDTH, EmbeddedNet  # noqa: E402


@pytest.fixture(scope="module")
def blend(load_stage):
    return load_stage("blend")


def build(state=None):
    torch.manual_seed(0)
    net = EmbeddedNet("inverse", taps=(1, 2, 3, 4), hidden=64, grid=(4, 5)).double().eval()
    if state:
        net.load_state_dict(state)
    return net


def maps(net):
    """Return what the heads give, which `centre` does not hide."""
    image = torch.rand(2, 3, 56, 70, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    features = net.decode(image, net.taps_of(image))
    return torch.cat([net.inverse_head(features), net.depth_head(features)], 1)


@pytest.fixture
def net():
    """With norms that multiply and add, as after training."""
    net = build()
    generator = torch.Generator().manual_seed(2)
    for name, value in net.named_parameters():
        if "norm" in name:
            value.data = value.data + 0.3 * torch.rand(value.shape, generator=generator, dtype=torch.double)
    return net


def written_otherwise(state):
    """Shuffle hidden units, turn queries and keys, and give norms and values other sizes."""
    state = {name: value.clone() for name, value in state.items()}
    generator = torch.Generator().manual_seed(3)
    for index in range(4):
        block = f"blocks.{index}."
        order = torch.randperm(64, generator=generator)
        for name in ("fc1.weight", "fc1.bias"):
            state[block + name] = state[block + name][order]
        state[block + "fc2.weight"] = state[block + "fc2.weight"][:, order]
        turn = torch.linalg.qr(torch.randn(KEY_WIDTH, KEY_WIDTH, generator=generator, dtype=torch.double)).Q
        sizes = torch.rand(6 * HEAD_WIDTH, generator=generator, dtype=torch.double) + 0.5
        for name in ("qkv.weight", "qkv.bias"):
            for head in range(12):  # six of queries, six of keys
                part = slice(head * KEY_WIDTH, (head + 1) * KEY_WIDTH)
                state[block + name][part] = turn @ state[block + name][part]
            values = state[block + name][-len(sizes) :]
            values *= sizes[:, None] if values.ndim == 2 else sizes
        state[block + "out.weight"] /= sizes
        gain = torch.rand(384, generator=generator, dtype=torch.double) + 0.5
        for name in ("norm2.weight", "norm2.bias"):
            state[block + name] *= gain
        state[block + "fc1.weight"] /= gain
    return state


@torch.no_grad()
def test_norms_may_go_into_the_layers_behind_them_and_come_back(blend, net):
    state = net.state_dict()
    plain = blend.with_norms(state)
    assert torch.equal(plain["norm.weight"], torch.ones(384)) and not plain["blocks.2.norm1.bias"].any()
    torch.testing.assert_close(maps(build(plain)), maps(net))
    back = blend.with_norms(plain, state)
    assert all(torch.allclose(value, state[name]) for name, value in back.items())


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_network_blended_with_itself_written_otherwise_is_itself(blend, net, share):
    state = net.state_dict()
    other = written_otherwise(state)
    torch.testing.assert_close(maps(build(other)), maps(net))
    assert not torch.allclose(other["blocks.3.fc2.weight"], state["blocks.3.fc2.weight"])
    blended = blend.blend(state, other, share, share)
    for name, value in blended.items():
        torch.testing.assert_close(value, state[name], msg=name)


@torch.no_grad()
def test_matching_changes_how_a_network_is_written_not_what_it_computes(blend, net):
    other = build()
    for value in other.parameters():
        value += 0.02 * torch.randn_like(value)
    plain = blend.with_norms(other.state_dict())
    matched = blend.match(plain, blend.with_norms(net.state_dict()))
    torch.testing.assert_close(maps(build(matched)), maps(other))


@torch.no_grad()
def test_the_first_half_of_the_blocks_stays_as_it_is(blend, net):
    state, other = net.state_dict(), build().state_dict()
    other = {name: value + 0.01 for name, value in other.items()}
    blended = blend.blend(state, other, 0.5, 0.25)
    for name, value in blended.items():
        stays = name.startswith(("blocks.0", "blocks.1", "patches", "class_token", "positions", "norm"))
        assert torch.allclose(value, state[name]) == (stays or ".norm" in name), name
