"""Which photo is for what: `train`; `dev`, on which every choice and calibration is made; `heldout`, opened once at
the end; and `dropped`, nearly a copy of a held-out or a dev photo (another frame, another size, another cut)."""

import zlib

import cv2
import numpy as np

DEV_EVERY, SIDE, ALIKE = 8, 16, 0.93


def is_dev(photo):
    """Every eighth training photo, by its name; those of COCO, which are few and which things are judged by, every fifth."""
    every = 5 if photo["set"] == "coco_mini" else DEV_EVERY
    return zlib.crc32(f"{photo['set']}/{photo['file']}".encode()) % every == 0


def thumbnails(photos):
    """Each photo as a grey picture of 16×16 with mean 0 and length 1 [n, 256]."""
    small = [cv2.resize(cv2.cvtColor(p["rgb"], cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in photos]
    x = np.stack(small).reshape(len(photos), -1).astype(np.float32)
    x -= x.mean(1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def alike(a, b):
    """For each row of `a` how much it resembles the most similar row of `b`, mirrored or not (-1..1)."""
    mirrored = b.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(len(b), -1)
    return np.maximum((a @ b.T).max(1), (a @ mirrored.T).max(1))


def assign(photos):
    """Fills in `split` of photos that are `train` or `heldout` so far."""
    seen = thumbnails(photos)
    part = np.array(["dev" if p["split"] == "train" and is_dev(p) else p["split"] for p in photos])
    for keep, lose in (("heldout", "dev"), ("heldout", "train"), ("dev", "train")):
        at = np.flatnonzero(part == lose)
        close = at[alike(seen[at], seen[part == keep]) > ALIKE]
        part[close] = "dropped"
    for p, name in zip(photos, part):
        p["split"] = str(name)
