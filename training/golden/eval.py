"""Golden figures for tests/golden_eval.rs: what seqeval and pycocotools say about random tags, boxes and masks.

python training/golden/eval.py      (writes tests/golden/eval/expected.json)
"""
import json
import os
import random

import numpy as np
from pycocotools import mask as coco_mask
from seqeval.metrics import f1_score, precision_score, recall_score

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
TAGS = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-OTHER", "I-OTHER"]


def tags(rng):
    """Random tags, illegal ones among them: an I may follow anything."""
    gold = [[rng.choice(TAGS) for _ in range(rng.randrange(1, 14))] for _ in range(60)]
    predicted = [[t if rng.random() < 0.8 else rng.choice(TAGS) for t in row] for row in gold]
    figures = {"precision": precision_score(gold, predicted), "recall": recall_score(gold, predicted), "f1": f1_score(gold, predicted)}
    return {"gold": gold, "predicted": predicted, **figures}


def boxes(rng):
    """Pairs of boxes x1 y1 x2 y2 and their IoU; some touch, some lie apart."""
    rows = []
    for _ in range(40):
        a, b = ([rng.randrange(0, 60), rng.randrange(0, 60), rng.randrange(1, 60), rng.randrange(1, 60)] for _ in range(2))
        iou = float(coco_mask.iou([a], [b], [0])[0, 0])
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a, b)]
        rows.append({"a": corners[0], "b": corners[1], "iou": iou})
    return rows


def polygons(rng):
    """Polygons, the mask that pycocotools draws of them, and its IoU with the one before."""
    rows, last = [], None
    for _ in range(20):
        outlines = [[round(rng.uniform(-3, 43), 1) for _ in range(2 * rng.randrange(3, 8))] for _ in range(rng.randrange(1, 3))]
        mask = coco_mask.merge(coco_mask.frPyObjects(outlines, 30, 40))
        iou = float(coco_mask.iou([mask], [last], [0])[0, 0]) if last else None
        rows.append({"outlines": outlines, "counts": mask["counts"].decode(), "iou_with_last": iou})
        last = mask
    return rows


def main():
    rng = random.Random(11)
    np.random.seed(0)
    folder = os.path.join(ROOT, "tests/golden/eval")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump({"tags": tags(rng), "boxes": boxes(rng), "polygons": polygons(rng)}, f)
        f.write("\n")


if __name__ == "__main__":
    main()
