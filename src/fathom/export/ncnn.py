"""ncnn, through pnnx, which reads a TorchScript trace."""

import subprocess
import warnings
from pathlib import Path

from fathom.errors import ModelError, require
from fathom.export.job import Job
from fathom.models.cards import FileRole
from fathom.runtime.steps import grid_size

TIMEOUT_SECONDS = 1800


def write(job: Job) -> dict[FileRole, Path]:
    """Write a job as ``.param`` and ``.bin``; returns both.

    Raises:
        ModelError: If pnnx cannot convert the network, or an operator has no form in ncnn.
    """
    network = job.source.needs_network("An ncnn model")
    torch = require("torch", "export", "Export to ncnn")
    pnnx = require("pnnx", "ncnn", "Export to ncnn")
    shape = (1, 3, *grid_size(job.spec, 1, 1))
    script = job.folder / "traced.pt"
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # tracing warns about each size that it freezes; that is meant
        torch.jit.trace(network, torch.zeros(shape), check_trace=False).save(str(script))
    param, weights = job.path(".param"), job.path(".bin")
    command = [
        pnnx.EXEC_PATH,
        script.name,
        f"inputshape=[{','.join(map(str, shape))}]",
        f"ncnnparam={param.name}",
        f"ncnnbin={weights.name}",
        f"fp16={int(job.precision == 'fp16')}",
    ]
    done = subprocess.run(command, cwd=job.folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    if done.returncode != 0 or not param.is_file() or not weights.is_file():
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ModelError(f"pnnx cannot convert the network: {said[-1] if said else f'exit code {done.returncode}'}")
    unknown = sorted({line.split()[0] for line in param.read_text().splitlines()[2:] if "." in line.split()[0]})
    if unknown:
        raise ModelError(f"ncnn has no layer for: {', '.join(unknown)}. Choose another format for this network.")
    return {"ncnn": param, "ncnn_bin": weights}
