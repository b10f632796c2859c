"""A headless Chromium and a server of the page; skipped where a part is absent."""

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the page needs fathom-depth[serve]")
pytest.importorskip("playwright.sync_api", reason="the page is driven by playwright")

import uvicorn
from playwright.sync_api import sync_playwright

from fathom.serve.app import create_app
from fathom.serve.page import is_built

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from serve_helpers import both_models
from web_helpers import open_page

FLAGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist "
    "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
).split()


@pytest.fixture(scope="module")  # while it is open, playwright's event loop counts as running in this thread
def browser() -> Iterator:
    if not is_built():
        pytest.skip("the page is not built (no Node.js at installation)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Run the server in a thread and return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(both_models()), port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(browser, address) -> Iterator:
    page = open_page(browser, address)
    yield page
    assert page.errors == []
    page.context.close()
