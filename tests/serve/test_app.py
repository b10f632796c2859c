import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from serve_helpers import BrightnessPredictor, both_models, client_for, encoded, served

from fathom.errors import ConfigError
from fathom.io import read_depth, read_image
from fathom.serve.schema import ServeSettings
from fathom.types import DepthKind

PNG = {"Content-Type": "image/png"}


def post(client, content, query="", **headers):
    return client.post(f"/v1/depth{query}", content=content, headers=PNG | headers)


def check_problem(response, status, kind):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"/problems/{kind}"
    assert problem["status"] == status
    assert problem["detail"] and problem["request_id"] == response.headers["x-request-id"]
    return problem["detail"]


def direct(content):
    return BrightnessPredictor().predict(read_image(content))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_raw_and_form_uploads_give_the_direct_result(client, file_format):
    content = encoded(seed=3, file_format=file_format)
    raw = post(client, content, "?format=npy")
    form = client.post("/v1/depth?format=npy", files={"picture": ("a.bin", content, "image/jpeg")})
    assert raw.status_code == form.status_code == 200
    assert raw.content == form.content
    np.testing.assert_array_equal(np.load(io.BytesIO(raw.content)), direct(content).values)


def test_the_npz_answer_is_the_direct_result_with_everything_it_says(client, tmp_path):
    content = encoded(seed=4)
    (tmp_path / "a.npz").write_bytes(post(client, content, "?format=npz&focal_px=40").content)
    depth = read_depth(tmp_path / "a.npz")
    assert depth.camera.focal_px == 40 and depth.camera.focal_source == "user"
    assert depth.with_camera(direct(content).camera) == direct(content)


def test_headers_say_what_the_numbers_are(client):
    metric = post(client, encoded(), "?format=npy").headers
    relative = post(client, encoded(), "?format=npy&model=relative").headers
    assert (metric["fathom-kind"], metric["fathom-unit"]) == ("metric_depth", "m")
    assert metric["fathom-larger-is-nearer"] == "false"
    assert metric["fathom-model"] == "brightness-metric_depth"
    assert metric["fathom-focal-source"] == "assumed"
    assert [float(value) for value in metric["fathom-intrinsics"].split(",")][2:] == [16, 12]
    assert "predict;dur=" in metric["server-timing"]
    assert (relative["fathom-kind"], relative["fathom-unit"]) == ("affine_invariant_inverse_depth", "")


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("image/png", "image/png"),
        ("text/html, model/gltf-binary;q=0.3, application/x-ply;q=0.9", "application/x-ply"),
    ],
)
def test_the_accept_header_chooses_the_format(client, accept, media_type):
    response = post(client, encoded(), accept=accept)
    assert (response.status_code, response.headers["content-type"]) == (200, media_type)


def test_json_holds_the_same_values(client):
    content = encoded(seed=5)
    answer = post(client, content).json()
    values = np.frombuffer(base64.b64decode(answer["values"]), "<f4").reshape(answer["height"], answer["width"])
    np.testing.assert_array_equal(values, direct(content).values)
    assert answer["smallest"] == pytest.approx(values.min()) and answer["unit"] == "m"


def test_the_colour_picture_takes_map_and_range(client):
    content = np.full((8, 8, 3), 255, np.uint8)  # depth 2 m everywhere
    buffer = io.BytesIO()
    Image.fromarray(content).save(buffer, "PNG")
    response = post(client, buffer.getvalue(), "?format=color&colormap=gray&low=2&high=4")
    assert np.asarray(Image.open(io.BytesIO(response.content)))[0, 0].tolist() == [255, 255, 255]  # near is bright
    assert post(client, buffer.getvalue(), "?format=colour").status_code == 200


@pytest.mark.parametrize("form", ["ply", "glb"])
def test_points_need_metres(client, form):
    assert post(client, encoded(), f"?format={form}").status_code == 200
    assert "needs metres" in check_problem(
        post(client, encoded(), f"?format={form}&model=relative"), 422, "not-possible"
    )


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"", 422, "bad-option"),
        (b"hello, this is text", 415, "not-a-picture"),
        (b"%PDF-1.4 ......................", 415, "not-a-picture"),
        (encoded()[:60], 422, "damaged-picture"),
        (encoded(120, 160, file_format="JPEG")[:400], 422, "damaged-picture"),
        (encoded(400, 400), 413, "too-large"),
        (bytes(200_000), 413, "too-large"),
    ],
)
def test_bad_pictures_are_refused(content, status, kind):
    with client_for(both_models(), ServeSettings(max_bytes=100_000, max_pixels=100_000)) as client:
        check_problem(post(client, content), status, kind)
        form = client.post("/v1/depth", files={"picture": ("a.png", content, "image/png")})
        check_problem(form, status, kind)


def test_a_body_without_stated_length_is_cut_at_the_limit():
    sent = 0

    def endless():
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    with client_for(both_models(), ServeSettings(max_bytes=100_000)) as client:
        check_problem(client.post("/v1/depth", content=endless(), headers=PNG), 413, "too-large")


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("?format=exe", "bad-option"),
        ("?formt=npy", "bad-option"),
        ("?model=../../etc/passwd", "bad-option"),
        ("?model=hf:someone/something", "bad-option"),
        ("?focal_px=-1", "bad-option"),
        ("?focal_px=nan", "bad-option"),
        ("?low=1", "bad-option"),
        ("?low=2&high=1", "bad-option"),
        ("?colormap=jet", "bad-option"),
    ],
)
def test_bad_options_are_refused(client, query, kind):
    check_problem(post(client, encoded(), query), 422, kind)


def test_other_bodies_and_answers_are_refused(client):
    check_problem(client.post("/v1/depth", json={"url": "http://example.org/a.png"}), 415, "not-a-picture")
    check_problem(client.post("/v1/depth", data={"picture": "/etc/passwd"}), 415, "not-a-picture")
    check_problem(client.post("/v1/depth", files={"other": b"x"}), 422, "bad-option")
    two = [("picture", b"x"), ("picture", b"y")]
    check_problem(client.post("/v1/depth", files=two), 400, "bad-request")
    check_problem(post(client, b"x", **{"Content-Type": "multipart/form-data"}), 400, "bad-request")
    check_problem(post(client, encoded(), accept="text/html"), 406, "not-acceptable")


def test_wrong_paths_and_methods_are_problems(client):
    for response, status in [(client.get("/v1/nothing"), 404), (client.get("/v1/depth"), 405)]:
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"


def test_the_token_guards_the_interface_only():
    token = "a-long-enough-token"
    with client_for(both_models(), ServeSettings(token=SecretStr(token))) as client:
        right = {"Authorization": f"Bearer {token}"}
        for path in ("/v1/models", "/metrics"):
            check_problem(client.get(path), 401, "no-token")
            check_problem(client.get(path, headers={"Authorization": f"Bearer {token}x"}), 401, "no-token")
            check_problem(client.get(path, headers={"Authorization": f"Basic {token}"}), 401, "no-token")
            assert client.get(path, headers=right).status_code == 200
        check_problem(post(client, encoded()), 401, "no-token")
        for path in ("/", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200


def test_short_tokens_are_refused():
    with pytest.raises(ValueError, match="at least 16"):
        ServeSettings(token=SecretStr("short"))


def test_other_sites_and_host_names_are_refused(client):
    check_problem(client.get("/v1/models", headers={"Host": "evil.example"}), 421, "unknown-host")
    check_problem(client.get("/v1/models", headers={"Sec-Fetch-Site": "cross-site"}), 403, "foreign-site")
    assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200


def test_the_page_may_load_nothing_from_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


class SlowPredictor(BrightnessPredictor):
    """Waits in the network until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.entered = threading.Event()

    def infer(self, group):
        self.entered.set()
        self.free.wait(10)
        return super().infer(group)


def test_a_full_server_says_when_to_come_back_and_waiting_requests_share_runs():
    slow = SlowPredictor()
    contents = [encoded(seed=seed) for seed in range(6)]
    with client_for([served("slow", slow)], ServeSettings(max_requests=6)) as client, ThreadPoolExecutor(6) as pool:
        first = pool.submit(post, client, contents[0], "?format=npy")
        assert slow.entered.wait(5)
        rest = [pool.submit(post, client, content, "?format=npy") for content in contents[1:]]
        while client.get("/metrics").text.find("fathom_requests_under_way 6.0") < 0:
            pass
        refused = post(client, contents[0])
        check_problem(refused, 503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
        slow.free.set()
        for content, answer in zip(contents, [first, *rest], strict=True):
            response = answer.result(10)
            assert response.status_code == 200
            np.testing.assert_array_equal(np.load(io.BytesIO(response.content)), direct(content).values)
    assert sum(slow.batches) == 6 and max(slow.batches) > 1


def test_a_request_beyond_its_time_is_given_up():
    slow = SlowPredictor()
    with client_for([served("slow", slow)], ServeSettings(timeout_s=0.2)) as client:
        check_problem(post(client, encoded()), 504, "too-slow")
        slow.free.set()
        assert post(client, encoded()).status_code == 200


class BrokenPredictor(BrightnessPredictor):
    def infer(self, group):
        raise RuntimeError("secret internals")


def test_an_unexpected_error_is_a_500_that_tells_nothing_and_the_server_goes_on():
    with client_for([served("broken", BrokenPredictor()), *both_models()]) as client:
        detail = check_problem(post(client, encoded()), 500, "failed")
        assert "secret" not in detail
        assert post(client, encoded(), "?model=metric").status_code == 200


def test_models_are_listed_and_names_must_differ(client):
    first, second = client.get("/v1/models").json()["models"]
    assert (first["name"], first["unit"], first["is_default"]) == ("metric", "m", True)
    assert (second["kind"], second["is_default"]) == (DepthKind.AFFINE_INVARIANT_INVERSE_DEPTH, False)
    with pytest.raises(ConfigError):
        client_for([served("a", BrightnessPredictor()), served("a", BrightnessPredictor())])


def test_metrics_count_requests_and_batches(client):
    post(client, encoded())
    post(client, b"text")
    text = client.get("/metrics").text
    assert 'fathom_requests_total{method="POST",path="/v1/depth",status="200"} 1.0' in text
    assert 'fathom_requests_total{method="POST",path="/v1/depth",status="415"} 1.0' in text
    assert 'fathom_batch_pictures_count{model="metric"} 1.0' in text


def test_logs_are_one_json_line_without_the_picture(client, caplog):
    from fathom.serve.gate import JsonFormatter

    caplog.set_level("INFO", logger="fathom.serve")
    client.post("/v1/depth?format=npy", files={"picture": ("my-secret-name.png", encoded(), "image/png")})
    [record] = [record for record in caplog.records if record.getMessage() == "request"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["path"], line["status"], line["model"], line["height"]) == ("/v1/depth", 200, "metric", 24)
    assert "secret" not in str(line) and line["predict_s"] >= 0


def test_the_document_describes_every_answer(client):
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/depth"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert {"200", "413", "415", "422", "503", "504"} <= set(operation["responses"])
    assert set(operation["responses"]["200"]["content"]) >= {"application/json", "application/x-npy", "image/png"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert operation["responses"]["200"]["content"]["application/json"]["example"]["unit"] == "m"
