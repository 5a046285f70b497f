"""The nano pack's tagger, from nothing to the pack's folder:

    python -m training.tagger --data SHARED/data --out RUN --pack models/nano/tagger

Takes up where it stopped. The test tweets are opened by the last step only.
"""

import argparse
import os

from training import steps


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for k in ("data", "out", "pack"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--minutes", type=float, default=65)
    o = p.parse_args()
    measure = ("evaluate.py", "--pack", o.pack, "--data", o.data, "--split")
    steps.run(os.path.dirname(os.path.abspath(__file__)), [
        (None, "train.py", "--data", o.data, "--out", o.out, "--minutes", o.minutes),
        (None, "export.py", "--run", o.out, "--out", o.pack),
        (None, *measure, "test"),
        (None, *measure, "test", "--knowledge"),
    ])


if __name__ == "__main__":
    main()
