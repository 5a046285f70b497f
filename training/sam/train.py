"""Trains the nano SAM: python training/sam/train.py --out RUN --until 01:50

evaluate.py exports, calibrate.py fits the IoU head, evaluate.py reports. Resumable: RUN/last.pt is
written every few minutes and picked up again. The learning rate follows the clock: it falls to
nothing at --until (UTC). The committed weights are 3,400 steps of 8 photos: a first run at the default
rate, then a second one that went on from it with --lr 8e-4.
"""
import argparse
import datetime
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F

import data
from model import build, decode, encode, load_config
from teacher import Teacher

HERE = os.path.dirname(os.path.abspath(__file__))


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


def loss_of(sam, aux, teacher, sample):
    pixels, valid, owner, prompts, is_point, masks = sample
    x = (pixels - sam.pixel_mean) / sam.pixel_std * valid.unsqueeze(1)
    tokens, embedding = encode(sam.image_encoder, x)
    hint = teacher(pixels)
    inside = F.max_pool2d(valid.unsqueeze(1).float(), sam.image_encoder.patch_embed.proj.kernel_size)
    gap = F.smooth_l1_loss(aux(tokens).permute(0, 3, 1, 2), hint, reduction="none")
    distil = (gap * inside).sum() / (inside.sum() * hint.shape[1])
    sparse = sparse_prompts(sam.prompt_encoder, prompts, is_point)
    logits, iou = decode(sam, embedding[owner], sparse)
    target = F.avg_pool2d(masks.unsqueeze(1), masks.shape[-1] // logits.shape[-1]).squeeze(1)
    near = F.max_pool2d(target.unsqueeze(1), 9, 1, 4).squeeze(1)
    losses = mask_losses(logits, target, 0.1 + 0.9 * (near > 0).float())
    single, multi = losses[:, 0], losses[:, 1:].min(1).values
    actual = true_iou(logits.detach(), target)
    iou_loss = (iou - actual).pow(2).mean()
    # One point is ambiguous, so the single mask learns from boxes alone.
    single = (single * ~is_point).sum() / (~is_point).sum().clamp(min=1)
    total = single + 0.6 * multi.mean() + iou_loss + 0.5 * distil
    figures = (single.item(), multi.mean().item(), iou_loss.item(), distil.item(), actual[~is_point, 0].mean().item())
    return total, figures


def parse():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", required=True)
    p.add_argument("--config", default=os.path.join(HERE, "config.json"))
    p.add_argument("--until", default="01:40", help="UTC time at which the schedule ends")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--prompts", type=int, default=6)
    p.add_argument("--lr", type=float, default=1.2e-3)
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: by the clock)")
    return p.parse_args()


class Clock:
    """Where training stands between its first start and --until."""

    def __init__(self, begun, until):
        hour, minute = (int(x) for x in until.split(":"))
        start = datetime.datetime.fromtimestamp(begun, datetime.timezone.utc)
        end = start.replace(hour=hour, minute=minute, second=0)
        end += datetime.timedelta(days=int(end < start))
        self.begun, self.total = begun, end.timestamp() - begun

    def minutes(self):
        return (time.time() - self.begun) / 60

    def share(self):
        return 60 * self.minutes() / self.total


class Run:
    """Everything that training changes, and its file."""

    def __init__(self, args, config):
        self.sam = build(config)
        torch.nn.init.trunc_normal_(self.sam.image_encoder.pos_embed, std=0.02)
        weights = "data/weights/fastestdet/weight_AP05_0.253207_280-epoch.pth"
        self.teacher = Teacher(os.path.join(data.shared(), weights))
        self.aux = torch.nn.Linear(config["embed_dim"], 288)
        params = [p for n, p in self.sam.named_parameters() if "mask_downscaling" not in n]
        self.params = params + list(self.aux.parameters())
        groups = [
            {"params": [p for p in self.params if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in self.params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.ema = {k: v.detach().clone() for k, v in self.sam.state_dict().items()}
        self.state = {"step": 0, "begun": time.time()}
        self.path = os.path.join(args.out, "last.pt")
        if os.path.exists(self.path):
            saved = torch.load(self.path)
            for name in ("sam", "aux", "optimizer"):
                getattr(self, name).load_state_dict(saved[name])
            self.teacher.norm.load_state_dict(saved["norm"])
            self.ema, self.state = saved["ema"], saved["state"]

    def step(self, sample, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, figures = loss_of(self.sam, self.aux, self.teacher, sample)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.state["step"] += 1
        keep = min(0.998, (1 + self.state["step"]) / (10 + self.state["step"]))
        with torch.no_grad():
            for k, v in self.sam.state_dict().items():
                self.ema[k].lerp_(v, 1 - keep)
        return np.array(figures)

    def save(self):
        content = {
            "sam": self.sam.state_dict(), "aux": self.aux.state_dict(), "norm": self.teacher.norm.state_dict(),
            "optimizer": self.optimizer.state_dict(), "ema": self.ema, "state": self.state,
        }
        torch.save(content, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)


def main():
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.makedirs(args.out, exist_ok=True)
    config = load_config(args.config)
    run = Run(args, config)
    photos = [p for s in data.SETS for p in data.load(s, True)]
    sampler = data.Sampler(photos, config["image_size"], args.prompts)
    print(f"{len(photos)} photos, {sum(len(p.masks) for p in photos)} masks", flush=True)
    clock = Clock(run.state["begun"], args.until)
    saved_at, mean = time.time(), None
    while clock.share() < 1 and not (args.steps and run.state["step"] >= args.steps):
        step = run.state["step"]
        lr = args.lr * min(1.0, (step + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * clock.share()))
        rng = np.random.default_rng([args.seed, step])
        figures = run.step(batch(sampler, args.batch, rng, config["image_size"]), lr)
        mean = figures if mean is None else 0.98 * mean + 0.02 * figures
        if (step + 1) % 50 == 0:
            names = ("single", "multi", "iou", "distil", "mIoU")
            text = " ".join(f"{n} {v:.3f}" for n, v in zip(names, mean))
            print(f"{step + 1} {clock.minutes():.1f} min lr {lr:.1e} {text}", flush=True)
        if time.time() - saved_at > 180:
            run.save()
            saved_at = time.time()
    run.save()


if __name__ == "__main__":
    main()
