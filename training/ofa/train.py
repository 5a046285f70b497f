"""Trains an OFA of nano size for both of its tasks, to compare with the dense network (models/nano/README.md).

    python train.py --data SHARED_DATA --cache CACHE.pkl --out RUN --minutes 25 [--pack FOLDER]

One network learns visual entailment (" yes" / " no" after the prompt, read once more by the decoder) and visual
grounding (four location tokens) from the photos, boxes and expressions that the dense network learns from
(training/dense/photos.py makes CACHE.pkl). Random weights at the start. Resumes from RUN/last.pt; with --pack writes
what the server loads. Figures during training are of the development photos.
"""

import argparse
import json
import math
import os
import pickle
import random
import time

import network
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import batches
import evaluate
import phrases

BATCH, LR = 32, 7e-4


class Questions(torch.utils.data.IterableDataset):
    """Batches of (pictures, [(prompt, shown or none, box or none)])."""

    def __init__(self, cache, names, seed):
        self.names, self.seed = names, seed
        gold = ("coco_mini", "people_boxes", "street_fashion", "human_masks", "caltech", "street_scenes")
        self.photos = [p for p in cache["photos"] if p["split"] == "train" and self.classes(p)]
        self.coco = cache["coco"]
        weights = [4.0 if p["set"] == "coco_mini" else 1.0 if p["set"] in gold else 0.5 for p in self.photos]
        self.weights = np.cumsum(weights)

    @staticmethod
    def classes(photo):
        return {r[4] for r in batches.instances(photo) if r[5] >= batches.SURE and (r[2] - r[0]) * (r[3] - r[1]) > 0.02}

    def say(self, rng, c):
        return (phrases.person(rng, self.names) if c == "person" else phrases.named(rng, self.names, c)).text

    def question(self, rng):
        """A picture and one question of each task on it."""
        while True:
            photo = self.photos[int(np.searchsorted(self.weights, rng.random() * self.weights[-1]))]
            rgb, rows, _ = batches.cut(rng, photo, network.SIDE, network.SIDE, rng.random() < 0.3)
            by = {}
            for r in rows:
                if r[5] >= batches.SURE and (r[2] - r[0]) * (r[3] - r[1]) > 0.02:
                    by.setdefault(r[4], []).append(r)
            if by:
                break
        here = rng.choice(sorted(by))
        box = max(by[here], key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))[:4]
        any_of = {r[4] for r in batches.instances(photo)} | set(photo["labels"])
        absent = [c for c in (photo["full"] if photo["set"] == "coco_mini" else self.coco) if c not in any_of]
        shown = rng.random() < 0.5
        # A person is absent as often as it is shown, where it can be.
        c = here if shown else "person" if "person" in absent and rng.random() < 0.5 else rng.choice(absent)
        return rgb, (network.entailment(self.say(rng, c)), shown), (network.grounding(self.say(rng, here)), box)

    def __iter__(self):
        torch.set_num_threads(1)
        rng = random.Random(self.seed)
        np.random.seed(self.seed)
        while True:
            rows = [self.question(rng) for _ in range(BATCH)]
            yield torch.from_numpy(np.stack([r[0] for r in rows])), [r[1] for r in rows], [r[2] for r in rows]


def pixels(rgb):
    return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1


def bins(box):
    return [network.WORDS + round(min(max(v, 0.0), 1.0) * (network.BINS - 1)) for v in box]


def losses(net, text, x, judge, ground):
    """Half of the pictures are asked one task, half the other."""
    half, device = len(x) // 2, x.device
    asked = [text.source(q) for q, _ in judge[:half]]
    prompts = network.padded([a[:-1] for a in asked]).to(device)
    logits = run(net, x[:half], network.padded(asked).to(device), prompts)
    at = torch.tensor([len(a) - 2 for a in asked], device=device)
    answer = torch.tensor([text.yes if shown else text.no for _, shown in judge[:half]], device=device)
    entail = F.cross_entropy(logits[torch.arange(half, device=device), at], answer)
    asked = network.padded([text.source(q) for q, _ in ground[half:]]).to(device)
    goal = torch.tensor([[*bins(box), network.EOS] for _, box in ground[half:]], device=device)
    start = torch.full_like(goal[:, :1], network.BOS)
    logits = run(net, x[half:], asked, torch.cat([start, goal[:, :-1]], 1))
    return entail, F.cross_entropy(logits.flatten(0, 1), goal.flatten(), label_smoothing=0.1)


def run(net, x, source, target):
    return net(input_ids=source, patch_images=x, patch_masks=torch.ones(len(x), dtype=torch.bool, device=x.device),
               decoder_input_ids=target).logits


@torch.inference_mode()
def report(net, text, dev, device):
    """Balanced accuracy and Prec@0.5 (greedy) on development questions."""
    net.eval()
    judged, found = {0: [], 1: []}, []
    for photo, ground, judge in dev:
        x = pixels(torch.from_numpy(evaluate.Held.cached(photo, network.SIDE))[None]).to(device)
        for question, truth, _ in judge:
            asked = text.source(network.entailment(question))
            source = torch.tensor([asked], device=device)
            last = run(net, x, source, source[:, :-1])[0, -1]
            judged[truth].append(bool(last[text.yes] > last[text.no]) == bool(truth))
        for question, gold, _ in ground:
            source = torch.tensor([text.source(network.grounding(question))], device=device)
            answer = torch.full((1, 1), network.BOS, device=device)
            for _ in range(4):
                answer = torch.cat([answer, run(net, x, source, answer)[:, -1:, network.WORDS:].argmax(-1) + network.WORDS], 1)
            box = ((answer[0, 1:] - network.WORDS) / (network.BINS - 1)).tolist()
            found.append(box[0] < box[2] and box[1] < box[3] and evaluate.overlap(box, gold) > 0.5)
    return {"ve": round(float(np.mean([np.mean(v) for v in judged.values()])), 4), "vg": round(float(np.mean(found)), 4),
            "n_ve": sum(map(len, judged.values())), "n_vg": len(found)}


def export(net, out, folder):
    os.makedirs(folder, exist_ok=True)
    tied = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    tensors = network.golden().state_dict(net.cpu(), fairseq=True)
    save_file({k: v.half() for k, v in tensors.items() if k not in tied}, f"{folder}/model.safetensors")
    json.dump(network.CONFIG, open(f"{folder}/config.json", "w"), indent=1)
    for name in ("vocab.json", "merges.txt"):
        open(f"{folder}/{name}", "w").write(open(f"{out}/{name}").read())


def options():
    p = argparse.ArgumentParser()
    for k in ("data", "cache", "out"):
        p.add_argument(f"--{k}", required=True)
    p.add_argument("--minutes", type=float, default=25)
    p.add_argument("--pack", help="write config.json, weights and vocabulary here at the end")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


def main():
    o = options()
    os.makedirs(o.out, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = pickle.load(open(o.cache, "rb"))
    names = phrases.Names(f"{o.data}/fmnerg/train.txt")
    questions = Questions(cache, names, o.seed)
    if not os.path.exists(f"{o.out}/merges.txt"):
        rng, classes = random.Random(o.seed), ["person"] * 40 + cache["coco"]
        said = [questions.say(rng, rng.choice(classes)) for _ in range(20000)]
        network.vocabulary([f(s) for s in said for f in (network.entailment, network.grounding)], o.out)
    text = network.Text(o.out)
    held = evaluate.Held(cache, o.data, "dev").rows
    dev = random.Random(3).sample(held, min(80, len(held)))
    del cache
    net = network.build(o.seed).to(device)
    opt = torch.optim.AdamW(net.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=0.02)
    step, spent, last = 0, 0.0, f"{o.out}/last.pt"
    if os.path.exists(last):
        s = torch.load(last)
        net.load_state_dict(s["net"]), opt.load_state_dict(s["opt"])
        step, spent = s["step"], s["spent"]
    start, tested, sums = time.time() - spent, time.time(), [0.0, 0.0]
    questions.seed += 1000 * step
    loader = iter(torch.utils.data.DataLoader(questions, batch_size=None, num_workers=1, prefetch_factor=2))
    log = open(f"{o.out}/log.txt", "a")
    while (spent := time.time() - start) < o.minutes * 60:
        progress = spent / (o.minutes * 60)
        for g in opt.param_groups:
            g["lr"] = LR * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        rgb, judge, ground = next(loader)
        net.train()
        parts = losses(net, text, pixels(rgb.to(device)), judge, ground)
        opt.zero_grad(set_to_none=True)
        sum(parts).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        step += 1
        sums = [a + float(b.detach()) for a, b in zip(sums, parts)]
        if step % 50 == 0:
            print(f"step {step} progress {progress:.3f} entail {sums[0] / 50:.3f} ground {sums[1] / 50:.3f}", file=log, flush=True)
            sums = [0.0, 0.0]
        if time.time() - tested > 240:
            torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "step": step, "spent": spent}, last)
            print("dev", step, json.dumps(report(net, text, dev, device)), file=log, flush=True)
            tested = time.time()
    torch.save({"net": net.state_dict(), "opt": opt.state_dict(), "step": step, "spent": spent}, last)
    print("dev", step, json.dumps(report(net, text, dev, device)), file=log, flush=True)
    if o.pack:
        export(net.eval(), o.out, o.pack)


if __name__ == "__main__":
    main()
