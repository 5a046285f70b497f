"""Golden tensors of the dense network: a tiny one with random weights, run by PyTorch with its batch
normalisation in place (the exported weights have it folded in), on a random picture resized by Pillow.

    python training/golden/dense.py
"""

import json
import os
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "dense"))

import batches  # noqa: E402
import export  # noqa: E402
import model  # noqa: E402
import words  # noqa: E402

CONFIG = {"side": 64,
          "trunk": {"stem": 4,
                    "stages": [[4, 1, 3, 1, 1], [6, 3, 3, 2, 2], [8, 2, 5, 2, 2], [10, 2, 3, 2, 1], [10, 2, 5, 1, 1], [12, 2, 5, 2, 2]],
                    "pyramid": [10, 8]},
          "embedding": 16, "word": 6, "text": 16, "heads": 2, "hidden": 20, "name_tokens": 4, "tail_tokens": 3, "head": 12, "best": 3}
WORDS = ["[UNK]", "roger", "fed", "##erer", "boeing", "777", "a", "an", "athlete", "brand", "product", "animal", "##s",
         "the", "dog", "(", ")", "-", "per"]
EXPRESSIONS = ["Roger Federer (PER)-an athlete", "Boeing 777 (MISC)-a brand product", "a dog", "Zürich (LOC)-a dog",
               "the the the the the dog (MISC)-an animal a dog a dog", "Roger (PER)-a dog (ORG)-animals", ""]
SIZES = [(50, 37), (96, 128)]


def main():
    out = os.path.join(HERE, "..", "..", "tests", "golden", "dense")
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(3)
    tok = Tokenizer(models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.save(f"{out}/tokenizer.json")
    net = model.Dense(CONFIG, words.coarse(torch.randn(len(WORDS), CONFIG["word"]))).eval()
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.2)
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
    # A spread of answers: fresh weights would judge everything alike.
    net.present.weight.data.mul_(8)
    net.select.weight.data.mul_(6)
    net.box_out.weight.data.mul_(3)
    export.write(net, CONFIG, out, f"{out}/tokenizer.json", torch.float32)
    encoder = batches.Encoder(f"{out}/tokenizer.json", CONFIG["name_tokens"], CONFIG["tail_tokens"])
    tensors, cases = {}, {"tokens": [], "answers": []}
    for text in EXPRESSIONS:
        ids, positions, kind = encoder(text)
        cases["tokens"].append({"expression": text, "ids": ids, "positions": positions, "kind": kind})
    tokens = encoder.batch(EXPRESSIONS)
    for k, (w, h) in enumerate(SIZES):
        rgb = np.random.default_rng(k).integers(0, 256, (h, w, 3), np.uint8)
        side = CONFIG["side"]
        small = np.array(Image.fromarray(rgb).resize((side, side), Image.BILINEAR))
        x = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            f, e, scene = net.trunk(x)
            t = net.text(*tokens)
            presence, selection = net.maps(e, t)
            boxes, score, probability = model.answer(net, x, tokens)
        tensors.update({f"{k}.rgb": torch.from_numpy(rgb), f"{k}.pixels": x.contiguous(), f"{k}.presence": presence[0].contiguous(),
                        f"{k}.selection": selection[0].contiguous(), f"{k}.cells": f[0].flatten(1).t().contiguous()})
        for i, text in enumerate(EXPRESSIONS):
            x1, y1, x2, y2 = (boxes[0, i] * torch.tensor([w, h, w, h])).tolist()
            edges = [min(max(x1, 0), w), min(max(y1, 0), h), min(max(x2, 0), w), min(max(y2, 0), h)]
            legal = edges[2] > edges[0] and edges[3] > edges[1]
            cases["answers"].append({"picture": k, "expression": text, "probability": probability[0, i].item(),
                                     "box": edges if legal else None, "score": score[0, i].item()})
    save_file(tensors, f"{out}/tensors.safetensors")
    json.dump(cases, open(f"{out}/cases.json", "w"), indent=1)
    for a in cases["answers"]:
        print(a)


if __name__ == "__main__":
    main()
