"""A second opinion on the machine labels: an ImageNet classifier looks at the inside of each box that the detector
is unsure of. Boxes that it agrees with gain, boxes that it contradicts lose, animals may change their class.

    python refine.py SHARED_DATA PSEUDO.json OUT.json

How much to believe it was chosen on COCO's training photos; `python refine.py SHARED_DATA OUT.json` prints the
precision there by score, before and after.
"""

import json
import sys

import numpy as np
import torch
from PIL import Image

import model
import pretrained
import pseudo

# COCO class: ImageNet's numbers of what looks like it.
LOOKS = {
    "dog": range(151, 269), "cat": range(281, 286), "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "bear": range(294, 298), "zebra": [340], "elephant": [385, 386, 101], "horse": [339, 603], "cow": [345, 346, 347, 690],
    "sheep": [348, 349, 350], "car": [436, 468, 511, 581, 609, 627, 656, 661, 717, 751, 817, 479, 475],
    "bus": [654, 779, 874], "truck": [555, 569, 675, 717, 734, 864, 867, 407], "train": [466, 547, 705, 820, 829, 565],
    "airplane": [404, 895, 908], "boat": [403, 472, 484, 510, 554, 576, 625, 628, 780, 814, 833, 871, 914],
    "bicycle": [444, 671, 880], "motorcycle": [665, 670, 518], "bottle": [440, 720, 737, 898, 899, 901, 907],
    "cup": [504, 968, 967, 969, 438, 647], "wine glass": [441, 572, 966], "laptop": [620, 681], "tv": [527, 664, 782, 851, 598],
    "cell phone": [487, 590, 605], "keyboard": [508, 878, 810], "mouse": [673], "remote": [761], "clock": [409, 530, 892],
    "backpack": [414], "umbrella": [879], "handbag": [748, 636, 728], "tie": [906, 451, 457], "pizza": [963], "hot dog": [934],
    "sandwich": [933, 931], "banana": [954], "apple": [948], "orange": [950, 951], "broccoli": [937, 938], "cake": [927],
    "bowl": [659, 809, 926, 925], "toilet": [861], "sink": [896], "refrigerator": [760], "oven": [827, 766], "microwave": [651],
    "toaster": [859], "couch": [831], "bed": [564, 750, 520], "dining table": [532, 736], "chair": [423, 559, 765, 857],
    "bench": [703], "potted plant": [738], "vase": [883], "teddy bear": [850], "stop sign": [919], "traffic light": [920],
    "parking meter": [704], "sports ball": [429, 430, 574, 722, 768, 805, 852, 890], "skis": [795], "tennis racket": [752],
    "kite": [701, 417], "book": [917, 921, 624], "hair drier": [589], "giraffe": [], "surfboard": [], "frisbee": []}
ANIMALS = {"dog", "cat", "bird", "bear", "zebra", "elephant", "horse", "cow", "sheep"}
LEAST, AREA, MARGIN, SIDE = 0.25, 0.015, 0.12, 160
BATCH = 16  # always full: each new shape costs the convolutions a new plan


def crop(image, box):
    """The box with a margin, as a square picture."""
    w, h = image.size
    x1, y1, x2, y2 = box
    mx, my = (x2 - x1) * MARGIN, (y2 - y1) * MARGIN
    edges = [max(0, (x1 - mx) * w), max(0, (y1 - my) * h), min(w, (x2 + mx) * w), min(h, (y2 + my) * h)]
    return np.array(image.resize((SIDE, SIDE), Image.BILINEAR, box=edges))


def revise(row, share, coco):
    """One row [x1, y1, x2, y2, class, score] after the classifier's `share` of each class of LOOKS."""
    c, s = coco[row[4]], row[5]
    best = max(share, key=share.get)
    if best in ANIMALS and c in ANIMALS and best != c and share[best] > 0.6:
        return [*row[:4], coco.index(best), round(max(s, 0.5), 3)]
    if c not in share or not LOOKS[c]:
        return row
    p = share[c]
    if p > 0.5:
        s = max(s, 0.45 + 0.5 * p * min(1.0, s / 0.3))
    elif p > 0.25:
        s = max(s, 0.35 + 0.4 * p)
    elif p < 0.02:
        s = min(s, 0.3 if s < 0.6 else 0.5)
    return [*row[:5], round(min(s, 0.98), 3)]


def inside(a, b):
    """The overlap of two boxes as a share of the smaller."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    least = min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
    return max(w, 0.0) * max(h, 0.0) / max(least, 1e-9)


def settle(before, after):
    """A crop of half a dog is a dog, too: agreement counts for less than the detector's own doubt, and only for the
    best of the boxes that lie on one another."""
    rows = []
    for i, (old, new) in enumerate(zip(before, after)):
        s = new[5]
        if s > old[5]:
            better = [o for k, o in enumerate(before) if o[5] > old[5] and after[k][4] == new[4] and inside(o, old) > 0.5]
            s = 0.7 * old[5] if better else old[5] + 0.4 * (s - old[5])
        rows.append([*new[:5], round(s, 3)])
    return rows


def precision(data, table):
    j = json.load(open(f"{data}/photos/coco_mini/instances.json"))
    names = {c["id"]: c["name"] for c in j["categories"]}
    by = {}
    for a in j["annotations"]:
        by.setdefault(a["image_id"], []).append(a)
    bins = {}
    for im in j["images"]:
        if im["coco_split"] == "val2017":
            continue
        for *box, c, s in table[f"coco_mini/{im['file_name']}"]:
            if names[sorted(names)[c]] == "person" or (box[2] - box[0]) * (box[3] - box[1]) < AREA:
                continue
            gold = [[a["bbox"][0] / im["width"], a["bbox"][1] / im["height"], (a["bbox"][0] + a["bbox"][2]) / im["width"],
                     (a["bbox"][1] + a["bbox"][3]) / im["height"]] for a in by.get(im["id"], []) if names[a["category_id"]] == names[sorted(names)[c]]]
            bins.setdefault(min(int(s * 10), 9), []).append(any(pseudo.iou(box, g) > 0.5 for g in gold))
    for k in sorted(bins):
        print(f"score {k / 10:.1f}: {len(bins[k])} boxes, right {np.mean(bins[k]):.2f}")


def main():
    data, source = sys.argv[1:3]
    table, before = json.load(open(source)), json.load(open(source))
    if len(sys.argv) == 3:
        return precision(data, table)
    j = json.load(open(f"{data}/photos/coco_mini/instances.json"))
    coco = [c["name"] for c in j["categories"]]
    trunk = model.Trunk(model.CONFIG)
    model.pyramid.load_imagenet(trunk)
    run = pretrained.classifier(trunk.to(memory_format=torch.channels_last))
    members = torch.zeros(1000, len(LOOKS))
    for k, ids in enumerate(LOOKS.values()):
        members[list(ids), k] = 1
    waiting = []

    def decide():
        x = torch.zeros(BATCH, 3, SIDE, SIDE)
        x[:len(waiting)] = torch.from_numpy(np.stack([w[2] for w in waiting])).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.inference_mode():
            shares = run(x.contiguous(memory_format=torch.channels_last)).softmax(1) @ members
        for (rows, i, _), share in zip(waiting, shares.tolist()):
            rows[i] = revise(rows[i], dict(zip(LOOKS, share)), coco)
        waiting.clear()

    for n, (file, rows) in enumerate(table.items()):
        asked = [i for i, r in enumerate(rows) if coco[r[4]] in LOOKS and r[5] >= LEAST and (r[2] - r[0]) * (r[3] - r[1]) >= AREA]
        if asked:
            image = Image.open("{}/photos/{}/images/{}".format(data, *file.split("/", 1))).convert("RGB")
            for i in asked:
                waiting.append((rows, i, crop(image, rows[i][:4])))
                if len(waiting) == BATCH:
                    decide()
        if n % 500 == 0:
            print(n, len(table), flush=True)
    if waiting:
        decide()
    json.dump({file: settle(before[file], rows) for file, rows in table.items()}, open(sys.argv[3], "w"))


if __name__ == "__main__":
    main()
