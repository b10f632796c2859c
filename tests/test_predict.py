import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

import fathom
from fathom.errors import ConfigError, InputError, ModelError, ShapeError
from fathom.io import read_image
from fathom.models.cards import InputSpec
from fathom.predict import Predictor, _kept, as_picture, check_choices, parse_size
from fathom.types import Camera, DepthKind, FocalSource
from tiny_models import make_model, make_photo

RGB = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def predictor(folder):
    return Predictor(folder, num_threads=1)


def test_the_result_is_typed_and_has_the_pictures_size(predictor, folder):
    depth = predictor.predict(RGB)
    assert depth.values.shape == RGB.shape[:2]
    assert depth.kind is DepthKind.METRIC_DEPTH is predictor.kind
    assert depth.provenance.model == "tiny"
    assert depth.provenance.weights_sha256 == predictor.card.files["onnx"].sha256
    record = depth.provenance.preprocessing
    assert (record["runtime"], record["precision"], record["law"]) == ("onnxruntime", "fp32", "area")
    assert (record["height"], record["width"]) == (64, 64)
    assert repr(predictor) == "Predictor('tiny', metric_depth, runtime='onnxruntime', precision='fp32')"


def test_every_form_of_one_picture_gives_the_same_result(predictor, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    expected = predictor.predict(RGB)
    floats = RGB.astype(np.float32) / 255
    forms = [
        path,
        str(path),
        path.read_bytes(),
        read_image(path),
        Image.open(path),
        Image.fromarray(RGB),
        floats,
        floats.astype(np.float64),
        RGB.astype(np.uint16) * 257,
        np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)]),
        np.asfortranarray(RGB),
        torch.from_numpy(RGB),
        torch.from_numpy(floats).permute(2, 0, 1),
    ]
    for form in forms:
        assert predictor.predict(form) == expected
    with path.open("rb") as stream:
        assert predictor.predict(stream) == expected


def test_grey_and_transparent_arrays():
    grey = RGB[..., 0]
    for form in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(as_picture(form).rgb, np.repeat(grey[..., None], 3, 2))
    half = np.zeros((2, 2, 4), np.uint8)
    half[..., 3] = 128
    assert as_picture(half).rgb[0, 0].tolist() == [127, 127, 127]
    np.testing.assert_array_equal(as_picture(Image.fromarray(half)).rgb, as_picture(half).rgb)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "F", "I"])
def test_pillow_images_of_every_mode_are_read(mode):
    image = Image.fromarray(RGB).convert("L" if mode in ("I;16", "F", "I") else "RGB").convert(mode)
    assert as_picture(image).rgb.shape == RGB.shape


def test_pillow_orientation_and_focal_length_are_used(predictor):
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 28
    turned = Image.fromarray(RGB)
    turned.info["exif"] = exif.tobytes()
    depth = predictor.predict(turned)
    assert (depth.height, depth.width) == (40, 30)
    assert depth.camera.focal_source is FocalSource.EXIF


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((3, 30, 40), np.uint8), "channels last"),
        (np.zeros((2, 30, 40, 3), np.uint8), "predict_batch"),
        (np.zeros((0, 4, 3), np.uint8), "Expected a picture"),
        (np.zeros((4, 4, 2), np.uint8), "Expected a picture"),
        (np.zeros(5, np.uint8), "Expected a picture"),
        (np.full((2, 2, 3), 3.0), "0 to 1"),
        (np.full((2, 2, 3), np.nan), "0 to 1"),
        (np.zeros((2, 2, 3), np.int64), "uint8, uint16 or float"),
        (np.zeros((2, 2, 3), bool), "uint8, uint16 or float"),
    ],
)
def test_arrays_that_are_no_picture_are_told(array, sentence):
    with pytest.raises(ShapeError, match=sentence):
        as_picture(array)


def test_objects_that_are_no_picture_are_told(tmp_path):
    with pytest.raises(InputError, match="got int"):
        as_picture(3)
    with pytest.raises(InputError, match="no file"):
        as_picture(tmp_path / "none.jpg")


def test_the_camera_is_the_users_then_exif_then_assumed(predictor):
    assert predictor.predict(RGB).camera.focal_source is FocalSource.ASSUMED
    camera = Camera.from_focal(77.0, height=30, width=40, source=FocalSource.USER)
    assert predictor.predict(RGB, camera=camera).camera == camera


def test_results_do_not_depend_on_their_neighbours(predictor, tmp_path):
    images = [make_photo(tmp_path / f"{i}.png", 20 + 7 * i, 60 - 5 * i, seed=i) for i in range(5)]
    alone = [predictor.predict(image) for image in images]
    for size in (1, 2, 5, 9):
        batched = predictor.predict_batch(images, batch_size=size)
        assert batched == alone
        assert all(np.array_equal(a.values, b.values) for a, b in zip(batched, alone, strict=True))
    assert predictor.predict_batch(images[::-1], batch_size=3) == alone[::-1]


def test_a_runtime_that_batches_gets_neighbours_of_one_shape_and_keeps_the_order(folder):
    class Batching:
        name, precision, batches = "torch", "fp32", True
        shapes: list[tuple[int, ...]] = []  # noqa: RUF012

        def run(self, batch):
            self.shapes.append(batch.shape)
            return batch.mean(1)

    predictor = Predictor(folder, num_threads=1)
    predictor._runtime = Batching()
    wide, tall = np.full((20, 80, 3), 255, np.uint8), np.full((80, 20, 3), 100, np.uint8)
    results = predictor.predict_batch([wide, wide, tall, wide], batch_size=4)
    assert [shape[0] for shape in Batching.shapes] == [2, 1, 1]
    assert [round(float(depth.values.mean() * 255)) for depth in results] == [255, 255, 100, 255]


def test_stream_holds_one_batch_at_a_time(predictor):
    taken = 0

    def images():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield RGB

    stream = predictor.stream(images(), batch_size=3)
    next(stream)
    assert taken == 3
    next(stream)
    assert taken == 3


def test_batch_size_is_checked_at_once(predictor):
    with pytest.raises(ModelError, match="at least 1"):
        predictor.stream([], batch_size=0)


def test_threads_may_share_a_predictor(predictor):
    images = [np.full((10 + i, 20, 3), 20 * i, np.uint8) for i in range(8)]
    expected = [predictor.predict(image) for image in images]
    got = {}

    def work(index):
        for _ in range(5):
            got[index] = predictor.predict(images[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[index] for index in range(8)] == expected


def test_size_changes_the_network_input(folder):
    for size, expected in ((128, (128, 128)), ((64, 256), (128, 128)), (32, (32, 32))):
        record = Predictor(folder, size=size, num_threads=1).predict(RGB[:, :30]).provenance.preprocessing
        assert (record["height"], record["width"]) == expected


def test_wrong_choices_are_told(folder):
    for options, sentence in (
        ({"runtime": "onnx"}, "Did you mean 'onnxruntime'"),
        ({"precision": "fp23"}, "Did you mean 'fp32'"),
        ({"size": 8}, "32 to 8192"),
        ({"size": (64, 10_000)}, "32 to 8192"),
        ({"precision": "int8"}, "has no int8 file"),
        ({"precision": "bf16", "runtime": "onnxruntime"}, "no bf16"),
        ({"device": "cuda", "runtime": "onnxruntime"}, "runs on the CPU"),
        ({"runtime": "torch"}, "no safetensors file"),
        ({"num_threads": 0}, "at least 1"),
    ):
        with pytest.raises(ModelError, match=sentence):
            Predictor(folder, **options)
    check_choices("auto", "auto")


def test_an_int8_file_is_run_as_such(tmp_path):
    predictor = Predictor(make_model(tmp_path / "m", role="onnx_int8"), precision="int8", num_threads=1)
    assert (predictor.runtime, predictor.precision) == ("onnxruntime", "int8")
    assert predictor.predict(RGB).provenance.preprocessing["precision"] == "int8"


@pytest.mark.parametrize(("has_bf16", "computed"), [(True, "bf16"), (False, "fp32")])
def test_auto_with_bf16_takes_openvino(folder, monkeypatch, has_bf16, computed):
    pytest.importorskip("openvino")
    monkeypatch.setattr("fathom.runtime.openvino._computes_bf16", lambda core, device: has_bf16)
    predictor = Predictor(folder, precision="bf16", num_threads=1)
    assert (predictor.runtime, predictor.precision) == ("openvino", computed)
    assert Predictor(folder, runtime="openvino", num_threads=1).precision == computed
    assert Predictor(folder, runtime="openvino", precision="fp32", num_threads=1).precision == "fp32"


def test_input_laws_change_what_the_network_sees(tmp_path):
    spec = InputSpec(law="fixed", height=32, width=96, multiple=32, interpolation="bicubic")
    predictor = Predictor(make_model(tmp_path / "m", spec=spec), num_threads=1)
    record = predictor.predict(RGB).provenance.preprocessing
    assert (record["height"], record["width"], record["interpolation"]) == (32, 96, "bicubic")


def test_the_easy_functions(folder):
    depth = fathom.predict(RGB, model=folder, num_threads=1)
    assert depth == fathom.load_model(folder, num_threads=1).predict(RGB)
    before = _kept.cache_info().hits
    fathom.predict(RGB, model=folder, num_threads=1)
    assert _kept.cache_info().hits == before + 1


@pytest.mark.parametrize("first", ["import fathom", "import fathom.predict", "from fathom.predict import Predictor"])
def test_the_function_is_found_whatever_was_imported_first(folder, first):
    code = f"{first}\nimport fathom, numpy as np\nimage = np.zeros((4, 4, 3), np.uint8)\n"
    code += (
        f"print(fathom.predict(image, model={str(folder)!r}).kind, fathom.predict(image, model={str(folder)!r}).unit)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "metric_depth m\n"


def test_sizes_are_read():
    assert parse_size(" 128 ") == 128
    assert parse_size("64X96") == (64, 96)
    for text in ("", "a", "1x2x3", "-5", "3.5", "64x"):
        with pytest.raises(ConfigError, match="HEIGHTxWIDTH"):
            parse_size(text)
