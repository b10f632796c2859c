"""Runtimes of exported files: shapes in, shapes out, and processes that two engines cannot share."""

import sys
from types import ModuleType

import numpy as np
import pytest

from fathom.errors import ModelError
from fathom.runtime.artefacts import RUNTIME_OF, open_artefact
from fathom.runtime.base import RUNTIMES, OnePictureRuntime
from fathom.runtime.executorch import ExecuTorchRuntime
from fathom.runtime.tensorflow import EXECUTORCH_CORE, TensorFlowRuntime


class Mean(OnePictureRuntime):
    """Averages the channels of one picture, and puts its own channel where it is told."""

    def __init__(self, channels_last, out_axis):
        self.channels_last, self.out_axis, self.seen = channels_last, out_axis, []

    def _run(self, image):
        self.seen.append(image.shape)
        assert image.flags.c_contiguous
        return np.expand_dims(image.mean(3 if self.channels_last else 1), self.out_axis)


@pytest.mark.parametrize(("channels_last", "out_axis"), [(False, 1), (True, 3), (True, 1)])
def test_pictures_of_a_batch_run_alone_in_either_channel_order(channels_last, out_axis):
    batch = np.random.default_rng(0).random((3, 3, 4, 5)).astype(np.float32)
    runtime = Mean(channels_last, out_axis)
    np.testing.assert_allclose(runtime.run(batch), batch.mean(1), rtol=1e-6)
    assert runtime.seen == [(1, 4, 5, 3) if channels_last else (1, 3, 4, 5)] * 3
    assert not runtime.batches and runtime.precision == "fp32"


def test_tensorflow_and_executorch_refuse_to_share_a_process(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    with pytest.raises(ModelError, match="cannot share one process"):
        ExecuTorchRuntime(tmp_path / "model.pte")
    monkeypatch.setitem(sys.modules, EXECUTORCH_CORE, ModuleType("core"))
    with pytest.raises(ModelError, match="cannot share one process"):
        TensorFlowRuntime(tmp_path)


def test_every_file_has_a_known_runtime():
    assert set(RUNTIME_OF.values()) <= set(RUNTIMES)


def test_core_ml_says_where_it_runs(tmp_path):
    with pytest.raises(ModelError, match="Apple"):
        open_artefact("coreml", tmp_path)


def test_devices_are_for_those_who_have_them(tmp_path):
    with pytest.raises(ModelError, match="runs on the CPU here"):
        open_artefact("litert", tmp_path / "model.tflite", device="cuda")


@pytest.mark.parametrize("role", ["litert", "ncnn"])
def test_files_that_are_none_are_refused(tmp_path, role):
    pytest.importorskip({"litert": "ai_edge_litert", "ncnn": "ncnn"}[role], reason=f"{role} is not installed")
    path = tmp_path / "model.bin"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot load"):
        open_artefact(role, path, weights=path)
