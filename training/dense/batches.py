"""Training batches: augmented pictures, the expressions of the step, and where each is to be found."""

import random

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer

import phrases

NAME, TAIL, STRIDE = 16, 12, 8
TYPES = ["PER", "LOC", "ORG", "MISC"]
SURE = 0.45
OFTEN = {"bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "bird", "cat", "dog", "horse", "sheep",
         "cow", "elephant", "bear", "zebra", "giraffe", "bottle", "cup", "cell phone", "laptop", "tv", "pizza", "cake",
         "sports ball", "teddy bear", "umbrella", "surfboard", "skateboard", "tennis racket"}


class Encoder:
    """Expression -> (ids, position, segment, type): the name's and the expansion's word pieces."""

    def __init__(self, file, name=NAME, tail=TAIL):
        self.name, self.tail = name, tail
        self.tok = Tokenizer.from_file(file)
        self.tok.no_truncation()
        self.tok.no_padding()

    def __call__(self, text):
        name, tail, kind = "", text, 4
        at = [(text.rfind(f"({t})-"), i) for i, t in enumerate(TYPES)]
        best = max(at)
        if best[0] >= 0:
            kind = best[1]
            name, tail = text[:best[0]], text[best[0] + len(TYPES[kind]) + 3:]
        a = self.tok.encode(name, add_special_tokens=False).ids[:self.name]
        b = self.tok.encode(tail, add_special_tokens=False).ids[:self.tail]
        ids = a + b
        pos = list(range(len(a))) + [self.name + i for i in range(len(b))]
        if not ids:
            ids, pos = [self.tok.token_to_id("[UNK]")], [self.name]
        return ids, pos, kind

    def batch(self, texts):
        rows = [self(t) for t in texts]
        width = max(len(r[0]) for r in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        pos = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, (a, b, _) in enumerate(rows):
            ids[i, :len(a)], pos[i, :len(a)], mask[i, :len(a)] = torch.tensor(a), torch.tensor(b), True
        return ids, pos, mask, torch.tensor([r[2] for r in rows])


def instances(photo):
    """Rows (x1, y1, x2, y2, class, score, gold) of a photo: gold where there is, else the teacher's."""
    rows = [(*g[:4], g[4], 1.0) for g in photo["gold"]]
    gold = {g[4] for g in photo["gold"]} | set(photo["full"])
    if photo["set"] in ("street_fashion",):
        gold |= {"person"}
    rows += [tuple(p) for p in photo["pseudo"] if p[4] not in gold]
    return rows


def colour(rng, rgb):
    x = rgb.astype(np.float32)
    if rng.random() < 0.8:
        x = x * rng.uniform(0.65, 1.4)
        x = (x - x.mean()) * rng.uniform(0.7, 1.35) + x.mean()
        grey = x.mean(2, keepdims=True)
        x = grey + (x - grey) * (0.0 if rng.random() < 0.06 else rng.uniform(0.5, 1.5))
        x = x * np.array([rng.uniform(0.9, 1.1) for _ in range(3)], np.float32)
    return np.clip(x, 0, 255).astype(np.uint8)


def cut(rng, photo, w, h, tame):
    """A random crop of a photo at w×h, its instances and the part of it that stayed."""
    ih, iw = photo["rgb"].shape[:2]
    if tame:
        fw, fh = rng.uniform(0.8, 1.0), rng.uniform(0.8, 1.0)
    else:
        s = rng.uniform(0.35, 1.0)
        r = np.exp(rng.uniform(-0.3, 0.3))
        fw, fh = min(1.0, np.sqrt(s) * r), min(1.0, np.sqrt(s) / r)
    x0, y0 = rng.uniform(0, 1 - fw), rng.uniform(0, 1 - fh)
    px, py = int(x0 * iw), int(y0 * ih)
    pw, ph = max(2, int(fw * iw)), max(2, int(fh * ih))
    x0, y0, fw, fh = px / iw, py / ih, pw / iw, ph / ih
    crop = photo["rgb"][py:py + ph, px:px + pw]
    shrinks = pw > w
    out = cv2.resize(crop, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    flip = rng.random() < 0.5
    if flip:
        out = out[:, ::-1]
    rows = []
    for x1, y1, x2, y2, c, s in instances(photo):
        x1, x2, y1, y2 = (x1 - x0) / fw, (x2 - x0) / fw, (y1 - y0) / fh, (y2 - y0) / fh
        if flip:
            x1, x2 = 1 - x2, 1 - x1
        a = (x2 - x1) * (y2 - y1)
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, 1), min(y2, 1)
        if x2 - x1 <= 0.01 or y2 - y1 <= 0.01:
            continue
        seen = (x2 - x1) * (y2 - y1) / max(a, 1e-9)
        if c != "building" and seen < 0.3:
            s = min(s, 0.3)  # too little of it left: neither shown nor absent
        rows.append((x1, y1, x2, y2, c, s))
    return colour(rng, out), rows, fw * fh


def paste(rng, rgb, rows, classes, cutouts):
    """Pastes one or two masked instances; what they cover by more than half is neither shown nor absent any more."""
    n = rgb.shape[0]
    for _ in range(rng.choice((1, 1, 2))):
        c = rng.choice(classes)
        piece = rng.choice(cutouts[c])
        h, w = piece.shape[:2]
        long = n * np.exp(rng.uniform(np.log(0.2), np.log(0.8)))
        stretch = np.exp(rng.uniform(-0.15, 0.15))
        pw, ph = (max(8, min(n, int(side * long / max(w, h) * k))) for side, k in ((w, stretch), (h, 1 / stretch)))
        piece = cv2.resize(piece, (pw, ph), interpolation=cv2.INTER_AREA if pw < w else cv2.INTER_LINEAR)
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        x, y = rng.randint(0, n - pw), rng.randint(0, n - ph)
        alpha = piece[..., 3:].astype(np.float32) / 255
        there = rgb[y:y + ph, x:x + pw]
        rgb[y:y + ph, x:x + pw] = (there * (1 - alpha) + colour(rng, piece[..., :3]) * alpha).astype(np.uint8)
        x1, y1, x2, y2 = x / n, y / n, (x + pw) / n, (y + ph) / n
        rows[:] = [(*r[:5], min(r[5], 0.3)) if hidden(r, (x1, y1, x2, y2)) > 0.5 else r for r in rows]
        rows.append((x1, y1, x2, y2, c, 1.0))


def hidden(row, box):
    """The share of a row that a box covers."""
    w, h = min(row[2], box[2]) - max(row[0], box[0]), min(row[3], box[3]) - max(row[1], box[1])
    return max(w, 0) * max(h, 0) / max((row[2] - row[0]) * (row[3] - row[1]), 1e-9)


class Batches(torch.utils.data.IterableDataset):
    def __init__(self, cache, names, tokenizer, seed, size, count):
        self.cutouts, self.pasted = cache["cutouts"], sorted(cache["cutouts"])
        # Things come as often as they differ; persons are in most photos already.
        self.pasted = [c for c in self.pasted for _ in range(min(6, len(self.cutouts[c])))]
        self.coco, self.photos = cache["coco"], [p for p in cache["photos"] if p["split"] == "train"]
        self.names, self.encoder = names, Encoder(tokenizer)
        self.seed, self.size, self.count = seed, size, count
        weight = {"coco_mini": 8.0, "people_boxes": 1.5, "imagenet_sample": 1.0, "mvsa_tweets": 0.8, "flickr_logos27": 0.5,
                  "street_scenes": 0.9, "street_fashion": 0.6, "caltech": 1.2, "clothing_items": 0.5, "human_masks": 0.9, "sports_celebs": 0.6}
        self.weights = np.cumsum([weight[p["set"]] * self.worth(p) for p in self.photos])
        self.brands = sorted({c[5:] for p in self.photos for c in p["labels"] if c.startswith("logo:")})
        extra = {c for p in self.photos for c in p["labels"] if p["set"] in ("imagenet_sample", "caltech")}
        self.extra = sorted(extra - set(self.coco) - {"person"})
        self.labelled = set(self.extra)

    def worth(self, photo):
        """Photos that show what people write about come more often, photos that show nothing known less."""
        large = {r[4] for r in instances(photo) if r[5] >= SURE and (r[2] - r[0]) * (r[3] - r[1]) > 0.04}
        if large & OFTEN and photo["set"] != "flickr_logos27":
            return 3.0
        return 1.0 if large or photo["set"] == "coco_mini" else 0.4

    def __iter__(self):
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        rng = random.Random(self.seed + (info.id if info else 0) * 7919)
        np.random.seed(rng.randrange(1 << 30))
        while True:
            yield self.batch(rng)

    def photo(self, rng):
        return self.photos[int(np.searchsorted(self.weights, rng.random() * self.weights[-1]))]

    def sample(self, rng):
        """One picture: rgb, instances, and its parts [(photo, x1, y1, x2, y2, share left)]."""
        n = self.size
        if rng.random() < 0.3:
            out = np.empty((n, n, 3), np.uint8)
            cx, cy = int(n * rng.uniform(0.3, 0.7)), int(n * rng.uniform(0.3, 0.7))
            rows, parts = [], []
            for x1, y1, x2, y2 in ((0, 0, cx, cy), (cx, 0, n, cy), (0, cy, cx, n), (cx, cy, n, n)):
                p = self.photo(rng)
                rgb, part, left = cut(rng, p, x2 - x1, y2 - y1, p["labels"] and not p["gold"])
                out[y1:y2, x1:x2] = rgb
                rows += [((a * (x2 - x1) + x1) / n, (b * (y2 - y1) + y1) / n, (c * (x2 - x1) + x1) / n,
                          (d * (y2 - y1) + y1) / n, k, s) for a, b, c, d, k, s in part]
                parts.append((p, x1 / n, y1 / n, x2 / n, y2 / n, left))
            return out, rows, parts
        p = self.photo(rng)
        rgb, rows, left = cut(rng, p, n, n, rng.random() < 0.35 or (p["labels"] and not p["gold"]))
        if rng.random() < 0.55:
            rgb = np.ascontiguousarray(rgb)
            paste(rng, rgb, rows, self.pasted, self.cutouts)
        return rgb, rows, [(p, 0.0, 0.0, 1.0, 1.0, left)]

    def absent(self, c, parts):
        """How sure it is (0..1) that a class without any instance row is absent from all parts."""
        sure = 1.0
        for p, *_ in parts:
            if c in p["labels"]:
                return 0.0
            if c in p["full"]:
                continue
            if c in self.coco:
                sure = min(sure, 0.6 if p["set"] != "street_fashion" or c != "person" else 0.0)
            elif c.startswith("logo:"):
                sure = min(sure, 1.0 if p["set"] == "flickr_logos27" else 0.5)
            elif c in ("building", "door", "window"):
                sure = min(sure, 0.5 if p["set"] in ("imagenet_sample", "clothing_items", "flickr_logos27") else 0.0)
            elif c in self.labelled:
                sure = min(sure, 0.6 if p["set"] in ("imagenet_sample", "caltech", "street_fashion", "people_boxes") else 0.2)
            else:
                sure = min(sure, 0.8 if p["set"] in ("street_fashion", "imagenet_sample") else 0.0)
        return sure

    def batch(self, rng):
        samples = [self.sample(rng) for _ in range(self.count)]
        here = {c for _, _, parts in samples for p, *_ in parts for c in p["labels"]}
        labels = [c for c in here if c in self.labelled]
        rng.shuffle(labels)
        logos = [c[5:] for c in here if c.startswith("logo:")]
        rng.shuffle(logos)
        labels = labels[:6] + rng.sample(self.extra, 2)
        boxed = {r[4] for _, rows, _ in samples for r in rows if r[5] >= 0.3}
        coco = [c for c in self.coco if c in boxed or rng.random() < 0.35]
        said = phrases.step(rng, self.names, coco, labels, logos[:3] + [rng.choice(self.brands)])
        g, b, n = self.size // STRIDE, self.count, len(said)
        target = np.zeros((b, n, g, g), np.uint8)
        weight = np.zeros((b, n, g, g), np.uint8)
        region = np.zeros((b, n, g, g), bool)
        shown = np.zeros((b, n), np.float32)
        shown_w = np.zeros((b, n), np.float32)
        place_w = np.zeros((b, n), np.float32)
        largest = np.zeros((b, n, 4), np.float32)
        for i, (_, rows, parts) in enumerate(samples):
            by_class = {}
            for r in rows:
                by_class.setdefault(r[4], []).append(r)
            sure = {}
            for k, ph in enumerate(said):
                mine = [r for c in ph.classes for r in by_class.get(c, ())]
                if not mine:
                    s = 1.0
                    for c in ph.classes:
                        if c not in sure:
                            sure[c] = self.absent(c, parts)
                        s = min(s, sure[c])
                    weight[i, k] = int(255 * s)
                    shown_w[i, k] = s
                    if not ph.classes:
                        shown[i, k] = 0.03
                    boxes = [q[1:5] for q in parts if ph.classes & set(q[0]["labels"])]
                    if boxes and "person" not in ph.classes:
                        shown[i, k], shown_w[i, k] = 1.0, 1.0
                        for x1, y1, x2, y2 in boxes:
                            region[i, k, int(y1 * g):int(np.ceil(y2 * g)), int(x1 * g):int(np.ceil(x2 * g))] = True
                        place_w[i, k] = 0.5
                    continue
                self.draw(g, mine, ph, target[i, k], weight[i, k], region[i, k])
                best = max(mine, key=lambda r: (r[5] >= SURE) * 10 + (r[2] - r[0]) * (r[3] - r[1]))
                area = (best[2] - best[0]) * (best[3] - best[1])
                if best[5] >= SURE and area > 0.002:
                    shown[i, k], shown_w[i, k] = ph.shown, min(1.0, best[5] + 0.2) * (1.0 if area > 0.006 else 0.4)
                    place_w[i, k] = ph.place * min(1.0, best[5] + 0.2)
                    largest[i, k] = best[:4]
        rgb = np.ascontiguousarray(np.stack([s[0] for s in samples]))
        tokens = self.encoder.batch([ph.text for ph in said])
        arrays = (rgb, target, weight, region, shown, shown_w, place_w, largest)
        return tokens, [torch.from_numpy(a) for a in arrays]

    @staticmethod
    def draw(g, rows, phrase, target, weight, region):
        """Centre regions are positive, the rest of a box is left open, everything else is negative."""
        weight[:] = 255
        sure = [r for r in rows if r[5] >= SURE]
        top = max(((r[2] - r[0]) * (r[3] - r[1]) for r in sure), default=0)
        cells = []
        for x1, y1, x2, y2, _, s in rows:
            weight[int(y1 * g):int(np.ceil(y2 * g)), int(x1 * g):int(np.ceil(x2 * g))] = 0
            if s >= SURE:
                cx, cy, hw, hh = (x1 + x2) / 2 * g, (y1 + y2) / 2 * g, (x2 - x1) * g * 0.22, (y2 - y1) * g * 0.22
                a, b = int(min(max(round(cy - hh), 0), g - 1)), int(min(max(round(cx - hw), 0), g - 1))
                c, d = max(a + 1, int(round(cy + hh))), max(b + 1, int(round(cx + hw)))
                cells.append((a, b, c, d, s, (x2 - x1) * (y2 - y1) >= 0.85 * top))
        for a, b, c, d, s, is_top in cells:
            target[a:c, b:d] = int(255 * min(1.0, s + 0.2) * phrase.shown)
            weight[a:c, b:d] = int(255 * max(phrase.place, 0.4))
            if is_top:
                region[a:c, b:d] = True
