"""The network: the convolutional trunk of EfficientNet-Lite0, a feature pyramid at stride 8, and a text encoder whose
vectors score, select, box and judge the cells of that pyramid. `src/models/dense` is the same in Rust."""

import math
import os
import sys

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pyramid  # noqa: E402

CONFIG = {"side": 256,
          # channels, expansion, kernel, stride, blocks: EfficientNet-Lite0 up to stride 32
          "trunk": {"stem": 32,
                    "stages": [[16, 1, 3, 1, 1], [24, 6, 3, 2, 2], [40, 6, 5, 2, 2], [80, 6, 3, 2, 3], [112, 6, 5, 1, 3],
                               [192, 6, 5, 2, 4]],
                    "pyramid": [112, 80]},
          "embedding": 128, "word": 64, "text": 128, "heads": 4, "hidden": 256,
          "name_tokens": 16, "tail_tokens": 12, "head": 96, "best": 6}


class Trunk(pyramid.Pyramid):
    def __init__(self, cfg):
        super().__init__(**cfg["trunk"])
        self.embed = nn.Conv2d(cfg["trunk"]["pyramid"][1], cfg["embedding"], 1)

    def forward(self, x, frozen=0):
        """x [b, 3, side, side] in -1..1 -> cells [b, p8, side/8, side/8], embedding, scene [b, c32]."""
        _, _, cells, scene = self.maps(x, frozen)
        return cells, self.embed(cells), scene


class Text(nn.Module):
    def __init__(self, cfg, table):
        super().__init__()
        d = cfg["text"]
        self.heads = cfg["heads"]
        self.register_buffer("table", table)
        self.word = nn.Linear(cfg["word"], d)
        self.position = nn.Parameter(torch.randn(cfg["name_tokens"] + cfg["tail_tokens"], d) * 0.02)
        self.kind = nn.Parameter(torch.randn(5, d) * 0.1)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.back = nn.Linear(d, cfg["hidden"]), nn.Linear(cfg["hidden"], d)
        self.pool, self.final = nn.Linear(d, 1), nn.Linear(d, d)

    def forward(self, ids, pos, mask, kind):
        """ids, pos, mask [n, t], kind [n] -> [n, text]."""
        x = self.word(self.table[ids].float()) + self.position[pos] + self.kind[kind][:, None]
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(2, 3)) / math.sqrt(d // self.heads)
        a = a.masked_fill(~mask[:, None, None], -1e4).softmax(-1)
        x = x + self.out((a @ v).transpose(1, 2).reshape(n, t, d))
        x = x + self.back(F.relu(self.up(self.norm2(x))))
        x = self.norm3(x)
        w = self.pool(x)[..., 0].masked_fill(~mask, -1e4).softmax(-1)
        return F.relu(self.final((w[..., None] * x).sum(1)))


class Dense(nn.Module):
    def __init__(self, cfg, table):
        super().__init__()
        self.cfg = cfg
        self.trunk, self.text = Trunk(cfg), Text(cfg, table)
        d, e, h = cfg["text"], cfg["embedding"], cfg["head"]
        p8, c32 = cfg["trunk"]["pyramid"][1], cfg["trunk"]["stages"][-1][0]
        self.present, self.select = nn.Linear(d, e + 1), nn.Linear(d, e)
        self.box_cell, self.box_text, self.box_out = nn.Linear(p8, h), nn.Linear(d, h), nn.Linear(h, 5)
        self.judge_cell, self.judge_scene, self.judge_text = nn.Linear(p8, h), nn.Linear(c32, h), nn.Linear(d, h)
        self.judge_out = nn.Linear(h + 3, 1)
        with torch.no_grad():
            self.present.weight.mul_(0.3)
            self.present.bias[-1] = -4.0
            self.judge_out.weight[:, h:] = torch.tensor([0.5, 0.5, 0.1])
            self.judge_out.bias.fill_(2.0)

    def maps(self, embedding, t):
        """embedding [b, e, g, g], t [n, d] -> presence and selection logits, each [b, n, g·g]."""
        e = embedding.flatten(2)
        p = self.present(t)
        k = 1 / math.sqrt(e.shape[1])
        return (p[:, :-1] @ e) * k + p[:, -1:], (self.select(t) @ e) * k

    def judge(self, pyramid, scene, t, presence, selection):
        """Entailment logits [b, n]."""
        f = pyramid.flatten(2)
        w = selection.softmax(-1)
        v = w @ f.transpose(1, 2)
        top = presence.topk(self.cfg["best"], -1).values
        stats = torch.stack([top[..., 0], top.mean(-1), torch.logsumexp(presence, -1)], -1)
        h = F.relu(self.judge_cell(v) * (1 + torch.tanh(self.judge_text(t))) + self.judge_scene(scene)[:, None] + self.judge_text(t))
        return self.judge_out(torch.cat([h, stats], -1))[..., 0]

    def boxes(self, cells, t, centres):
        """cells [k, p8], t [k, d], centres [k, 2] (fractions) -> x1 y1 x2 y2 (fractions) [k, 4], quality logit [k]."""
        z = self.box_text(t)
        o = self.box_out(F.relu(self.box_cell(cells) * (1 + torch.tanh(z)) + z))
        d = o[:, :4].clamp(-5, 2.5).exp() * 0.15
        return torch.cat([centres - d[:, :2], centres + d[:, 2:]], 1), o[:, 4]


def centres(g):
    c = (torch.arange(g) + 0.5) / g
    y, x = torch.meshgrid(c, c, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def pair_iou(a, b):
    """IoU and enclosing-box share of boxes in pairs [k, 4]."""
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    iou = inter / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def answer(net, image, tokens):
    """One expression list against pictures, as the server decodes: boxes [b, n, 4], score, probability."""
    f, e, scene = net.trunk(image)
    t = net.text(*tokens)
    presence, selection = net.maps(e, t)
    prob = torch.sigmoid(net.judge(f, scene, t, presence, selection))
    b, n, cells = selection.shape
    k = net.cfg["best"]
    top = selection.topk(k, -1)
    flat = f.flatten(2).transpose(1, 2)
    at = top.indices.flatten(1)
    picked = torch.gather(flat, 1, at[..., None].expand(-1, -1, flat.shape[2])).flatten(0, 1)
    c = centres(f.shape[2])[at.flatten()]
    boxes, quality = net.boxes(picked, t[None, :, None].expand(b, n, k, -1).reshape(-1, t.shape[1]), c)
    boxes, quality = boxes.view(b * n, k, 4), quality.view(b * n, k)
    rank = top.values.view(b * n, k) + F.logsigmoid(quality)
    best = rank.argmax(1, keepdim=True)
    first = boxes.gather(1, best[..., None].expand(-1, -1, 4)).expand(-1, k, -1).reshape(-1, 4)
    iou, _ = pair_iou(first, boxes.reshape(-1, 4))
    w = rank.softmax(1) * (iou.view(b * n, k) > 0.5)
    w = w / w.sum(1, keepdim=True)
    score = torch.sigmoid(quality.gather(1, best))
    return (boxes * w[..., None]).sum(1).view(b, n, 4), score.view(b, n), prob
