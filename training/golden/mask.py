"""Golden files for tests/golden_mask.rs: what pycocotools and torch make of masks.

    python training/golden/mask.py

Needs torch, numpy, pycocotools, safetensors. Writes tests/golden/mask/rle.json (masks as
pycocotools encodes them, with area, box and IoU) and tests/golden/mask/logits.safetensors (logits
on a grid, and the mask that the original SAM's two interpolations make of them).
"""

import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).parents[2] / "tests" / "golden" / "mask"

# grid, frame, resized (width, height), original (width, height)
UPSCALES = [
    (64, 256, (256, 192), (200, 150)),
    (64, 256, (171, 256), (342, 512)),
    (64, 256, (256, 192), (256, 192)),
    (64, 256, (256, 1), (1200, 3)),
    (32, 128, (128, 128), (1, 1)),
    (32, 128, (85, 128), (17, 25)),
    (256, 1024, (1024, 683), (600, 400)),
    (48, 100, (100, 61), (333, 203)),
]


def smooth(shape, generator, scale):
    """Random values that vary over about `scale` pixels."""
    height, width = shape
    coarse = torch.randn(1, 1, max(2, height // scale), max(2, width // scale), generator=generator)
    return F.interpolate(coarse, shape, mode="bicubic", align_corners=False)[0, 0]


def masks():
    generator = torch.Generator().manual_seed(7)
    for width, height in [(1, 1), (7, 5), (64, 48), (333, 203), (9, 700)]:
        yield np.zeros((height, width), np.uint8)
        yield np.ones((height, width), np.uint8)
        yield (smooth((height, width), generator, 12) > 0).numpy().astype(np.uint8)
        yield (torch.rand(height, width, generator=generator) < 0.2).numpy().astype(np.uint8)


def rles():
    cases, before = [], None
    for mask in masks():
        rle = coco.encode(np.asfortranarray(mask))
        # A smooth or sparse large mask is stated by its runs alone.
        columns = mask.T.reshape(-1)
        changes = np.flatnonzero(np.diff(np.concatenate([[0], columns]))).tolist()
        runs = np.diff([0] + changes + [columns.size]).tolist()
        case = {
            "size": rle["size"],
            "runs": runs,
            "counts": rle["counts"].decode(),
            "area": int(coco.area(rle)),
            "bbox": coco.toBbox(rle).tolist(),
        }
        if before is not None and before["size"] == rle["size"]:
            case["iou_with_previous"] = float(coco.iou([rle], [before], [0])[0, 0])
        before = rle
        cases.append(case)
    return cases


def upscaled(logits, frame, resized, original):
    """As `postprocess_masks` of the original SAM, then its threshold."""
    masks = F.interpolate(logits[None, None], (frame, frame), mode="bilinear", align_corners=False)
    masks = masks[..., : resized[1], : resized[0]]
    masks = F.interpolate(masks, (original[1], original[0]), mode="bilinear", align_corners=False)
    return (masks[0, 0] > 0).numpy().astype(np.uint8)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "rle.json").write_text(json.dumps(rles(), indent=0) + "\n")
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for index, (grid, frame, resized, original) in enumerate(UPSCALES):
        noise = torch.randn(grid, grid, generator=generator)
        for kind, logits in [("smooth", 4 * smooth((grid, grid), generator, 8)), ("noise", noise)]:
            if kind == "noise" and grid == 256:
                continue
            mask = upscaled(logits, frame, resized, original)
            name = f"{index}-{kind}"
            tensors[f"{name}.frame"] = np.array([frame, *resized, *original], np.int64)
            tensors[f"{name}.logits"] = np.ascontiguousarray(logits.numpy())
            tensors[f"{name}.mask"] = np.packbits(mask.reshape(-1))
    save_file(tensors, OUT / "logits.safetensors")


if __name__ == "__main__":
    main()
