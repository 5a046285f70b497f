"""The demo photos (never trained or tuned on): one question each, the box's overlap with COCO's instances.

    python demo.py SHARED_DATA models/nano/dense
"""

import json
import os
import sys

import numpy as np
import torch
from PIL import Image

import batches
import evaluate
import model

QUESTIONS = {
    "352257": [("Roger Federer (PER)-an athlete", "person")], "433998": [("Clayton Kershaw (PER)-an athlete", "person")],
    "174375": [("Rafael Nadal (PER)-an athlete", "person")], "319492": [("Maria Garcia (PER)-a person", "person")],
    "404484": [("Buddy (MISC)-an animal", "dog"), ("John (PER)-a person", "person")],
    "107438": [("Brompton (MISC)-a brand product", "bicycle")], "423617": [("SBS Transit bus (MISC)-a product", "bus")],
    "568290": [("Citaro (MISC)-a brand product", "bus")], "415748": [("Laxmi (MISC)-an animal", "elephant")],
    "418281": [("Bessie (MISC)-an animal", "cow")], "125870": [("Boeing 777 (MISC)-a brand product", "airplane")],
    "311303": [("Pepsi (MISC)-a brand product", "cup"), ("Pepsi (ORG)-a company", "cup")],
    "231460": [("Potsdamer Strasse (LOC)-a road", "stop sign")], "174632": [("LEGO (ORG)-a company", "dining table")]}
ABSENT = ["Berlin (LOC)-a city", "Zlatan (PER)-an athlete", "Boeing 777 (MISC)-a brand product", "Rex (MISC)-an animal"]


def main():
    data, folder = sys.argv[1:]
    torch.set_num_threads(1)
    net = evaluate.load(folder)
    encoder = batches.Encoder(f"{folder}/tokenizer.json")
    side, found = net.cfg["side"], 0
    for entry in json.load(open(f"{data}/demo_photos/manifest.json")):
        key, w, h = str(int(entry["file"].split("_")[1].split(".")[0])), entry["width"], entry["height"]
        image = Image.open(f"{data}/demo_photos/{entry['file']}").convert("RGB").resize((side, side), Image.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        asked = QUESTIONS[key]
        with torch.no_grad():
            boxes, score, shown = model.answer(net, x, encoder.batch([q for q, _ in asked] + ABSENT))
        good = False
        for i, (text, name) in enumerate(asked):
            box = [min(max(v, 0.0), 1.0) * s for v, s in zip(boxes[0, i].tolist(), (w, h, w, h))]
            rows = [o["bbox_xywh"] for o in entry["coco_instances"] if o["category"] == name]
            best = max(evaluate.overlap(box, (a, b, a + c, b + d)) for a, b, c, d in rows)
            good |= best > 0.5
            print(f"{key:>7} {text:38} {name:12} IoU {best:.2f} score {score[0, i]:.2f} shown {shown[0, i]:.2f}",
                  [round(v) for v in box], "| others:", " ".join(f"{v:.2f}" for v in shown[0, len(asked):]))
        found += good
    print(f"{found} of {len(QUESTIONS)} photos with IoU > 0.5")


if __name__ == "__main__":
    main()
