"""Stage 1b: depth in metres for the labelled pictures of rooms, from a large metric network that was tuned on NYU.

    fathom train configs/fathom-indoor-large.yaml --set data.train.root=NYU --set data.val.root=NYU --out LARGE
    python training/embedded/metric.py --model LARGE --cache CACHE --out METRIC rooms

For each picture of CACHE/SOURCE, METRIC/SOURCE/STEM.npy holds log depth [ln m], float16, at half the picture's size:
the mean of the prediction and that of the mirrored picture. Pictures that are there already are skipped, and several
processes may share the work (`--part 0/2`, `--part 1/2`).
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from fathom.predict import Predictor


def main() -> None:
    """Label every picture of every source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: every N-th picture from the I-th on")
    parser.add_argument("sources", nargs="+")
    args = parser.parse_args()
    predictor = Predictor(args.model, num_threads=1)
    first, step = (int(number) for number in args.part.split("/"))
    count, start = 0, time.time()
    for name in args.sources:
        (args.out / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((args.cache / name).glob("*.npz"))[first::step]:
            target = args.out / name / f"{path.stem}.npy"
            if target.exists():
                continue
            image = np.load(path)["image"]
            plain = np.log(predictor.predict(image).values)
            mirrored = np.log(predictor.predict(np.ascontiguousarray(image[:, ::-1])).values)[:, ::-1]
            half = (image.shape[1] // 2, image.shape[0] // 2)
            mean = cv2.resize((plain + mirrored) / 2, half, interpolation=cv2.INTER_AREA)
            temporary = target.with_suffix(".tmp.npy")
            np.save(temporary, mean.astype(np.float16))
            temporary.rename(target)
            count += 1
            if count % 50 == 0:
                print(f"{count} labelled, {count / (time.time() - start):.2f} pictures/s, {name}", flush=True)


if __name__ == "__main__":
    main()
