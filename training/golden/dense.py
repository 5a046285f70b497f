"""Golden tensors of the dense network: a tiny one with random weights, run by PyTorch with its batch
normalisation in place (the exported weights have it folded in), on random pictures resized by Pillow. The weights are
large enough that the answers depend on the picture, not only on the text.

    python training/golden/dense.py
"""

import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
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


def picture(seed, size):
    """Smooth shapes with noise: pure noise looks alike everywhere after the first layers."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    rgb = np.asarray(small.resize(size, Image.BICUBIC)).astype(int) + rng.integers(-20, 20, (size[1], size[0], 1))
    return rgb.clip(0, 255).astype(np.uint8)


def pixels(rgb):
    side = CONFIG["side"]
    small = np.array(Image.fromarray(rgb).resize((side, side), Image.BILINEAR))
    return torch.from_numpy(small).permute(2, 0, 1)[None].float() / 127.5 - 1


def standardise(layer, values, mean, deviation):
    """Changes a linear layer that answered `values` [..., out] so that each output has this mean and deviation."""
    flat = values.reshape(-1, values.shape[-1])
    scale = deviation / flat.std(0)
    layer.weight.mul_(scale[:, None])
    layer.bias.sub_(flat.mean(0)).mul_(scale).add_(mean)


@torch.no_grad()
def spread(net, x, tokens):
    """Scales the heads so that neither a logistic function nor a clamp saturates: their answers tell apart pictures,
    cells and texts."""
    cells, _, scene = net.trunk(x)
    norm = net.trunk.fine[1]
    norm.weight.div_(cells.std())
    norm.bias.div_(cells.std())
    net.judge_scene.weight.mul_(4 / scene.std())
    net.judge_cell.weight.mul_(4)
    f, e, scene = net.trunk(x)
    t = net.text(*tokens)
    for layer in (net.present, net.select, net.judge_text, net.box_text):
        standardise(layer, layer(t), 0.0, 1.0)
    presence, selection = net.maps(e, t)
    net.select.weight.mul_(2 / selection.std())
    net.select.bias.mul_(2 / selection.std())
    presence, selection = net.maps(e, t)
    logits = net.judge(f, scene, t, presence, selection)
    standardise(net.judge_out, logits[..., None], 0.0, 1.5)
    hidden = net.box_cell(f.flatten(2).transpose(1, 2).flatten(0, 1))[:, None]
    z = net.box_text(t)
    offsets = net.box_out(F.relu(hidden * (1 + torch.tanh(z)) + z))
    standardise(net.box_out, offsets, torch.tensor([0.0, 0.0, 0.0, 0.0, 0.3]), torch.tensor([0.7, 0.7, 0.7, 0.7, 1.0]))


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
        if isinstance(m, torch.nn.Conv2d):
            m.weight.data.normal_(0, 1.5 * m.weight[0].numel() ** -0.5)
        if isinstance(m, torch.nn.BatchNorm2d):
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.2)
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
    pictures = [picture(k, size) for k, size in enumerate(SIZES)]
    encoder = batches.Encoder(f"{out}/tokenizer.json", CONFIG["name_tokens"], CONFIG["tail_tokens"])
    tokens = encoder.batch(EXPRESSIONS)
    spread(net, torch.cat([pixels(rgb) for rgb in pictures]), tokens)
    export.write(net, CONFIG, out, f"{out}/tokenizer.json", torch.float32)
    tensors, cases = {}, {"tokens": [], "answers": []}
    for text in EXPRESSIONS:
        ids, positions, kind = encoder(text)
        cases["tokens"].append({"expression": text, "ids": ids, "positions": positions, "kind": kind})
    for k, ((w, h), rgb) in enumerate(zip(SIZES, pictures)):
        x = pixels(rgb)
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
            cases["answers"].append({"picture": k, "expression": text, "probability": probability[0, i].item(),
                                     "box": edges, "score": score[0, i].item()})
    save_file(tensors, f"{out}/tensors.safetensors")
    json.dump(cases, open(f"{out}/cases.json", "w"), indent=1)
    for a in cases["answers"]:
        print(a)


if __name__ == "__main__":
    main()
