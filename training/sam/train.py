"""Trains the nano SAM: python training/sam/train.py --out RUN --minutes 75

evaluate.py exports, calibrate.py fits the IoU head, evaluate.py reports. Resumable: RUN/last.pt is written every few
minutes and picked up again. The schedule follows the time trained: the learning rate falls to nothing at --minutes.
"""
import argparse
import json
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
from model import build, decode, load_config, load_imagenet, see

HERE = os.path.dirname(os.path.abspath(__file__))
# From a share of the time on: the side of the pictures, and how many make a batch.
PHASES = [(0.0, 256, 8), (0.6, 320, 6)]
# The trunk's stem and first stages (strides 2 and 4) keep their ImageNet weights; the rest of it learns slowly, and its
# normalisation keeps ImageNet's statistics, which batches this small would spoil.
FROZEN, TRUNK_PACE = 2, 0.2


def batch(sampler, size, rng, side):
    """pixels [B, 3, S, S] 0..255, valid [B, S, S], and per prompt: picture, box or point, mask."""
    pixels = np.zeros((size, side, side, 3), np.uint8)
    valid = np.zeros((size, side, side), bool)
    owner, prompts, is_point, masks = [], [], [], []
    for b in range(size):
        rgb, (w, h), chosen = sampler.sample(rng)
        pixels[b, :h, :w], valid[b, :h, :w] = rgb, True
        for mask in chosen:
            point = rng.random() < 0.12
            prompt = np.concatenate([data.inner_point(mask, rng), [0, 0]]) if point else data.jittered_box(mask, rng)
            full = np.zeros((side, side), np.float32)
            full[:h, :w] = mask
            owner.append(b), prompts.append(prompt), is_point.append(point), masks.append(full)
    return (
        torch.from_numpy(pixels).permute(0, 3, 1, 2).float(),
        torch.from_numpy(valid),
        torch.tensor(owner),
        torch.from_numpy(np.stack(prompts)).float(),
        torch.tensor(is_point),
        torch.from_numpy(np.stack(masks)),
    )


def sparse_prompts(encoder, prompts, is_point):
    """Prompt embeddings [P, 2, C]: a box has two corners, a point is followed by "not a point"."""
    boxes = encoder._embed_boxes(prompts)
    points = encoder._embed_points(prompts[:, None, :2], torch.ones(len(prompts), 1), pad=True)
    return torch.where(is_point[:, None, None], points, boxes)


def mask_losses(logits, target, weight):
    """Focal + dice per prompt and mask token [P, T]; target [P, h, w] is the cell's covered part."""
    t, w = target.unsqueeze(1), weight.unsqueeze(1)
    prob = logits.sigmoid()
    focal = F.binary_cross_entropy_with_logits(logits, t.expand_as(logits), reduction="none")
    focal = (focal * (prob - t).abs().pow(1.5) * w).sum((2, 3)) / w.sum((2, 3))
    dice = 1 - (2 * (prob * t).sum((2, 3)) + 1) / (prob.pow(2).sum((2, 3)) + t.pow(2).sum((2, 3)) + 1)
    return 4.0 * focal + dice


def true_iou(logits, target):
    """IoU [P, T] of the thresholded masks on the low-resolution grid."""
    a, b = logits > 0, target.unsqueeze(1) > 0.5
    return (a & b).sum((2, 3)).float() / (a | b).sum((2, 3)).clamp(min=1).float()


def loss_of(sam, sample):
    pixels, valid, owner, prompts, is_point, masks = sample
    x = (pixels - sam.pixel_mean) / sam.pixel_std * valid.unsqueeze(1)
    embedding, fine = sam.image_encoder(x.contiguous(memory_format=torch.channels_last), FROZEN)
    sparse = sparse_prompts(sam.prompt_encoder, prompts, is_point)
    logits, iou = decode(sam, embedding[owner], sparse, [part[owner] for part in fine])
    target = F.avg_pool2d(masks.unsqueeze(1), masks.shape[-1] // logits.shape[-1]).squeeze(1)
    near = F.max_pool2d(target.unsqueeze(1), 9, 1, 4).squeeze(1)
    losses = mask_losses(logits, target, 0.1 + 0.9 * (near > 0).float())
    single, multi = losses[:, 0], losses[:, 1:].min(1).values
    actual = true_iou(logits.detach(), target)
    iou_loss = (iou - actual).pow(2).mean()
    # One point is ambiguous, so the single mask learns from boxes alone.
    single = (single * ~is_point).sum() / (~is_point).sum().clamp(min=1)
    total = single + 0.4 * multi.mean() + iou_loss
    return total, (single.item(), multi.mean().item(), iou_loss.item(), actual[~is_point, 0].mean().item())


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", required=True)
    p.add_argument("--config", default=os.path.join(HERE, "config.json"))
    p.add_argument("--minutes", type=float, default=75)
    p.add_argument("--prompts", type=int, default=6)
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: by time)")
    return p.parse_args()


def groups_of(sam):
    """Parameters by decay and pace; the frozen ones and the mask-prompt branch left out."""
    skipped = ("image_encoder.stem", *(f"image_encoder.stages.{i}." for i in range(FROZEN)), "prompt_encoder.mask_downscaling")
    groups = {}
    for name, p in sam.named_parameters():
        if not name.startswith(skipped):
            groups.setdefault((p.ndim > 1, name.startswith("image_encoder.stages")), []).append(p)
    return [{"params": params, "weight_decay": 0.05 if wide else 0.0, "pace": TRUNK_PACE if trunk else 1.0}
            for (wide, trunk), params in groups.items()]


class Run:
    """Everything that training changes, and its file."""

    def __init__(self, args, config):
        self.sam = build(config)
        load_imagenet(self.sam)
        self.sam.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(groups_of(self.sam), betas=(0.9, 0.98), fused=True)
        self.ema = {k: v.detach().clone() for k, v in self.sam.state_dict().items()}
        self.state, self.provenance = {"step": 0, "spent": 0.0}, {}
        self.path = os.path.join(args.out, "last.pt")
        if os.path.exists(self.path):
            saved = torch.load(self.path)
            self.sam.load_state_dict(saved["sam"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.ema, self.state = saved["ema"], saved["state"]

    def step(self, sample, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["pace"]
        self.sam.train()
        self.sam.image_encoder.stem.eval(), self.sam.image_encoder.stages.eval()
        loss, figures = loss_of(self.sam, sample)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], 1.0)
        self.optimizer.step()
        self.state["step"] += 1
        keep = min(0.998, (1 + self.state["step"]) / (10 + self.state["step"]))
        with torch.no_grad():
            for k, v in self.sam.state_dict().items():
                if v.is_floating_point():
                    self.ema[k].lerp_(v, 1 - keep)
        return np.array(figures)

    def save(self):
        content = {"sam": self.sam.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": self.ema, "state": self.state}
        torch.save(content, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)
        with open(os.path.join(os.path.dirname(self.path), "run.json"), "w") as f:
            json.dump(self.provenance | {"steps": self.state["step"]}, f)


def main():
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.makedirs(args.out, exist_ok=True)
    run = Run(args, load_config(args.config))
    photos = [p for s in data.SETS for p in data.load(s, "train")]
    run.provenance = {
        "recipe": f"training/sam: train.py --minutes {args.minutes:g} --seed {args.seed} --lr {args.lr:g}, then evaluate.py --run, then calibrate.py",
        "trained_on": f"{len(photos)} photos of the train parts of {', '.join(data.SETS)}; demo photos left out; trunk from ImageNet's weights of EfficientNet-Lite0",
    }
    samplers = {side: data.Sampler(photos, side, args.prompts) for _, side, _ in PHASES}
    print(f"{len(photos)} photos, {sum(len(p.masks) for p in photos)} masks", flush=True)
    total, start, saved_at, mean = 60 * args.minutes, time.time() - run.state["spent"], time.time(), None
    while (progress := (time.time() - start) / total) < 1 and not (args.steps and run.state["step"] >= args.steps):
        step, (_, side, size) = run.state["step"], [p for p in PHASES if p[0] <= progress][-1]
        see(run.sam, side)
        lr = args.lr * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))
        rng = np.random.default_rng([args.seed, step])
        figures = run.step(batch(samplers[side], size, rng, side), lr)
        mean = figures if mean is None else 0.98 * mean + 0.02 * figures
        if (step + 1) % 50 == 0:
            names = ("single", "multi", "iou", "mIoU")
            text = " ".join(f"{n} {v:.3f}" for n, v in zip(names, mean))
            print(f"{step + 1} {100 * progress:.1f} % lr {lr:.1e} {text}", flush=True)
        if time.time() - saved_at > 180:
            run.state["spent"], saved_at = time.time() - start, time.time()
            run.save()
    run.state["spent"] = time.time() - start
    run.save()


if __name__ == "__main__":
    main()
