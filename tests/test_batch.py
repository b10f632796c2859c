import collections
import threading
import time

import numpy as np
import pytest

from fathom import batch
from fathom.batch import plan_outputs, predict_files
from fathom.errors import OutputError
from fathom.io import read_depth
from fathom.predict import Predictor
from tiny_models import make_model, make_photo


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return Predictor(make_model(tmp_path_factory.mktemp("m") / "m"), num_threads=1)


def photos(folder, count):
    return [make_photo(folder / f"{index:02}.png", 20 + index, 40, seed=index) for index in range(count)]


def test_outcomes_come_in_order_and_equal_single_predictions(predictor, tmp_path):
    paths = photos(tmp_path / "in", 9)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "npz")
    outcomes = list(predict_files(plan, lambda: predictor))
    assert [outcome.source for outcome in outcomes] == [str(path) for path in paths]
    for path, outcome in zip(paths, outcomes, strict=True):
        assert read_depth(outcome.outputs[0]) == predictor.predict(path)
        assert (outcome.kind, outcome.unit, outcome.error) == ("metric_depth", "m", None)
        assert outcome.seconds > 0


def test_a_bad_file_stops_nothing(predictor, tmp_path):
    photos(tmp_path / "in", 5)
    (tmp_path / "in" / "02.png").write_bytes(b"no")
    plan = plan_outputs([tmp_path / "in", tmp_path / "none.jpg"], tmp_path / "out", "png16")
    outcomes = list(predict_files(plan, lambda: predictor))
    assert [outcome.error is None for outcome in outcomes] == [True, True, False, True, True, False]


@pytest.mark.parametrize("stage", ["prepare", "infer", "finish"])
def test_a_failure_in_any_stage_stays_with_its_picture(predictor, tmp_path, stage):
    photos(tmp_path / "in", 4)

    class Fails:
        batches = False

        def __getattr__(self, name):
            return getattr(predictor, name)

    def fail(first, *rest):
        name = getattr(first, "name", None) or (rest[0] if rest else first[0]).picture.name
        if name == "01.png":
            raise MemoryError
        return getattr(predictor, stage)(first, *rest)

    broken = Fails()
    setattr(broken, stage, fail)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "png16")
    outcomes = list(predict_files(plan, lambda: broken))
    assert [outcome.error for outcome in outcomes] == [
        None,
        "There is not enough memory for this picture. Shrink it first.",
        None,
        None,
    ]


def test_existing_outputs_are_skipped_and_the_model_is_not_loaded_for_nothing(predictor, tmp_path):
    photos(tmp_path / "in", 3)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "png16,npy")
    list(predict_files(plan, lambda: predictor))
    (tmp_path / "out" / "01.npy").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    outcomes = list(predict_files(plan, lambda: predictor, skip_existing=True))
    assert [outcome.skipped for outcome in outcomes] == [True, False, True]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert {name for name in after if before.get(name) != after[name]} == {"01.png", "01.npy", "01.npy.json"}

    def not_wanted():
        raise AssertionError("loaded for nothing")

    assert all(outcome.skipped for outcome in predict_files(plan, not_wanted, skip_existing=True))


def test_little_is_held_at_once(predictor, tmp_path, monkeypatch):
    photos(tmp_path / "in", 30)
    held, most, lock = set(), 0, threading.Lock()
    prepare, write = predictor.prepare, batch.write_outputs

    class Counting:
        batches = False

        def __getattr__(self, name):
            return getattr(predictor, name)

        def prepare(self, picture):
            nonlocal most
            with lock:
                held.add(picture.name)
                most = max(most, len(held))
            return prepare(picture)

    def slow_write(depth, picture, *rest):
        time.sleep(0.005)
        with lock:
            held.discard(picture.name)
        return write(depth, picture, *rest)

    monkeypatch.setattr(batch, "write_outputs", slow_write)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "npy")
    assert sum(outcome.error is None for outcome in predict_files(plan, Counting)) == 30
    assert most <= 2 * batch.IN_FLIGHT + 4


def test_reading_and_writing_overlap_the_network(predictor, tmp_path, monkeypatch):
    photos(tmp_path / "in", 12)
    lock, busy, together = threading.Lock(), collections.Counter(), set()

    def watched(function):
        def call(*arguments, **options):
            with lock:
                busy[function.__name__] += 1
                together.add(frozenset(name for name, count in busy.items() if count))
            time.sleep(0.03)
            try:
                return function(*arguments, **options)
            finally:
                with lock:
                    busy[function.__name__] -= 1

        return call

    class Watched:
        batches = False
        prepare = staticmethod(watched(predictor.prepare))
        infer = staticmethod(watched(predictor.infer))
        finish = staticmethod(watched(predictor.finish))

    outcomes = list(predict_files(plan_outputs([tmp_path / "in"], tmp_path / "out", "npy"), Watched))
    assert [outcome.error for outcome in outcomes] == [None] * 12
    assert any({"prepare", "infer"} <= stages for stages in together)
    assert any({"infer", "finish"} <= stages for stages in together)


def test_pictures_of_one_shape_are_grouped_where_it_pays(predictor, tmp_path):
    for index, width in enumerate((40, 40, 200, 40, 40, 40)):
        make_photo(tmp_path / "in" / f"{index}.png", 40, width, seed=index)
    (tmp_path / "in" / "4.png").write_bytes(b"no")
    groups = []

    class Batching:
        batches = True
        prepare, finish = predictor.prepare, predictor.finish

        def infer(self, group):
            groups.append(len(group))
            return predictor.infer(group)

    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "npy")
    outcomes = list(predict_files(plan, Batching, batch_size=4))
    assert groups == [2, 1, 1, 1]
    assert [outcome.error is None for outcome in outcomes] == [True, True, True, True, False, True]
    alone = predictor.predict(tmp_path / "in" / "1.png")
    np.testing.assert_array_equal(read_depth(tmp_path / "out" / "1.npy").values, alone.values)


def test_an_interrupt_finishes_what_is_being_written(predictor, tmp_path):
    photos(tmp_path / "in", 20)
    plan = plan_outputs([tmp_path / "in"], tmp_path / "out", "npz")
    outcomes = predict_files(plan, lambda: predictor)
    first = next(outcomes)
    outcomes.close()
    made = sorted((tmp_path / "out").iterdir())
    assert first.outputs[0] == str(made[0])
    assert len(made) < 20
    for path in made:
        read_depth(path)


def test_an_unwritable_output_folder_is_told_before_anything(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Cannot make the output folder"):
        plan_outputs([tmp_path], tmp_path / "file" / "out", "npy")
