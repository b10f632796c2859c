"""Predict one photo, look at the result, and save it.

python examples/predict_one_photo.py [PHOTO] [FOLDER]
"""

import sys
from pathlib import Path

import fathom
from fathom.demo import photo_path
from fathom.io import read_depth, write_depth

photo = sys.argv[1] if len(sys.argv) > 1 else photo_path("coffee")
folder = Path(sys.argv[2] if len(sys.argv) > 2 else "out")

depth = fathom.predict(photo)
print(depth)
print("larger is nearer:", depth.larger_is_nearer)

for path in write_depth(depth, folder / "photo.npz"):
    print("wrote", path)
assert read_depth(folder / "photo.npz") == depth
