"""The nano pack's entailer and grounder, from nothing to the pack's folder:

    python -m training.dense --data SHARED/data --out RUN --pack models/nano/dense

Takes up where it stopped. The held-out photos are opened by the last step only.
"""

import argparse
import os

from training import steps


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for k in ("data", "out", "pack"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--minutes", type=float, default=120)
    o = p.parse_args()
    os.makedirs(o.out, exist_ok=True)
    cache = f"{o.out}/cache.pkl"
    known = ("--data", o.data, "--cache", cache)
    steps.run(os.path.dirname(os.path.abspath(__file__)), [
        (f"{o.out}/words.npz", "words.py", f"{o.out}/words.npz"),
        (f"{o.out}/boxes.json", "pseudo.py", o.data, f"{o.out}/boxes.json"),
        (f"{o.out}/pseudo.json", "refine.py", o.data, f"{o.out}/boxes.json", f"{o.out}/pseudo.json"),
        (cache, "photos.py", o.data, f"{o.out}/pseudo.json", cache),
        (f"{o.out}/trained.pt", "train.py", *known, "--words", f"{o.out}/words.npz", "--out", o.out, "--minutes", o.minutes),
        (f"{o.out}/calibrated.pt", "calibrate.py", *known, "--run", o.out),
        (None, "export.py", f"{o.out}/calibrated.pt", o.pack),
        (None, "evaluate.py", *known, "--folder", o.pack, "--card"),
    ])


if __name__ == "__main__":
    main()
