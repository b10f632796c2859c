"""From a photo to metres: a point cloud from the metric model, and the error that a relative map gives instead.

python examples/metres_and_points.py [PHOTO] [FOLDER]
"""

import sys
from pathlib import Path

import fathom
from fathom.demo import photo_path
from fathom.io import read_image
from fathom.outputs import write_outputs

photo = sys.argv[1] if len(sys.argv) > 1 else photo_path("astronaut")
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "out")

picture = read_image(photo)
depth = fathom.predict(picture, model="fathom-indoor")
print(f"the middle of the picture is {depth.values[depth.height // 2, depth.width // 2]:.2f} m away")
print("focal length:", depth.camera.focal_source)
for path in write_outputs(depth, picture, folder / "photo_metric", ["png16", "ply"]):
    print("wrote", path)

relative = fathom.predict(picture, model="fathom-general")
try:
    relative.points()
except fathom.FathomError as error:
    print("as it should be:", error)
print("with two known distances:", relative.calibrated(scale=0.4, shift=0.3).to_metric_depth())
