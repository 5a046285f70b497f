"""Reads the photo sets into one cache: small uint8 pictures and what is known of each.

    python photos.py SHARED_DATA PSEUDO.json CACHE.pkl

Per photo: `rgb`, `set`, `split` (splits.py), `gold` [[x1, y1, x2, y2 (fractions), class]], `full` (classes
whose instances are all boxed: their absence is certain), `labels` (classes shown, place unknown), `pseudo`.
`cutouts`: by class, RGBA pictures of the training photos' masked instances, to paste onto others.
"""

import json
import os
import pickle
import sys
from collections import Counter

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import splits

SIDE = 320
GARMENTS = {"bag": "handbag", "hat": "hat", "glasses": "glasses", "hair": "hair", "dress": "dress",
            "jeans/pants": "pants", "skirt": "skirt", "coat/jacket": "coat", "shoes": "shoes"}
CALTECH = {"airplanes": "airplane", "dalmatian": "dog", "face": "person", "car_side": "car", "Motorbikes": "motorcycle",
           "cellphone": "cell phone", "soccer_ball": "sports ball", "electric_guitar": "guitar", "grand_piano": "piano",
           "stop_sign": "stop sign", "Leopards": "leopard", "dollar_bill": "dollar bill"}
CLOTHES = {"t-shirt": "shirt", "longsleeve": "shirt", "outwear": "coat"}


def name(dataset, label):
    """Our class name of a set's label."""
    if dataset == "flickr_logos27":
        return "logo:" + label
    if dataset == "street_fashion":
        return GARMENTS.get(label, label)
    if dataset == "caltech":
        return CALTECH.get(label, label)
    if dataset == "clothing_items":
        return CLOTHES.get(label, label)
    return label


def known(dataset, image, coco):
    """Classes that are boxed exhaustively on this photo, and classes shown somewhere."""
    if dataset == "coco_mini":
        return list(coco), []
    if dataset == "people_boxes":
        return ["person"], []
    if dataset == "street_scenes":
        return ["building", "door", "window"], []
    if dataset == "caltech":
        skip = ("BACKGROUND_Google",)
        return [], [name(dataset, x) for x in image["labels"] if x not in skip]
    if dataset in ("imagenet_sample", "clothing_items"):
        return [], [name(dataset, x) for x in image["labels"]]
    if dataset == "flickr_logos27":
        return [], [name(dataset, x) for x in image["labels"]]
    if dataset in ("sports_celebs", "human_masks", "street_fashion"):
        return [], ["person"]
    return [], []


def cutout(rgb, annotation, w, h):
    """An instance alone on a transparent ground, or nothing where it is small or has no mask."""
    shape = annotation.get("segmentation")
    x, y, bw, bh = annotation["bbox"]
    if not shape or bw * bh < 0.02 * w * h or max(bw, bh) < 48:
        return None
    rle = coco_mask.frPyObjects(shape, h, w)
    mask = coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle) * 255
    small = np.array(Image.fromarray(mask).resize((rgb.shape[1], rgb.shape[0]), Image.BILINEAR))
    k = rgb.shape[1] / w
    x1, y1, x2, y2 = int(x * k), int(y * k), int(np.ceil((x + bw) * k)), int(np.ceil((y + bh) * k))
    return np.dstack([rgb[y1:y2, x1:x2], small[y1:y2, x1:x2]])


def main():
    data, pseudo_file, out = sys.argv[1:]
    pseudo = json.load(open(pseudo_file))
    demo = {e["file"].split("_")[1] for e in json.load(open(f"{data}/demo_photos/manifest.json"))}
    coco_json = json.load(open(f"{data}/photos/coco_mini/instances.json"))
    coco = [c["name"] for c in coco_json["categories"]]
    photos, pieces = [], []
    for dataset in sorted(os.listdir(f"{data}/photos")):
        j = json.load(open(f"{data}/photos/{dataset}/instances.json"))
        classes = {c["id"]: name(dataset, c["name"]) for c in j["categories"]}
        by_image = {}
        for a in j["annotations"]:
            by_image.setdefault(a["image_id"], []).append(a)
        for im in j["images"]:
            if im["file_name"] in demo:
                continue
            split = im.get("split") or ("heldout" if im["coco_split"] == "val2017" else "train")
            pil = Image.open(f"{data}/photos/{dataset}/images/{im['file_name']}").convert("RGB")
            w, h = im["width"], im["height"]
            k = SIDE / max(w, h)
            if k < 1:
                pil = pil.resize((max(1, round(w * k)), max(1, round(h * k))), Image.BILINEAR)
            rgb = np.array(pil)
            gold, crowd = [], set()
            for a in by_image.get(im["id"], []):
                c = classes[a["category_id"]]
                if a.get("iscrowd"):
                    crowd.add(c)
                    continue
                if dataset == "street_scenes" and c == "car":
                    continue
                if dataset == "human_masks" and a.get("may_hold_several"):
                    continue
                x, y, bw, bh = a["bbox"]
                gold.append([x / w, y / h, (x + bw) / w, (y + bh) / h, c])
                whole = split == "train" and (dataset == "coco_mini" or c == "person")
                if whole and (piece := cutout(rgb, a, w, h)) is not None:
                    pieces.append((len(photos), c, piece))
            full, labels = known(dataset, im, coco)
            rows = [r[:4] + [coco[r[4]], r[5]] for r in pseudo[f"{dataset}/{im['file_name']}"]]
            photos.append({"set": dataset, "file": im["file_name"], "split": split, "rgb": rgb,
                           "size": (w, h), "gold": gold, "full": [c for c in full if c not in crowd],
                           "labels": labels, "pseudo": rows, "names": im["labels"][1:] if dataset == "sports_celebs" else []})
    splits.assign(photos)
    cutouts = {}
    for at, c, piece in pieces:
        if photos[at]["split"] == "train":
            cutouts.setdefault(c, []).append(piece)
    pickle.dump({"coco": coco, "photos": photos, "cutouts": cutouts}, open(out, "wb"))
    print(sum(map(len, cutouts.values())), "cutouts of", len(cutouts), "classes")
    print(Counter(p["split"] for p in photos), sum(p["rgb"].nbytes for p in photos) >> 20, "MiB")


if __name__ == "__main__":
    main()
