"""FastestDet (BSD-3, trained on COCO): a teacher whose answers supervise ours; its weights are never ours.

Layout read from the checkpoint's keys; checked against `reference_outputs.json` by `python teacher.py`.
"""

import json
import sys

import torch
import torch.nn.functional as F
from torch import nn


class Shuffle(nn.Module):
    """ShuffleNetV2 unit."""

    def __init__(self, cin, cout, stride):
        super().__init__()
        self.stride = stride
        c = cin // 2 if stride == 1 else cin
        mid = cout // 2
        out = cout - c
        self.branch_main = nn.Sequential(
            nn.Conv2d(c, mid, 1, bias=False), nn.BatchNorm2d(mid), nn.ReLU(),
            nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False), nn.BatchNorm2d(mid),
            nn.Conv2d(mid, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        if stride == 2:
            self.branch_proj = nn.Sequential(
                nn.Conv2d(c, c, 3, 2, 1, groups=c, bias=False), nn.BatchNorm2d(c),
                nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU())

    def forward(self, x):
        if self.stride == 2:
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        even, odd = x[:, 0::2], x[:, 1::2]
        return torch.cat([even, self.branch_main(odd)], 1)


def tower(c, n):
    layers = []
    for _ in range(n):
        layers += [nn.Conv2d(c, c, 5, 1, 2, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU()]
    return layers


def point(cin, cout):
    m = nn.Module()
    m.conv1x1 = nn.Sequential(nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU())
    return m


def head(c, n):
    m = nn.Module()
    m.conv5x5 = nn.Sequential(*tower(c, 1), nn.Conv2d(c, n, 1, bias=False), nn.BatchNorm2d(n))
    return m


class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.first_conv = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        cin = 24
        for name, n, c in (("stage2", 4, 48), ("stage3", 8, 96), ("stage4", 4, 192)):
            setattr(self.backbone, name, nn.Sequential(
                *[Shuffle(cin if i == 0 else c, c, 2 if i == 0 else 1) for i in range(n)]))
            cin = c
        self.SPP = nn.Module()
        self.SPP.Conv1x1 = point(336, 96)
        self.SPP.S1, self.SPP.S2, self.SPP.S3 = [nn.Sequential(*tower(96, n)) for n in (1, 2, 3)]
        self.SPP.output = nn.Sequential(nn.Conv2d(288, 96, 1, bias=False), nn.BatchNorm2d(96))
        self.detect_head = nn.Module()
        self.detect_head.conv1x1 = point(96, 96)
        self.detect_head.obj_layers = head(96, 1)
        self.detect_head.reg_layers = head(96, 4)
        self.detect_head.cls_layers = head(96, 80)

    def forward(self, x):
        """x [b, 3, h, w] BGR in 0..1 -> (features [b, 336, h/16, w/16], obj, reg, cls)."""
        b = self.backbone
        p = F.max_pool2d(b.first_conv(x), 3, 2, 1)
        p1 = b.stage2(p)
        p2 = b.stage3(p1)
        p3 = b.stage4(p2)
        up = F.interpolate(p3, size=p2.shape[2:], mode="nearest")
        f = torch.cat([F.avg_pool2d(p1, 3, 2, 1), p2, up], 1)
        y = self.SPP.Conv1x1.conv1x1(f)
        z = self.SPP.output(torch.cat([self.SPP.S1(y), self.SPP.S2(y), self.SPP.S3(y)], 1))
        z = F.relu(y + z)
        h = self.detect_head.conv1x1.conv1x1(z)
        d = self.detect_head
        return (torch.cat([f, z], 1), torch.sigmoid(d.obj_layers.conv5x5(h)),
                d.reg_layers.conv5x5(h), torch.softmax(d.cls_layers.conv5x5(h), 1))


def load(folder):
    t = Teacher()
    sd = torch.load(f"{folder}/weight_AP05_0.253207_280-epoch.pth", map_location="cpu")
    t.load_state_dict(sd, strict=True)
    return t.eval()


if __name__ == "__main__":
    t = load(sys.argv[1])
    ref = json.load(open(f"{sys.argv[1]}/reference_outputs.json"))
    x = (torch.arange(3 * 352 * 352) % 256).float().div(255).view(1, 3, 352, 352)
    with torch.no_grad():
        _, o, r, c = t(x)
    y = torch.cat([o, r, c], 1).flatten()
    print("sum", y.sum().item(), ref["sum"], "abs", y.abs().sum().item(), ref["abs_sum"])
    print("max difference", (y[:16] - torch.tensor(ref["first16"])).abs().max().item())
