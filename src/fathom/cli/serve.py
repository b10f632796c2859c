"""``fathom serve``: models that stay loaded, behind an HTTP interface and a web page."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model to hold; repeat for more. Default: the embedded models."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the bearer token. Default: the variable FATHOM_SERVE_TOKEN.")
    ] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="Name accepted in the Host header; repeat.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with limits: see docs/serve.md.")] = None,
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino or torch.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
) -> None:
    """Serve depth over HTTP, with a web page at /."""
    from fathom.errors import require

    for module in ("fastapi", "uvicorn", "multipart", "prometheus_client"):
        require(module, "serve", "Serving")
    from fathom.serve.server import load_served, read_settings
    from fathom.serve.server import serve as run_server

    settings = read_settings(
        config, host=host, port=port, token_file=token_file, allowed_hosts=tuple(allowed_host or ())
    )
    run_server(load_served(model or [], runtime=runtime, precision=precision), settings)
