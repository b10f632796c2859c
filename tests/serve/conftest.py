from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the server needs fathom-depth[serve]")

from serve_helpers import both_models, client_for


@pytest.fixture
def client() -> Iterator:
    with client_for(both_models()) as client:
        yield client
