"""Ask a Fathom server for the depth of a picture, with Python's standard library and NumPy only.

Start a server with ``fathom serve``, then run ``python examples/client.py photo.jpg``.
"""

import argparse
import io
import json
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Answer:
    """A depth map with what the server says about it."""

    values: np.ndarray
    kind: str
    unit: str
    model: str


def ask(address: str, picture: bytes, *, token: str | None = None, model: str | None = None) -> Answer:
    """Send one picture; the values are float32 (H, W), NaN where there is no depth."""
    query = f"?format=npy&model={model}" if model else "?format=npy"
    headers = {"Content-Type": "application/octet-stream"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(f"{address}/v1/depth{query}", data=picture, headers=headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        said = response.headers
        values = np.load(io.BytesIO(response.read()))
    return Answer(values, said["Fathom-Kind"], said["Fathom-Unit"], said["Fathom-Model"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--token")
    parser.add_argument("--model")
    args = parser.parse_args()
    try:
        answer = ask(args.server, args.picture.read_bytes(), token=args.token, model=args.model)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        print(f"{problem['title']}: {problem['detail']}", file=sys.stderr)
        return 1
    except urllib.error.URLError as error:
        print(f"No server answers at {args.server} ({error.reason}). Start one: fathom serve", file=sys.stderr)
        return 1
    low, middle, high = np.nanpercentile(answer.values, [1, 50, 99])
    unit = answer.unit or "(relative, no unit)"
    print(f"{answer.model} gives {answer.kind}: {low:.3g} to {high:.3g} {unit}, median {middle:.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
