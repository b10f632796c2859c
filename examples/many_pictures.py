"""Many pictures through one model: in memory as a stream, and from files with reading and writing overlapped.

python examples/many_pictures.py [FOLDER]
"""

import sys
from pathlib import Path

import fathom
from fathom.batch import plan_outputs, predict_files
from fathom.demo import PHOTOS, photo_path

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
photos = [photo_path(name) for name in PHOTOS]

model = fathom.load_model("fathom-general")
for name, depth in zip(PHOTOS, model.stream(photos), strict=True):
    print(f"{name}: {depth.height} x {depth.width}, {depth.kind}")

plan = plan_outputs(photos, folder, "png16,color")
for outcome in predict_files(plan, lambda: model, skip_existing=True):
    print(outcome.source, "->", ", ".join(outcome.outputs), outcome.error or "")
