"""Golden tensors for tests/golden_sam_layouts.rs: SAMs as others than Meta save them, tiny, with random weights.

    pip install --no-deps segment-anything-hq==0.3 timm==1.0.31
    python training/golden/sam_layouts.py      (writes tests/golden/sam/{hugging_face,mobile}/)

"hugging_face": transformers' SamModel as it saves itself, with transformers' own scaling of pictures and prompts and
its own way from low-resolution masks to a picture's pixels. "mobile": TinyViT of segment-anything-hq in the place of
the image encoder, as in MobileSAM, otherwise segment-anything's parts; windows that reach over the edge, and one that is
the whole map.
"""
import json
import os

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from segment_anything_hq.modeling.tiny_vit_sam import LayerNorm2d, TinyViT
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

import sam as golden

FOLDER = os.path.join(golden.ROOT, "tests/golden/sam")


def randomise(module, generator):
    with torch.no_grad():
        for name, p in list(module.named_parameters()) + list(module.named_buffers()):
            if not p.is_floating_point():
                continue
            noise = torch.randn(p.shape, generator=generator)
            if name.endswith("running_var"):
                p.copy_(0.5 + noise.abs())
            elif p.ndim == 1 and name.endswith("weight"):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim > 1 and not any(part in name for part in ("embed", "token", "rel_pos", "biases")):
                p.copy_(noise * p[0].numel() ** -0.5 * 1.3)
            else:
                p.copy_((0.2 if p.ndim == 1 else 0.5) * noise)


@torch.no_grad()
def hugging_face():
    size = 64
    model = SamModel(SamConfig(
        vision_config=dict(
            hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=size, patch_size=8, mlp_dim=52,
            global_attn_indexes=[1], window_size=5, output_channels=32, num_pos_feats=16,
        ),
        prompt_encoder_config=dict(hidden_size=32, image_size=size, patch_size=8, mask_input_channels=4),
        mask_decoder_config=dict(hidden_size=32, mlp_dim=40, num_attention_heads=4, iou_head_depth=4, iou_head_hidden_dim=20),
    )).eval()
    randomise(model, torch.Generator().manual_seed(5))
    head = model.mask_decoder.iou_prediction_head.proj_out
    head.weight.mul_(0.2), head.bias.mul_(0.3).add_(0.5)
    folder = os.path.join(FOLDER, "hugging_face")
    model.save_pretrained(folder)
    processor = SamProcessor(SamImageProcessor(size={"longest_edge": size}, pad_size={"height": size, "width": size}))
    expected = {}
    for index, shape in enumerate(golden.SIZES):
        rgb = golden.picture(index, shape)
        boxes, _, _ = golden.prompts(index, shape)
        inputs = processor(Image.fromarray(rgb), input_boxes=[boxes.tolist()], return_tensors="pt")
        inputs["input_boxes"] = inputs["input_boxes"].float()
        embedding = model.get_image_embeddings(inputs["pixel_values"])
        given = dict(image_embeddings=embedding, input_boxes=inputs["input_boxes"])
        answers = [model(**given, multimask_output=several) for several in (False, True)]
        logits = torch.cat([answer.pred_masks[0] for answer in answers], 1)
        masks = processor.image_processor.post_process_masks(
            logits[None], inputs["original_sizes"], inputs["reshaped_input_sizes"]
        )[0]
        expected |= {
            f"{index}.rgb": torch.from_numpy(rgb), f"{index}.boxes": boxes, f"{index}.embedding": embedding[0],
            f"{index}.logits": logits, f"{index}.iou": torch.cat([answer.iou_scores[0] for answer in answers], 1),
            f"{index}.mask": torch.from_numpy(np.packbits(masks.numpy().reshape(-1))),
        }
    save_file({k: v.contiguous() for k, v in expected.items()}, os.path.join(folder, "expected.safetensors"))
    return expected


class Encoder(TinyViT):
    """TinyViT at any size: the package has MobileSAM's numbers written into it."""

    def __init__(self, img_size, out_chans, **sizes):
        super().__init__(img_size=img_size, num_classes=7, **sizes)
        self.layers[2].downsample.conv2.c.stride = (1, 1)
        self.neck = torch.nn.Sequential(
            torch.nn.Conv2d(sizes["embed_dims"][-1], out_chans, 1, bias=False), LayerNorm2d(out_chans),
            torch.nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False), LayerNorm2d(out_chans),
        )

    def forward(self, x):
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        grid = self.img_size // 16
        return self.neck(x.view(len(x), grid, grid, -1).permute(0, 3, 1, 2))


def mobile():
    sizes = dict(
        embed_dims=[8, 12, 16, 24], depths=[1, 1, 2, 1], num_heads=[2, 3, 4, 3], window_sizes=[3, 3, 4, 3], mlp_ratio=2.0,
        mbconv_expand_ratio=3.0,
    )
    config = golden.BASE | dict(
        image_size=64, image_encoder=dict(kind="tiny_vit", **sizes), out_chans=32, decoder_depth=2, decoder_num_heads=4,
        decoder_mlp_dim=40, iou_head_depth=3, iou_head_hidden_dim=20,
    )
    plain = dict(kind="vit", patch_size=16, embed_dim=8, depth=1, num_heads=2, mlp_ratio=1.0, window_size=2, global_attn_indexes=[])
    sam = golden.build(config | {"image_encoder": plain})
    sam.image_encoder = Encoder(64, 32, **sizes)
    golden.randomise(sam, torch.Generator().manual_seed(6))
    randomise(sam.image_encoder, torch.Generator().manual_seed(7))
    # Keeps the biases that training does not: they are made when it ends.
    sam.train().eval()
    run = lambda: [golden.run(sam, golden.picture(index, shape), index, 0.0) for index, shape in enumerate(golden.SIZES)]
    golden.spread_ious(sam, torch.cat([own["box.iou"].flatten() for own in run()]))
    answers = {}
    for index, own in enumerate(run()):
        answers |= {f"{index}.{k}": own[k] for k in ("rgb", "boxes", "embedding")}
        answers |= {f"{index}.{k}": own[f"box.{k}"] for k in ("logits", "iou", "mask")}
    folder = os.path.join(FOLDER, "mobile")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    torch.save(sam.state_dict(), os.path.join(folder, "model.pt"))
    save_file({k: v.contiguous() for k, v in answers.items()}, os.path.join(folder, "expected.safetensors"))
    return answers


if __name__ == "__main__":
    for expected in (hugging_face(), mobile()):
        for name, value in expected.items():
            if value.is_floating_point():
                print(name, tuple(value.shape), f"mean {value.mean():.3f} std {value.std():.3f}")
