"""The nano pack's segmenter, from nothing to the pack's folder:

    python -m training.sam --data SHARED/data --out RUN --pack models/nano/sam

Takes up where it stopped. The held-out photos are opened by `evaluate.py` only.
"""

import argparse
import os

from training import steps


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for k in ("data", "out", "pack"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--minutes", type=float, default=75)
    o = p.parse_args()
    os.environ["RIVEG_SHARED"] = os.path.dirname(os.path.abspath(o.data))
    steps.run(os.path.dirname(os.path.abspath(__file__)), [
        (None, "train.py", "--out", o.out, "--minutes", o.minutes),
        (None, "evaluate.py", "--run", o.out, "--pack", o.pack),
        (None, "calibrate.py", "--pack", o.pack),
        (None, "evaluate.py", "--pack", o.pack),
    ])


if __name__ == "__main__":
    main()
