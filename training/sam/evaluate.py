"""Exports a run's averaged weights and reports them on photos that training never saw.

python training/sam/evaluate.py --run RUN --pack models/nano/sam     (export, then report)
python training/sam/calibrate.py --pack models/nano/sam          (fit the IoU head)
python training/sam/evaluate.py --pack models/nano/sam               (report only)

Gold boxes, whole pictures, the reference's own post-processing up to the picture's size; instances
over 2 % of the picture. Writes card.json beside the weights.
"""
import argparse
import json
import os
import shutil

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file

import data
from model import build, decode, pyramid, encode, load_config

HERE = os.path.dirname(os.path.abspath(__file__))


def export(run, config, pack):
    sam = build(load_config(config))
    sam.load_state_dict(torch.load(os.path.join(run, "last.pt"))["ema"])
    os.makedirs(pack, exist_ok=True)
    weights = {k: v.half() for k, v in pyramid.fold(sam).items()}
    save_file(weights, os.path.join(pack, "model.safetensors"))
    os.chmod(os.path.join(pack, "model.safetensors"), 0o644)
    shutil.copy(config, os.path.join(pack, "config.json"))


@torch.no_grad()
def predict(sam, rgb, boxes):
    """All mask tokens' logits at the picture's size [P, T, h, w] and predicted IoUs [P, T]."""
    side = sam.image_encoder.img_size
    h, w = rgb.shape[:2]
    scale = side / max(h, w)
    new_h, new_w = max(1, int(h * scale + 0.5)), max(1, int(w * scale + 0.5))
    small = np.asarray(Image.fromarray(rgb).resize((new_w, new_h), Image.BILINEAR)).copy()
    x = sam.preprocess(torch.from_numpy(small).permute(2, 0, 1).float()).unsqueeze(0)
    embedding, fine = encode(sam, x)
    scaled = torch.tensor(boxes, dtype=torch.float32) * torch.tensor([new_w / w, new_h / h] * 2)
    sparse = sam.prompt_encoder._embed_boxes(scaled)
    many = [part.expand(len(boxes), -1, -1, -1) for part in (embedding, *fine)]
    logits, iou = decode(sam, many[0], sparse, many[1:])
    return sam.postprocess_masks(logits, (new_h, new_w), (h, w)), iou


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 0.0


def figures(sam, source, limit):
    """Per instance: IoU of the single mask, of the best-predicted of three, of the filled box; and
    the predicted IoU of the single mask."""
    rows = []
    for photo in data.load(source, "heldout", work_side=None)[:limit]:
        h, w = photo.rgb.shape[:2]
        chosen = [i for i, m in enumerate(photo.masks) if coco_mask.area(m) > 0.02 * h * w]
        if not chosen:
            continue
        boxes = [photo.boxes[i] for i in chosen]
        logits, predicted = predict(sam, photo.rgb, boxes)
        for k, i in enumerate(chosen):
            gold = coco_mask.decode(photo.masks[i]).astype(bool)
            masks = (logits[k] > 0).numpy()
            filled = np.zeros_like(gold)
            x1, y1, x2, y2 = (int(round(v)) for v in boxes[k])
            filled[y1:y2, x1:x2] = True
            best = 1 + int(predicted[k, 1:].argmax())
            rows.append((iou(masks[0], gold), iou(masks[best], gold), iou(filled, gold), float(predicted[k, 0])))
    return np.array(rows)


def summary(rows):
    single, best, filled, predicted = rows.T
    clamped = predicted.clip(0, 1)
    bins = []
    for low in (0.0, 0.5, 0.6, 0.7, 0.8, 0.9):
        high = {0.0: 0.5}.get(low, low + 0.1) if low < 0.9 else 1.01
        inside = (clamped >= low) & (clamped < high)
        if inside.any():
            bins.append({"from": low, "to": min(round(high, 1), 1.0), "count": int(inside.sum()),
                         "mean_predicted": round(float(clamped[inside].mean()), 3),
                         "mean_actual": round(float(single[inside].mean()), 3)})
    correlation = float(np.corrcoef(clamped, single)[0, 1]) if len(rows) > 2 else None
    return {
        "instances": len(rows),
        "miou_single_mask": round(float(single.mean()), 4),
        "miou_best_predicted_of_three": round(float(best.mean()), 4),
        "miou_filled_box": round(float(filled.mean()), 4),
        "iou_over_0.5": round(float((single > 0.5).mean()), 4),
        "predicted_iou": {
            "mean": round(float(clamped.mean()), 4),
            "mean_absolute_error": round(float(np.abs(clamped - single).mean()), 4),
            "correlation_with_actual": None if correlation is None else round(correlation, 3),
            "bins": bins,
        },
    }


def provenance(args):
    """How the weights were made: told by the run, or by the card that is there."""
    path = os.path.join(args.run, "run.json") if args.run else os.path.join(args.pack, "card.json")
    with open(path) as f:
        told = json.load(f)
    return {key: told[key] for key in ("trained_on", "recipe", "steps") if key in told}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--run")
    p.add_argument("--config", default=os.path.join(HERE, "config.json"))
    p.add_argument("--pack", required=True)
    p.add_argument("--limit", type=int, default=None, help="photos per set, for a quick look")
    args = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if args.run:
        export(args.run, args.config, args.pack)
    sam = build(load_config(os.path.join(args.pack, "config.json"))).eval()
    pyramid.load_folded(sam, load_file(os.path.join(args.pack, "model.safetensors")))
    results = {source: figures(sam, source, args.limit) for source in data.SETS}
    report = {source: summary(rows) for source, rows in results.items()}
    report["all"] = summary(np.concatenate(list(results.values())))
    for name, row in report.items():
        print(name, {k: v for k, v in row.items() if k != "predicted_iou"}, row["predicted_iou"]["mean_absolute_error"])
    card = {
        "model": "sam",
        "parameters": sum(p.numel() for p in sam.parameters()),
        **provenance(args),
        "measured_with": "python training/sam/evaluate.py --pack models/nano/sam",
        "measured_on": "gold boxes of instances over 2 % of the picture; coco_mini val2017, the other sets' heldout",
        "held_out": report,
    }
    if args.limit is None:
        with open(os.path.join(args.pack, "card.json"), "w") as f:
            json.dump(card, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
