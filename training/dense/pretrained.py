"""The ImageNet classifier whose trunk the dense network starts from."""

import model  # noqa: F401  (makes the shared trunk importable)
from pyramid import Inverted, imagenet, rows, same


def classifier(trunk):
    """The whole ImageNet classifier around a loaded trunk's own kind: a function [b, 3, 224, 224] in -1..1 -> logits."""
    net, theirs = trunk, imagenet()
    last = Inverted(192, 320, 6, 3, 1)
    head = same(320, 1280, 1)
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
