"""How a quantised network is judged."""

import numpy as np
import pytest

from fathom.export.quantise import judge


def test_ratios_of_affine_invariant_maps_need_a_zero():
    wanted = np.linspace(-1.0, 1.0, 1200, dtype=np.float32).reshape(1, 1, 30, 40)
    off = wanted + 0.01

    def run(image):
        return off

    as_it_is = judge("net", run, [wanted], [wanted], is_affine=False)
    chosen = judge("net", run, [wanted], [wanted], is_affine=True)
    assert as_it_is.delta1 < 0.97  # near the arbitrary zero every ratio is large
    assert chosen.delta1 == 1.0
    assert chosen.mean_relative == pytest.approx(0.01, rel=0.5)
