"""Fits the IoU head of an exported nano SAM to what its masks really reach.

python training/sam/calibrate.py --pack models/nano/sam

Masks do not change: with everything else frozen, the head learns from the IoU token's output on
whole training photos (exact and jittered boxes, masks compared at the low resolution). The loop of
train.py trains the head too, but on harder samples than whole photos, and too briefly. As masks of
training photos are better than those of new ones, a straight line that is fitted to the calibration
photos, which train.py leaves out, then corrects each of its outputs.
"""
import argparse
import os

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import load_file, save_file

import data
from model import build, decode, pyramid, encode, load_config
from train import true_iou


@torch.no_grad()
def examples(sam, photo, rng):
    """IoU token outputs [P, C] and true IoUs [P, T] of one whole photo, mirrored half of the time."""
    side = sam.image_encoder.img_size
    rgb, masks = photo.rgb, [coco_mask.decode(m) for m in photo.masks]
    if rng.random() < 0.5:
        rgb, masks = rgb[:, ::-1], [m[:, ::-1] for m in masks]
    h, w = rgb.shape[:2]
    scale = side / max(h, w)
    size = (max(1, int(w * scale + 0.5)), max(1, int(h * scale + 0.5)))
    masks = [data.resize_mask(np.ascontiguousarray(m), (0, 0, w, h), size) for m in masks]
    masks = [m for m in masks if m.mean() > 0.01][:8]
    if not masks:
        return None
    small = np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, Image.BILINEAR)).copy()
    embedding, fine = encode(sam, sam.preprocess(torch.from_numpy(small).permute(2, 0, 1).float()).unsqueeze(0))
    boxes = torch.from_numpy(np.stack([data.jittered_box(m, rng) for m in masks]))
    kept = []
    hook = sam.mask_decoder.iou_prediction_head.register_forward_pre_hook(lambda _, x: kept.append(x[0]))
    many = [part.expand(len(boxes), -1, -1, -1) for part in (embedding, *fine)]
    logits, _ = decode(sam, many[0], sam.prompt_encoder._embed_boxes(boxes), many[1:])
    hook.remove()
    full = torch.zeros(len(masks), side, side)
    full[:, : size[1], : size[0]] = torch.from_numpy(np.stack(masks)).float()
    target = torch.nn.functional.avg_pool2d(full.unsqueeze(1), side // logits.shape[-1]).squeeze(1)
    return kept[0], true_iou(logits, target)


def fit(head, tokens, actual, check, seed, steps=1500):
    """Fits to examples and keeps the head that does best on `check`, tokens and IoUs of other photos."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-4, weight_decay=0.1)
    best, kept = float("inf"), None
    for step in range(steps):
        if step % 25 == 0:
            with torch.no_grad():
                error = (head(check[0]) - check[1]).pow(2).mean().item()
            if error < best:
                best, kept = error, {k: v.clone() for k, v in head.state_dict().items()}
                print(step, f"{error:.4f}", flush=True)
        rows = torch.randint(len(tokens), (128,), generator=generator)
        noisy = tokens[rows] + 0.1 * tokens.std(0) * torch.randn(tokens[rows].shape, generator=generator)
        loss = (head(noisy) - actual[rows]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.load_state_dict(kept)


@torch.no_grad()
def straighten(head, tokens, actual):
    """Puts the least-squares line from what the head says to what is true into its last layer."""
    said, last = head(tokens), head.layers[-1]
    centred = said - said.mean(0)
    slope = (centred * (actual - actual.mean(0))).sum(0) / centred.pow(2).sum(0)
    print("slope", slope.tolist(), flush=True)
    last.weight.mul_(slope[:, None])
    last.bias.copy_(last.bias * slope + actual.mean(0) - said.mean(0) * slope)


def pairs(sam, part, seed):
    """IoU token outputs and true IoUs of all photos of a part, in random order."""
    rng = np.random.default_rng(seed)
    photos = [p for s in data.SETS for p in data.load(s, part)]
    found = [pair for i in rng.permutation(len(photos)) if (pair := examples(sam, photos[i], rng))]
    tokens, actual = (torch.cat(part) for part in zip(*found))
    print(f"{part}: {len(tokens)} masks, mean IoU {actual[:, 0].mean():.3f}", flush=True)
    return tokens, actual


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--pack", required=True)
    p.add_argument("--seed", type=int, default=7)
    args = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    path = os.path.join(args.pack, "model.safetensors")
    sam = build(load_config(os.path.join(args.pack, "config.json"))).eval()
    pyramid.load_folded(sam, load_file(path))
    check = pairs(sam, "calibration", args.seed)
    head = sam.mask_decoder.iou_prediction_head
    fit(head, *pairs(sam, "train", args.seed), check, args.seed)
    straighten(head, *check)
    save_file({k: v.half() for k, v in pyramid.fold(sam).items()}, path)
    os.chmod(path, 0o644)


if __name__ == "__main__":
    main()
