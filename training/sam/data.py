"""Pictures with instance masks, and the augmentation that makes training samples of them."""
import json
import os
import zlib
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageEnhance
from pycocotools import mask as coco_mask

WORK_SIDE = 384  # pictures are kept at most this long; the network sees 320 at most
SETS = {"coco_mini": 0.5, "street_fashion": 0.2, "human_masks": 0.15, "street_scenes": 0.15}


@dataclass
class Photo:
    source: str
    name: str
    rgb: np.ndarray  # [h, w, 3] u8
    masks: list  # compressed RLE at the size of rgb
    boxes: list  # x1 y1 x2 y2 as annotated, in pixels of rgb
    clean: list  # whether the mask is of one complete thing, fit to be pasted elsewhere


def shared():
    return os.environ.get("RIVEG_SHARED", os.path.join(os.path.dirname(__file__), "../../../shared"))


# Training photos of which a held-out one is nearly a copy: another frame of its film, another shot of its person.
NEAR_COPIES = ("mvi_0004__frame_00016", "ccp_0594")


@cache
def demo_photos():
    """Names of the photos that the whole pipeline is tried with; some of them are in COCO's train split."""
    with open(os.path.join(shared(), "data/demo_photos/manifest.json")) as f:
        return {entry["file"].removeprefix("coco_") for entry in json.load(f)}


def part_of(image):
    """"train", "calibration" (every 16th photo that could be trained on), "heldout", or "left out"."""
    if image.get("split", image.get("coco_split")) not in ("train", "train2017"):
        return "heldout"
    if image["file_name"] in demo_photos() or any(name in image["file_name"] for name in NEAR_COPIES):
        return "left out"
    return "calibration" if zlib.crc32(image["file_name"].encode()) % 16 == 0 else "train"


def rle_of(segmentation, height, width):
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *segmentation["size"])
    return segmentation


def load(source, part, work_side=WORK_SIDE):
    """The photos of one part of a set; crowds and things without a mask left out."""
    root = os.path.join(shared(), "data/photos", source)
    with open(os.path.join(root, "instances.json")) as f:
        data = json.load(f)
    names = {c["id"]: c["name"] for c in data["categories"]}
    by_image = {}
    for a in data["annotations"]:
        if a.get("segmentation") and not a.get("iscrowd"):
            by_image.setdefault(a["image_id"], []).append(a)
    photos = []
    for image in data["images"]:
        if part_of(image) != part or image["id"] not in by_image:
            continue
        picture = Image.open(os.path.join(root, "images", image["file_name"])).convert("RGB")
        w, h = picture.size
        scale = min(1.0, work_side / max(w, h)) if work_side else 1.0
        size = (max(1, round(w * scale)), max(1, round(h * scale)))
        photo = Photo(source, image["file_name"], None, [], [], [])
        for a in by_image[image["id"]]:
            rle = rle_of(a["segmentation"], h, w)
            if scale < 1.0:
                small = Image.fromarray(coco_mask.decode(rle) * 255).resize(size, Image.BILINEAR)
                rle = coco_mask.encode(np.asfortranarray((np.asarray(small) > 127).astype(np.uint8)))
            x, y, bw, bh = a["bbox"]
            photo.masks.append(rle)
            photo.boxes.append([v * scale for v in (x, y, x + bw, y + bh)])
            photo.clean.append(names[a["category_id"]] != "building" and not a.get("may_hold_several"))
        photo.rgb = np.asarray(picture.resize(size, Image.BILINEAR) if scale < 1.0 else picture)
        photos.append(photo)
    return photos


def resize_mask(mask, box, size):
    return np.asarray(Image.fromarray(mask * 255).resize(size, Image.BILINEAR, box=box)) > 127


class Sampler:
    """Draws augmented samples; everything random comes from the generator given to it."""

    def __init__(self, photos, side, prompts):
        self.photos, self.side, self.prompts = photos, side, prompts
        sources = [p.source for p in photos]
        weights = np.array([SETS[s] / sources.count(s) for s in sources])
        self.weights = weights / weights.sum()
        self.cutouts = [
            (i, j)
            for i, p in enumerate(photos)
            for j, m in enumerate(p.masks)
            if p.clean[j] and coco_mask.area(m) > 0.02 * p.rgb.shape[0] * p.rgb.shape[1]
        ]

    def crop(self, photo, rng):
        """A crop (x1, y1, x2, y2) around one instance, or the whole picture half of the time."""
        h, w = photo.rgb.shape[:2]
        if rng.random() < 0.5:
            return (0, 0, w, h)
        x1, y1, x2, y2 = photo.boxes[rng.integers(len(photo.boxes))]
        area = rng.uniform(0.2, 1.0) * w * h
        aspect = w / h * np.exp(rng.uniform(-0.4, 0.4))
        cw = min(w, max(np.sqrt(area * aspect), 48))
        ch = min(h, max(np.sqrt(area / aspect), 48))
        left = np.clip(rng.uniform(x1, max(x2, x1 + 1)) - cw * rng.random(), 0, w - cw)
        top = np.clip(rng.uniform(y1, max(y2, y1 + 1)) - ch * rng.random(), 0, h - ch)
        return (left, top, left + cw, top + ch)

    def paste(self, rgb, masks, rng):
        """Pastes another photo's thing over the picture and takes it away from the masks below."""
        i, j = self.cutouts[rng.integers(len(self.cutouts))]
        photo = self.photos[i]
        x, y, w, h = (int(v) for v in coco_mask.toBbox(photo.masks[j]))
        if w < 8 or h < 8:
            return rgb, masks
        mask = coco_mask.decode(photo.masks[j])[y : y + h, x : x + w]
        piece = Image.fromarray(photo.rgb[y : y + h, x : x + w])
        big_h, big_w = rgb.shape[:2]
        scale = rng.uniform(0.25, 0.95) * min(big_h / h, big_w / w)
        size = (max(8, round(w * scale)), max(8, round(h * scale)))
        piece = np.asarray(self.colour(piece.resize(size, Image.BILINEAR), rng, 0.2))
        soft = np.asarray(Image.fromarray(mask * 255).resize(size, Image.BILINEAR))
        if rng.random() < 0.5:
            piece, soft = piece[:, ::-1], soft[:, ::-1]
        left = rng.integers(0, max(1, big_w - size[0] + 1))
        top = rng.integers(0, max(1, big_h - size[1] + 1))
        piece, soft = piece[: big_h - top, : big_w - left], soft[: big_h - top, : big_w - left]
        view = (slice(top, top + soft.shape[0]), slice(left, left + soft.shape[1]))
        alpha = soft[..., None].astype(np.float32) / 255
        rgb[view] = (rgb[view] * (1 - alpha) + piece * alpha).astype(np.uint8)
        pasted = np.zeros(rgb.shape[:2], bool)
        pasted[view] = soft > 127
        return rgb, [m & ~pasted for m in masks] + [pasted]

    @staticmethod
    def colour(picture, rng, strength=0.4):
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = enhancer(picture).enhance(rng.uniform(1 - strength, 1 + strength))
        return picture

    def sample(self, rng):
        """rgb [h, w, 3] u8 with long side `side`, (w, h), and one to `prompts` masks [h, w]."""
        while True:
            rgb, size, masks = self.augmented(rng)
            if chosen := self.choose(masks, rng):
                return rgb, size, chosen

    def augmented(self, rng):
        photo = self.photos[rng.choice(len(self.photos), p=self.weights)]
        box = self.crop(photo, rng)
        w, h = box[2] - box[0], box[3] - box[1]
        w *= np.exp(rng.uniform(-0.15, 0.15))
        scale = self.side / max(w, h)
        size = (max(16, round(w * scale)), max(16, round(h * scale)))
        picture = Image.fromarray(photo.rgb)
        if rng.random() < 0.2:  # a softer picture, as phones and thumbnails give
            soft = rng.uniform(0.4, 0.9)
            picture = picture.resize([max(8, round(s * soft)) for s in picture.size], Image.BILINEAR)
            picture = picture.resize((photo.rgb.shape[1], photo.rgb.shape[0]), Image.BILINEAR)
        rgb = np.asarray(self.colour(picture.resize(size, Image.BILINEAR, box=box), rng)).copy()
        masks = [resize_mask(coco_mask.decode(m), box, size) for m in photo.masks]
        if rng.random() < 0.5:
            rgb, masks = rgb[:, ::-1].copy(), [m[:, ::-1] for m in masks]
        if rng.random() < 0.6:
            for _ in range(rng.integers(1, 4)):
                rgb, masks = self.paste(rgb, masks, rng)
        if rng.random() < 0.05:
            rgb = np.repeat(rgb.mean(2, keepdims=True), 3, 2).astype(np.uint8)
        return rgb, size, masks

    def choose(self, masks, rng):
        """At most `prompts` of the masks with enough visible area, large ones more often."""
        areas = np.array([m.sum() for m in masks], float)
        keep = np.flatnonzero(areas > 0.004 * self.side**2)
        if len(keep) > self.prompts:
            weight = np.sqrt(areas[keep])
            keep = rng.choice(keep, self.prompts, replace=False, p=weight / weight.sum())
        return [masks[i] for i in keep]


def jittered_box(mask, rng):
    """The mask's box; most often with its corners off by some per cent, as detectors give them."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x1, y1, x2, y2 = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
    box = np.array([x1, y1, x2, y2], np.float32)
    if rng.random() < 0.6:
        std = np.array([x2 - x1, y2 - y1] * 2) * rng.choice([0.04, 0.1])
        box += np.clip(rng.normal(size=4) * std, -20, 20)
        box = np.array([min(box[0], x2 - 2), min(box[1], y2 - 2), max(box[2], x1 + 2), max(box[3], y1 + 2)])
        box = np.clip(box, 0, [mask.shape[1], mask.shape[0]] * 2)
    return box.astype(np.float32)


def inner_point(mask, rng):
    """A random pixel of the mask, (x, y)."""
    ys, xs = np.nonzero(mask)
    i = rng.integers(len(xs))
    return np.array([xs[i], ys[i]], np.float32)
