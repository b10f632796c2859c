"""Every shipped protocol file loads, states every switch, and is named after its file."""

import pytest
import yaml

from fathom.errors import ConfigError
from fathom.protocol import PROTOCOL_FOLDER, Protocol, list_protocols, load_protocol

WANTED = (
    "nyu-eigen nyu-fcrn nyu-sparse-to-dense kitti-eigen-garg kitti-eigen-crop kitti-eigen-benchmark monodepth "
    "monodepth2-mono monodepth2-stereo make3d-c1 make3d-c2 zero-shot-midas zero-shot-marigold ibims1 diode"
).split()


@pytest.mark.parametrize("name", list_protocols())
def test_every_protocol_loads_under_its_own_name(name):
    assert load_protocol(name).name == name


def test_the_promised_protocols_are_there():
    assert set(WANTED) <= set(list_protocols())


def test_no_two_protocols_have_the_same_switches():
    hashes = [load_protocol(name).hash for name in list_protocols()]
    # SfMLearner and monodepth2 differ in the quantity that is resized, so even they have two hashes.
    assert len(set(hashes)) == len(hashes)


def _leaves(values, prefix=()):
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, key))


@pytest.mark.parametrize("path", list(_leaves(yaml.safe_load((PROTOCOL_FOLDER / "nyu-eigen.yaml").read_text()))))
def test_a_field_left_out_is_an_error(path, tmp_path):
    values = yaml.safe_load((PROTOCOL_FOLDER / "nyu-eigen.yaml").read_text())
    section = values
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    file = tmp_path / "short.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=f"'{'.'.join(path)}' is missing"):
        load_protocol(file)


def test_no_field_of_the_model_has_a_default():
    def check(model):
        for field in model.model_fields.values():
            assert field.is_required()
            inner = field.annotation
            if hasattr(inner, "model_fields"):
                check(inner)

    check(Protocol)
