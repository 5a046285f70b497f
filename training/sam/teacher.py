"""The backbone of FastestDet (a small detector trained on COCO, BSD-3) as a feature teacher: a
ShuffleNetV2 whose stride-16 and stride-32 maps the encoder's tokens learn to predict."""
import torch
from torch import nn


class Unit(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.stride = stride
        grow = out - channels
        self.branch_main = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels),
            nn.Conv2d(channels, grow, 1, bias=False), nn.BatchNorm2d(grow), nn.ReLU(),
        )
        if stride == 2:
            self.branch_proj = nn.Sequential(
                nn.Conv2d(channels, channels, 3, 2, 1, groups=channels, bias=False), nn.BatchNorm2d(channels),
                nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            )

    def forward(self, x):
        if self.stride == 2:
            return torch.cat([self.branch_proj(x), self.branch_main(x)], 1)
        return torch.cat([x[:, 0::2], self.branch_main(x[:, 1::2])], 1)


class Teacher(nn.Module):
    """forward([B, 3, H, W] RGB in 0..255) -> [B, 96 + 192, H/16, W/16], each channel roughly N(0, 1)."""

    def __init__(self, path):
        super().__init__()
        self.first_conv = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for name, repeats, channels, out in (("stage2", 4, 24, 48), ("stage3", 8, 48, 96), ("stage4", 4, 96, 192)):
            units = [Unit(channels, out, 2)] + [Unit(out // 2, out, 1) for _ in range(repeats - 1)]
            setattr(self, name, nn.Sequential(*units))
        state = torch.load(path, map_location="cpu")
        self.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("backbone.")})
        self.norm = nn.BatchNorm2d(288, affine=False, momentum=0.05)
        self.eval()
        self.norm.train()
        for p in self.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x):
        x = x.flip(1) / 255.0
        x = self.stage2(self.maxpool(self.first_conv(x)))
        s16 = self.stage3(x)
        s32 = nn.functional.interpolate(self.stage4(s16), scale_factor=2, mode="bilinear", align_corners=False)
        return self.norm(torch.cat([s16, s32], 1))
