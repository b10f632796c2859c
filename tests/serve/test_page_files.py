from fastapi import FastAPI
from starlette.testclient import TestClient

from fathom.serve.page import add_page


def client_of(folder):
    app = FastAPI()
    add_page(app, folder)
    return TestClient(app)


def test_without_the_built_page_the_server_says_what_it_lacks(tmp_path):
    answer = client_of(tmp_path).get("/")
    assert answer.status_code == 200
    assert "Node.js" in answer.text and "curl" in answer.text


def test_the_built_page_is_served_and_its_assets_are_kept(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>page")
    (tmp_path / ".source-hash").write_text("0")
    (tmp_path / "assets" / "a-1234.wasm").write_bytes(b"\0asm")
    client = client_of(tmp_path)
    page, asset = client.get("/"), client.get("/assets/a-1234.wasm")
    assert (page.text, page.headers["cache-control"]) == ("<!doctype html>page", "no-cache")
    assert asset.headers["content-type"] == "application/wasm"
    assert "immutable" in asset.headers["cache-control"]
    assert client.get("/.source-hash").status_code == 404
    assert client.get("/assets/..%2findex.html").status_code == 404
    assert client.get("/colormaps.json").json()["default"] == "turbo"
