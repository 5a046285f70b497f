"""Measures an exported tagger on the data set's own words, with seqeval.

    python evaluate.py --pack ../../models/nano/tagger --data DATA --split dev [--knowledge]
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from seqeval.metrics import f1_score, precision_score, recall_score
from tokenizers import Tokenizer
from transformers import BertConfig

import data
from model import Pieces, Tagger, collate


def open_pack(folder):
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    model = Tagger(BertConfig(**config["encoder"]), len(config["fine_labels"]))
    model.load_state_dict({k: v.float() for k, v in load_file(folder / "model.safetensors").items()})
    return model.eval(), Pieces(Tokenizer.from_file(str(folder / "tokenizer.json"))), config


@torch.no_grad()
def predict(model, pieces, config, tweets, with_knowledge):
    """Label ids per tweet and, per gold entity with a fine type, the fine type predicted on it."""
    rows = []
    for index, tweet in enumerate(tweets):
        knowledge = tweet.knowledge if with_knowledge else []
        sequence = pieces.sequence(
            tweet.words, knowledge, config["max_length"], config["max_knowledge"])
        rows.append((index, *sequence, [0] * len(sequence[2])))
    rows.sort(key=lambda r: len(r[1]))
    paths, fine = [None] * len(tweets), [None] * len(tweets)
    for i in range(0, len(rows), 16):
        part = rows[i : i + 16]
        batch = collate([r[1:] for r in part])
        words = model.words(batch)
        decoded = model.crf.decode(model.linear(words), batch["words"])
        for b, (row, path) in enumerate(zip(part, decoded)):
            tweet = tweets[row[0]]
            paths[row[0]] = path + [0] * (len(tweet.words) - len(path))
            spans = [(b, s, e, data.KINDS.index(k)) for s, e, k, _ in tweet.spans if e <= len(path)]
            found = model.fine_logits(words, spans).argmax(-1).tolist() if spans else []
            fine[row[0]] = [config["fine_labels"][f] for f in found]
    return paths, fine


def report(tweets, paths, fine):
    gold = [[data.LABELS[i] for i in data.bioes(len(t.words), t.spans)] for t in tweets]
    found = [[data.LABELS[i] for i in path] for path in paths]
    right = total = 0
    for tweet, g, f, names in zip(tweets, gold, found, fine):
        for (s, e, _, fine_gold), name in zip(tweet.spans, names):
            after = f[e][:2] if e < len(f) else "O"
            if g[s:e] == f[s:e] and after not in ("I-", "E-"):
                total += 1
                right += name == fine_gold
    return {
        "tweets": len(tweets),
        "precision": round(100 * precision_score(gold, found), 2),
        "recall": round(100 * recall_score(gold, found), 2),
        "f1": round(100 * f1_score(gold, found), 2),
        "fine_accuracy_on_correct": round(100 * right / max(total, 1), 2),
        "correct_entities": total,
    }


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pack", required=True)
    p.add_argument("--data", required=True)
    p.add_argument("--split", required=True, choices=["dev", "test"])
    p.add_argument("--knowledge", action="store_true")
    p.add_argument("--limit", type=int)
    args = p.parse_args()
    model, pieces, config = open_pack(args.pack)
    tweets = data.load(args.data, args.split)[: args.limit]
    paths, fine = predict(model, pieces, config, tweets, args.knowledge)
    result = {"split": args.split, "knowledge": args.knowledge, **report(tweets, paths, fine)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
