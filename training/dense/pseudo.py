"""Machine labels: the teacher's boxes on every photo, fused over scales and mirror images.

    python pseudo.py SHARED_DATA OUT.json

Writes `{"set/file": [[x1, y1, x2, y2, coco_class, score], …]}` with edges as fractions of the picture.
"""

import json
import os
import sys

import numpy as np
import torch
from PIL import Image

import teacher

VIEWS = [(352, False), (352, True), (256, False)]


def boxes(net, pictures, flip):
    """Decodes one view: per picture [n, 4] boxes, [n] class, [n] score, before fusion."""
    x = torch.stack(pictures)
    if flip:
        x = x.flip(3)
    with torch.inference_mode():
        _, obj, reg, cls = net(x.contiguous(memory_format=torch.channels_last))
    best, label = cls.max(1, keepdim=True)
    score = obj**0.6 * best**0.4
    h, w = score.shape[2:]
    gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    cx = (gx + reg[:, 0].tanh()) / w
    cy = (gy + reg[:, 1].tanh()) / h
    bw, bh = reg[:, 2].sigmoid(), reg[:, 3].sigmoid()
    if flip:
        cx = 1 - cx
    b = torch.stack([cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2], -1)
    out = []
    for i in range(len(pictures)):
        keep = score[i, 0] > 0.2
        out.append((b[i][keep].numpy(), label[i, 0][keep].numpy(), score[i, 0][keep].numpy()))
    return out


def iou(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def nms(b, c, s, limit):
    keep = []
    for row in sorted(zip(s.tolist(), c.tolist(), b.tolist()), reverse=True):
        if all(k[1] != row[1] or iou(k[2], row[2]) <= limit for k in keep):
            keep.append(row)
    return keep


def fuse(views):
    """Weighted box fusion: clusters by class and overlap; the score is the sum over views / views."""
    clusters = []
    for s, c, b, v in sorted(((*row, v) for v, rows in enumerate(views) for row in rows), reverse=True):
        best, at = 0.5, None
        for k in clusters:
            if k["c"] == c and v not in k["v"]:
                o = iou(k["b"], b)
                if o > best:
                    best, at = o, k
        if at is None:
            clusters.append({"c": c, "b": b, "w": s, "v": {v}})
        else:
            at["b"] = [(x * at["w"] + y * s) / (at["w"] + s) for x, y in zip(at["b"], b)]
            at["w"] += s
            at["v"].add(v)
    return [[round(min(max(t, 0.0), 1.0), 4) for t in k["b"]] + [k["c"], round(k["w"] / len(views), 3)]
            for k in clusters if k["w"] / len(views) > 0.15]


def main():
    data, out = sys.argv[1:]
    net = teacher.load(f"{data}/weights/fastestdet").to(memory_format=torch.channels_last)
    files = []
    for s in sorted(os.listdir(f"{data}/photos")):
        for im in json.load(open(f"{data}/photos/{s}/instances.json"))["images"]:
            files.append((s, im["file_name"]))
    result = {}
    for start in range(0, len(files), 8):
        part = files[start:start + 8]
        ims = [Image.open(f"{data}/photos/{s}/images/{f}").convert("RGB") for s, f in part]
        views = []
        for size, flip in VIEWS:
            xs = [torch.from_numpy(np.array(im.resize((size, size), Image.BILINEAR)))
                  .permute(2, 0, 1).flip(0).float() / 255 for im in ims]
            views.append([nms(*v, 0.45) for v in boxes(net, xs, flip)])
        for i, (s, f) in enumerate(part):
            result[f"{s}/{f}"] = fuse([v[i] for v in views])
        if start % 480 == 0:
            print(start, len(files), flush=True)
    json.dump(result, open(out, "w"))


if __name__ == "__main__":
    main()
