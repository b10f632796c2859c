"""Models of transformers: tiny random ones, compared with transformers' own preprocessing and pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("torchvision")

from fathom.errors import ModelError  # noqa: E402
from fathom.models.hub import hub_input, hub_kind, is_hub, load_hub  # noqa: E402
from fathom.predict import Predictor  # noqa: E402
from fathom.runtime.steps import preprocess  # noqa: E402
from fathom.types import DepthKind  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

IMAGE = np.random.default_rng(0).integers(0, 256, (45, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Depth Anything of 40 thousand parameters, saved as transformers saves it."""
    path = tmp_path_factory.mktemp("depth-anything-tiny")
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            hidden_size=24,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
            out_features=["stage1", "stage2", "stage3", "stage4"],
            reshape_hidden_states=False,
        ),
        reassemble_hidden_size=24,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=4,
    )
    torch.manual_seed(0)
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(path)
    processor(transformers.DPTImageProcessor).save_pretrained(path)
    return path


def processor(kind, **options):
    values = {
        "size": {"height": 56, "width": 56},
        "keep_aspect_ratio": True,
        "ensure_multiple_of": 14,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    return kind(**{**values, **options})


def test_card_of_a_folder(folder):
    hub = load_hub(folder)
    assert hub.card.kind is DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH
    assert (hub.card.input.law, hub.card.input.multiple, hub.card.input.interpolation) == ("keep_aspect", 14, "bicubic")
    assert len(hub.weights_sha256) == 64
    assert hub.card.parameters == sum(p.numel() for p in hub.network.parameters())
    assert is_hub(folder)
    assert is_hub("hf:a/b")
    assert not is_hub("fathom-general")


@pytest.mark.parametrize("size", [(45, 60), (60, 45), (33, 200)])
def test_preprocessing_is_that_of_transformers(folder, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    expected = transformers.AutoImageProcessor.from_pretrained(folder)(image, return_tensors="np")["pixel_values"]
    got = preprocess(image, load_hub(folder).card.input).array
    assert got.shape == expected.shape
    # Pillow and torchvision round to whole grey levels differently in rare pixels: one level is 0.018 here.
    assert np.abs(got - expected).max() < 0.04
    assert np.abs(got - expected).mean() < 0.002


@pytest.mark.parametrize("runtime", ["torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_prediction_is_that_of_the_pipeline(folder, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    from PIL import Image

    pipe = transformers.pipeline("depth-estimation", model=str(folder), device="cpu", dtype=torch.float32)
    expected = pipe(Image.fromarray(IMAGE))["predicted_depth"].numpy()
    depth = Predictor(folder, runtime=runtime, precision="fp32", num_threads=1).predict(IMAGE)
    assert depth.values.shape == expected.shape == IMAGE.shape[:2]
    # The pipeline enlarges its map bicubically, Fathom bilinearly.
    assert np.corrcoef(depth.values.ravel(), expected.ravel())[0, 1] > 0.99
    assert depth.provenance.model == folder.name


def test_runtimes_that_cannot_run_a_torch_network_are_refused(folder):
    for options in ({"runtime": "onnxruntime"}, {"precision": "int8"}):
        with pytest.raises(ModelError, match="runs with openvino or torch"):
            Predictor(folder, **options)


def config(model_type, **values):
    return SimpleNamespace(model_type=model_type, **values)


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        (config("depth_anything", depth_estimation_type="relative"), "affine_invariant_inverse_depth"),
        (config("depth_anything", depth_estimation_type="metric"), "metric_depth"),
        (config("prompt_depth_anything", depth_estimation_type="metric"), "metric_depth"),
        (config("dpt"), "affine_invariant_inverse_depth"),
        (config("dpt", backbone_config=SimpleNamespace(model_type="bit")), "affine_invariant_inverse_depth"),
        (config("dpt", backbone_config=SimpleNamespace(model_type="dinov2")), "metric_depth"),
        (config("zoedepth"), "metric_depth"),
        (config("glpn"), "metric_depth"),
        (config("depth_pro", use_fov_model=True), "metric_depth"),
        (config("depth_pro", use_fov_model=False), "scale_invariant_depth"),
    ],
)
def test_kind_of_each_family(stated, kind):
    assert hub_kind(stated, "x") == kind


def test_an_unknown_family_is_refused():
    with pytest.raises(ModelError, match="a 'chmv2' model"):
        hub_kind(config("chmv2"), "x")


def test_input_laws_of_the_processors():
    glpn = hub_input(transformers.GLPNImageProcessor(), "x")
    assert (glpn.law, glpn.multiple, glpn.mean) == ("native", 32, (0.0, 0.0, 0.0))
    zoe = hub_input(transformers.ZoeDepthImageProcessor(), "x")
    assert (zoe.law, zoe.height, zoe.width, zoe.mirror_border) == ("keep_aspect", 384, 512, True)
    pro = hub_input(transformers.DepthProImageProcessor(), "x")
    assert (pro.law, pro.height, pro.width, pro.mean) == ("fixed", 1536, 1536, (0.5, 0.5, 0.5))
    dpt = hub_input(processor(transformers.DPTImageProcessor, keep_aspect_ratio=False, resample=2), "x")
    assert (dpt.law, dpt.interpolation) == ("fixed", "bilinear")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 5, "width": 5}}, "crops"),
        ({"do_rescale": False}, "does not scale"),
        ({"do_pad": True, "size_divisor": 14}, "pads"),
        ({"do_resize": False}, "does not resize"),
        ({"resample": 1}, "kernel 1"),
    ],
)
def test_processors_that_do_something_else_are_refused(options, what):
    with pytest.raises(ModelError, match=what):
        hub_input(processor(transformers.DPTImageProcessor, **options), "x")


def test_glpn_preprocessing_is_that_of_transformers():
    image = np.random.default_rng(1).integers(0, 256, (70, 100, 3), np.uint8)
    own = transformers.GLPNImageProcessor()
    expected = own(image, return_tensors="np")["pixel_values"]
    got = preprocess(image, hub_input(own, "x")).array
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() < 2 / 255 + 1e-6


def test_zoedepth_preprocessing_is_that_of_transformers():
    from PIL import Image

    image = np.asarray(Image.fromarray(IMAGE[:5, :6]).resize((100, 70), Image.Resampling.BICUBIC))
    own = transformers.ZoeDepthImageProcessor(size={"height": 64, "width": 96}, ensure_multiple_of=32)
    expected = own(image, return_tensors="np")["pixel_values"]
    got = preprocess(image, hub_input(own, "x")).array
    assert got.shape == expected.shape
    # ZoeDepth resizes with corners aligned and no wider kernel: on a smooth picture that is less than a pixel's shift.
    assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] > 0.99


def test_what_is_no_depth_model_is_told(tmp_path):
    with pytest.raises(ModelError, match="cannot load a depth model"):
        load_hub(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="a 'bert' model"):
        load_hub(tmp_path)
