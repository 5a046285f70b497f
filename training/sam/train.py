"""Trains the nano SAM: python training/sam/train.py --out RUN --until 01:40

Resumable (RUN/last.pt is written every few minutes and picked up again). The learning rate follows
the clock: it falls to nothing at --until (UTC). `evaluate.py` exports and reports.
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


def main():
    args = parse()
    torch.manual_seed(args.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    os.makedirs(args.out, exist_ok=True)
    config = load_config(args.config)
    sam = build(config)
    torch.nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
    teacher = Teacher(os.path.join(data.shared(), "data/weights/fastestdet/weight_AP05_0.253207_280-epoch.pth"))
    aux = torch.nn.Linear(config["embed_dim"], 288)
    sampler = data.Sampler([p for s in data.SETS for p in data.load(s, True)], config["image_size"], args.prompts)
    print(f"{len(sampler.photos)} photos, {sum(len(p.masks) for p in sampler.photos)} masks", flush=True)
    params = [p for n, p in sam.named_parameters() if "mask_downscaling" not in n] + list(aux.parameters())
    decay, plain = [p for p in params if p.ndim > 1], [p for p in params if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.98), fused=True
    )
    ema = {k: v.detach().clone() for k, v in sam.state_dict().items()}
    now = datetime.datetime.now(datetime.timezone.utc)
    hour, minute = (int(x) for x in args.until.split(":"))
    end = now.replace(hour=hour, minute=minute, second=0)
    end += datetime.timedelta(days=int(end < now))
    state = {"step": 0, "begun": time.time()}
    last = os.path.join(args.out, "last.pt")
    if os.path.exists(last):
        saved = torch.load(last)
        sam.load_state_dict(saved["sam"]), aux.load_state_dict(saved["aux"]), teacher.norm.load_state_dict(saved["norm"])
        optimizer.load_state_dict(saved["optimizer"])
        ema, state = saved["ema"], saved["state"]
    saved_at, mean = time.time(), None
    while True:
        t, total = time.time() - state["begun"], end.timestamp() - state["begun"]
        if t >= total or (args.steps and state["step"] >= args.steps):
            break
        lr = args.lr * min(1.0, (state["step"] + 1) / 300) * (0.5 + 0.5 * math.cos(math.pi * t / total))
        for group in optimizer.param_groups:
            group["lr"] = lr
        rng = np.random.default_rng([args.seed, state["step"]])
        sample = batch(sampler, args.batch, rng, config["image_size"])
        loss, figures = loss_of(sam, aux, teacher, sample)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        state["step"] += 1
        keep = min(0.998, (1 + state["step"]) / (10 + state["step"]))
        with torch.no_grad():
            for k, v in sam.state_dict().items():
                ema[k].lerp_(v, 1 - keep)
        figures = np.array(figures)
        mean = figures if mean is None else 0.98 * mean + 0.02 * figures
        if state["step"] % 50 == 0:
            names = ("single", "multi", "iou", "distil", "mIoU")
            text = " ".join(f"{n} {v:.3f}" for n, v in zip(names, mean))
            print(f"{state['step']} {t / 60:.1f} min lr {lr:.1e} {text}", flush=True)
        if time.time() - saved_at > 180:
            save(last, sam, aux, teacher, optimizer, ema, state)
            saved_at = time.time()
    save(last, sam, aux, teacher, optimizer, ema, state)


def save(path, sam, aux, teacher, optimizer, ema, state):
    torch.save(
        {"sam": sam.state_dict(), "aux": aux.state_dict(), "norm": teacher.norm.state_dict(),
         "optimizer": optimizer.state_dict(), "ema": ema, "state": state},
        path + ".tmp",
    )
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
