"""Trains the nano pack's entailer and grounder.

    python train.py --data SHARED_DATA --cache CACHE.pkl --words WORDS.npz --out FOLDER --minutes 90

The schedule runs on the wall clock: progress = time trained / planned time. Resumes from OUT/last.pt;
OUT/trained.pt has the averaged weights at the end. Figures on the way are of the development photos. Set
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2000000000 MALLOC_TOP_PAD_=536870912 before it on a CPU (training/steps.py
does): else much of the time goes into getting the same memory from the system again and again.
"""

import argparse
import copy
import json
import math
import os
import pickle
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import batches
import evaluate
import model
import phrases
import words


def options():
    p = argparse.ArgumentParser()
    for k in ("data", "cache", "words", "out"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--start", help="a checkpoint whose averaged weights to start from, with a schedule of its own")
    p.add_argument("--minutes", type=float, default=90)
    p.add_argument("--until", type=float, help="stop at this Unix time instead")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


SIDE, BATCH = 256, 16
# The trunk's stem and first stages (strides 2 and 4) keep their ImageNet weights; the rest of it learns slowly, and
# its normalisation keeps ImageNet's statistics, which batches this small would spoil.
FROZEN, TRUNK_PACE = 2, 0.2


def losses(net, f, e, scene, tokens, data):
    """Presence, selection, boxes, entailment and quality on one batch."""
    _, target, weight, region, shown, shown_w, place_w, largest = data
    t = net.text(*tokens)
    presence, selection = net.maps(e, t)
    target, weight = target.flatten(2).float() / 255, weight.flatten(2).float() / 255
    p = torch.sigmoid(presence)
    focal = F.binary_cross_entropy_with_logits(presence, target, reduction="none") * (target - p).abs().detach() ** 2 * weight
    out = {"presence": focal.sum() / ((target > 0.1).sum() * 0.5 + 200)}
    region = region.flatten(2)
    logp = selection.log_softmax(-1).masked_fill(~region, -1e4)
    has = region.any(-1)
    nll = -torch.logsumexp(logp, -1) * place_w
    out["select"] = nll[has].sum() / (place_w[has].sum() + 1)
    judged = net.judge(f, scene, t, presence, selection)
    bce = F.binary_cross_entropy_with_logits(judged, shown, reduction="none")
    # Absent pairs outnumber shown ones by far; persons are most of what is asked for.
    pos, neg = shown_w * shown, shown_w * (1 - shown)
    focus = (torch.sigmoid(judged) - shown).abs().detach()
    neg = neg * (0.1 + focus)
    out["judge"] = ((bce * pos).sum() / (pos.sum() + 1) + (bce * neg).sum() / (neg.sum() + 1)) / 2
    out.update(box_losses(net, f, t, selection, region, place_w, largest))
    return out, judged


def box_losses(net, f, t, selection, region, place_w, largest):
    good = (largest[..., 2] > 0) & (place_w > 0)
    pairs = good.nonzero()
    if len(pairs) == 0:
        z = f.sum() * 0
        return {"box": z, "quality": z}
    if len(pairs) > 220:
        pairs = pairs[torch.randperm(len(pairs))[:220]]
    b, n = pairs[:, 0], pairs[:, 1]
    g = f.shape[2]
    sel, goal, c = selection[b, n], largest[b, n], model.centres(g)
    random = torch.where(region[b, n], torch.rand_like(sel), torch.full_like(sel, -1.0)).topk(2, -1).indices
    at = torch.cat([sel.argmax(-1, keepdim=True), random], 1)
    k = at.shape[1]
    cells = f.flatten(2).transpose(1, 2)[b[:, None], at].flatten(0, 1)
    goal = goal[:, None].expand(-1, k, -1).reshape(-1, 4)
    where = c[at.flatten()]
    boxes, quality = net.boxes(cells, t[n][:, None].expand(-1, k, -1).flatten(0, 1), where)
    inside = (where > goal[:, :2]).all(1) & (where < goal[:, 2:]).all(1)
    w = place_w[b, n][:, None].expand(-1, k).flatten() * inside
    iou, giou = model.pair_iou(boxes, goal)
    size = (goal[:, 2:] - goal[:, :2]).repeat(1, 2)
    l1 = ((boxes - goal).abs() / size.clamp(min=0.05)).clamp(max=4).mean(1)
    q = F.binary_cross_entropy_with_logits(quality, iou.detach().clamp(0, 1))
    return {"box": ((1 - giou + 0.5 * l1) * w).sum() / (w.sum() + 1), "quality": q}


FACTORS = {"presence": 1.0, "select": 0.5, "judge": 1.0, "box": 1.5, "quality": 0.2}


def main():
    o = options()
    os.makedirs(o.out, exist_ok=True)
    torch.manual_seed(o.seed)
    cache = pickle.load(open(o.cache, "rb"))
    names = phrases.Names(f"{o.data}/fmnerg/train.txt")
    tokenizer = evaluate.tokenizer()
    net = model.Dense(model.CONFIG, words.coarse(np.load(o.words)["table"][:, :model.CONFIG["word"]]))
    model.pyramid.load_imagenet(net.trunk)
    if o.start:
        net.load_state_dict(torch.load(o.start)["slow"])
    net.to(memory_format=torch.channels_last)
    params = [(k, p) for k, p in net.named_parameters() if not k.startswith(("trunk.stem", *(f"trunk.stages.{i}." for i in range(FROZEN))))]
    groups = [{"params": [p for k, p in params if (p.dim() > 1) == wide and k.startswith("trunk.stages") == deep],
               "weight_decay": 0.03 if wide else 0.0, "pace": TRUNK_PACE if deep else 1.0}
              for wide in (True, False) for deep in (True, False)]
    opt = torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.98))
    slow = copy.deepcopy(net).eval()
    step, spent = 0, 0.0
    last = f"{o.out}/last.pt"
    if os.path.exists(last):
        s = torch.load(last)
        net.load_state_dict(s["net"]), slow.load_state_dict(s["slow"]), opt.load_state_dict(s["opt"])
        step, spent = s["step"], s["spent"]
    dev = evaluate.Held(cache, o.data, "dev")
    total = o.minutes * 60
    if o.until:
        total = spent + o.until - time.time()
    start, saved, tested = time.time() - spent, time.time(), time.time()
    data = batches.Batches(cache, names, tokenizer, o.seed * 1000 + step, SIDE, BATCH)
    loader = iter(torch.utils.data.DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
    seen, sums, clock = 0, {}, time.time()
    log = open(f"{o.out}/log.txt", "a")

    def say(*x):
        line = " ".join(str(v) for v in x)
        print(line, flush=True)
        log.write(line + "\n")
        log.flush()

    while True:
        spent = time.time() - start
        progress = spent / total
        if progress >= 1:
            break
        lr = o.lr * min(1.0, (step + 1) / 150) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        for g in opt.param_groups:
            g["lr"] = lr * g["pace"]
        tokens, batch = next(loader)
        net.train()
        net.trunk.stem.eval(), net.trunk.stages.eval()
        x = batch[0].permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        f, e, scene = net.trunk(x / 127.5 - 1, FROZEN)
        parts, _ = losses(net, f, e, scene, tokens, batch)
        loss = sum(FACTORS[k] * v for k, v in parts.items())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for _, p in params], 5.0)
        if torch.isfinite(norm):
            opt.step()
        step += 1
        seen += BATCH
        k = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for a, b in zip(slow.state_dict().values(), net.state_dict().values()):
                if a.dtype.is_floating_point and a.dtype != torch.float16:
                    a.lerp_(b, 1 - k)
        for key, v in parts.items():
            sums[key] = sums.get(key, 0.0) + float(v.detach())
        if step % 50 == 0:
            say(f"step {step} progress {progress:.3f} lr {lr:.2e} img/s {seen / (time.time() - clock):.1f}",
                {a: round(b / 50, 3) for a, b in sums.items()})
            seen, sums, clock = 0, {}, time.time()
        if time.time() - saved > 240:
            save(last, net, slow, opt, step, spent)
            saved = time.time()
        if time.time() - tested > 540:
            say("dev", json.dumps(dev.report(slow)))
            tested = clock = time.time()
    save(last, net, slow, opt, step, spent)
    torch.save({"slow": slow.state_dict(), "step": step, "spent": spent}, f"{o.out}/trained.pt")
    say("dev", json.dumps(dev.report(slow)))


def save(file, net, slow, opt, step, spent):
    torch.save({"net": net.state_dict(), "slow": slow.state_dict(), "opt": opt.state_dict(),
                "step": step, "spent": spent}, file + ".new")
    os.replace(file + ".new", file)


if __name__ == "__main__":
    main()
