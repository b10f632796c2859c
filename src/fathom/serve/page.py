"""The web page: built files where the package has them, else a page that says what is missing."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from fathom.export.web import COLORMAPS_FILE, WEB_FOLDER, colormaps_json

_MISSING_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fathom</title>
<h1>Fathom</h1>
<p>The server works, but this installation was built without the web page, because Node.js was not there.</p>
<p>To have the page: install Node.js 20 or newer, then install Fathom from source again
(<code>pip install .</code>), or install a released wheel, which carries it.</p>
<p>Without the page: <code>curl -F picture=@photo.jpg "http://HOST:PORT/v1/depth?format=colour" -o depth.png</code>.
The interface is described at <a href="openapi.json">openapi.json</a>.</p>
</html>
"""


def is_built(folder: Path = WEB_FOLDER) -> bool:
    """Return whether the page was built."""
    return (folder / "index.html").is_file()


class _Assets(StaticFiles):
    """Files whose names hold a hash of their content: a browser may keep them for ever."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200:
            response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


def add_page(app: FastAPI, folder: Path = WEB_FOLDER) -> None:
    """Serve the page at `/` and its files; no other path is taken, so that unknown ones and wrong methods say so."""
    fresh = {"Cache-Control": "no-cache"}

    async def send_colormaps(request: Request) -> Response:
        return Response(colormaps_json(), media_type="application/json", headers=fresh)

    app.add_route(f"/{COLORMAPS_FILE}", send_colormaps, include_in_schema=False)
    if not is_built(folder):

        async def send_missing(request: Request) -> Response:
            return HTMLResponse(_MISSING_PAGE)

        app.add_route("/", send_missing, include_in_schema=False)
        return

    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            _add_file(app, "/" if path.name == "index.html" else f"/{path.name}", path, fresh)
    app.mount("/assets", _Assets(directory=folder / "assets"))


def _add_file(app: FastAPI, address: str, path: Path, headers: dict[str, str]) -> None:
    async def send_file(request: Request) -> Response:
        return FileResponse(path, headers=headers)

    app.add_route(address, send_file, include_in_schema=False)
