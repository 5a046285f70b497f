"""Golden tensors for tests/golden_sam.rs: tiny random SAMs of the PyPI package segment-anything.

python training/golden/sam.py      (writes tests/golden/sam/<case>/)

"windows": windows that need padding around one global block, another mask threshold.
"tables": relative-position tables made for other sizes, which the reference interpolates; the state dict also as
torch.save writes it (tables.pth), and answers at another picture size ("resized.*").
"convolutional": our own encoder of convolutions, run with its batch normalisation in place (the exported weights have
it folded in); the reference knows neither it nor what the decoder adds from it.
"""
import json
import os
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
sys.path.insert(0, os.path.join(ROOT, "training/sam"))
from model import build, decode, encode, pyramid  # noqa: E402

BASE = dict(
    mask_in_chans=8, num_multimask_outputs=3, mask_threshold=0.0, box_output="single"
)
CASES = {
    "windows": dict(
        image_size=64,
        image_encoder=dict(
            kind="vit", patch_size=8, embed_dim=24, depth=3, num_heads=3, mlp_ratio=2.0, window_size=5, global_attn_indexes=[1],
        ),
        out_chans=32, decoder_depth=2, decoder_num_heads=4, decoder_mlp_dim=40, iou_head_depth=3, iou_head_hidden_dim=20,
        mask_threshold=-0.3,
    ),
    "tables": dict(
        image_size=64,
        image_encoder=dict(
            kind="vit", patch_size=16, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0, window_size=3, global_attn_indexes=[1],
        ),
        out_chans=16, decoder_depth=1, decoder_num_heads=2, decoder_mlp_dim=24, iou_head_depth=2, iou_head_hidden_dim=12,
    ),
    "convolutional": dict(
        image_size=64,
        image_encoder=dict(
            kind="convolutional", stem=4, pyramid=[10, 8],
            stages=[[4, 1, 3, 1, 1], [6, 3, 3, 2, 2], [8, 2, 5, 2, 2], [10, 2, 3, 2, 1], [10, 2, 5, 1, 1], [12, 2, 5, 2, 2]],
        ),
        out_chans=32, decoder_depth=2, decoder_num_heads=4, decoder_mlp_dim=40, iou_head_depth=3, iou_head_hidden_dim=20,
    ),
}
# Width, height; no side a multiple of anything. None so tall that Pillow 12 and later scale it
# vertically first (see src/vision/resize.rs).
SIZES = [(97, 61), (47, 80), (150, 149)]


def randomise(sam, generator):
    with torch.no_grad():
        for name, p in list(sam.named_parameters()) + list(sam.named_buffers()):
            noise = torch.randn(p.shape, generator=generator)
            if "pixel_" in name or not p.is_floating_point():
                continue
            if "running_var" in name:
                p.copy_(0.5 + noise.abs())
                continue
            if "norm" in name and name.endswith("weight") or name.split(".")[-2] in ("neck", "1", "3") and p.ndim == 1:
                p.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.2 * noise)
            elif p.ndim > 1 and "embed" not in name and "token" not in name.split(".")[-2]:
                p.copy_(noise * p[0].numel() ** -0.5 * 1.3)
            else:
                p.copy_(0.5 * noise)


def stretch_tables(sam, generator):
    """Tables of other lengths, as in a checkpoint that was trained at another size."""
    for block, length in zip(sam.image_encoder.blocks, (9, 5)):
        for name in ("rel_pos_h", "rel_pos_w"):
            width = getattr(block.attn, name).shape[1]
            table = 0.5 * torch.randn((length, width), generator=generator)
            setattr(block.attn, name, torch.nn.Parameter(table))


def spread_ious(sam, ious):
    """Scales and shifts the IoU head's last layer, so that most predictions lie within 0..1, where clamping hides
    nothing, and some above."""
    last = sam.mask_decoder.iou_prediction_head.layers[-1]
    scale = 0.3 / ious.std()
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.sub_(ious.mean()).mul_(scale).add_(0.6)


def resized(sam, config, size):
    """The same network for pictures of another size: the reference interpolates its relative positions, but has no
    code for the absolute ones, so they are interpolated here, as detectors on plain backbones do."""
    other = build(config | {"image_size": size}).eval()
    for ours, theirs in zip(other.image_encoder.blocks, sam.image_encoder.blocks):
        ours.attn.rel_pos_h, ours.attn.rel_pos_w = theirs.attn.rel_pos_h, theirs.attn.rel_pos_w
    grid = size // config["image_encoder"]["patch_size"]
    positions = sam.image_encoder.pos_embed.permute(0, 3, 1, 2)
    positions = torch.nn.functional.interpolate(positions, size=(grid, grid), mode="bilinear", align_corners=False)
    other.load_state_dict(sam.state_dict() | {"image_encoder.pos_embed": positions.permute(0, 2, 3, 1)})
    return other


def picture(index, size):
    """Smooth shapes with noise, so that a resize matters."""
    rng = np.random.default_rng(index)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    rgb = np.asarray(small.resize(size, Image.BICUBIC)).astype(int) + rng.integers(-20, 20, (size[1], size[0], 1))
    return rgb.clip(0, 255).astype(np.uint8)


def prompts(index, size):
    w, h = size
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0], [0.55, 0.1, 0.8, 0.45]]) * torch.tensor([w, h, w, h])
    points = torch.tensor([[[0.3, 0.5], [0.8, 0.2]], [[0.5, 0.75], [0.1, 0.1]]]) * torch.tensor([w, h])
    return boxes[: 3 - index].contiguous(), points, torch.tensor([[1, 0], [1, 1]])


@torch.no_grad()
def run(sam, rgb, index, threshold):
    h, w = rgb.shape[:2]
    transform = ResizeLongestSide(sam.image_encoder.img_size)
    resized = transform.apply_image(rgb)
    x = sam.preprocess(torch.from_numpy(resized).permute(2, 0, 1).float()).unsqueeze(0)
    embedding, fine = encode(sam, x)
    boxes, points, labels = prompts(index, (w, h))
    scaled_boxes = transform.apply_boxes_torch(boxes, (h, w))
    scaled_points = transform.apply_coords_torch(points, (h, w))
    out = {"rgb": torch.from_numpy(rgb), "embedding": embedding[0], "boxes": boxes, "points": points, "labels": labels}
    out |= {f"fine.{i}": part[0] for i, part in enumerate(fine)}
    kinds = {
        "box": dict(points=None, boxes=scaled_boxes),
        "point": dict(points=(scaled_points, labels), boxes=None),
        "both": dict(points=(scaled_points[:1, :1], labels[:1, :1]), boxes=scaled_boxes[:1]),
    }
    for kind, prompt in kinds.items():
        sparse, dense = sam.prompt_encoder(masks=None, **prompt)
        if fine:
            many = [part.expand(len(sparse), -1, -1, -1) for part in (embedding, *fine)]
            logits, iou = decode(sam, many[0], sparse, many[1:])
        else:
            logits, iou = sam.mask_decoder.predict_masks(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense)
        cell = sam.image_encoder.img_size / logits.shape[-1]
        rows, columns = (max(1, int(s / cell + 0.5)) for s in resized.shape[:2])
        final = sam.postprocess_masks(logits, resized.shape[:2], (h, w)) > threshold
        out |= {
            f"{kind}.sparse": sparse,
            f"{kind}.logits": logits,
            f"{kind}.iou": iou,
            f"{kind}.stability": calculate_stability_score(logits[..., :rows, :columns], threshold, 1.0),
            f"{kind}.mask": torch.from_numpy(np.packbits(final.numpy().reshape(-1))),
        }
    return out


def main():
    for number, (case, sizes) in enumerate(CASES.items()):
        generator = torch.Generator().manual_seed(number)
        torch.manual_seed(number)
        config = BASE | sizes
        sam = build(config).eval()
        randomise(sam, generator)
        if case == "tables":
            stretch_tables(sam, generator)
        pictures = [picture(index, size) for index, size in enumerate(SIZES)]
        answers = [run(sam, rgb, index, config["mask_threshold"]) for index, rgb in enumerate(pictures)]
        spread_ious(sam, torch.cat([v.flatten() for answer in answers for k, v in answer.items() if k.endswith(".iou")]))
        folder = os.path.join(ROOT, "tests/golden/sam", case)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(config, f, indent=1)
            f.write("\n")
        save_file(pyramid.fold(sam), os.path.join(folder, "model.safetensors"))
        expected = {"dense_pe": sam.prompt_encoder.get_dense_pe()[0]}
        for index, rgb in enumerate(pictures):
            expected |= {f"{index}.{k}": v for k, v in run(sam, rgb, index, config["mask_threshold"]).items()}
        if case == "tables":
            torch.save(pyramid.fold(sam), os.path.join(ROOT, "tests/golden/sam/tables.pth"))
            other = run(resized(sam, config, 96), pictures[0], 0, config["mask_threshold"])
            expected |= {f"resized.{k}": other[k] for k in ("embedding", "box.logits", "box.iou")}
        save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(folder, "expected.safetensors"))
        for k, v in expected.items():
            if k.endswith(("logits", "embedding", "iou", "stability")):
                v = v.float()
                print(case, k, tuple(v.shape), f"mean {v.mean():.3f} std {v.std():.3f}")


if __name__ == "__main__":
    main()
