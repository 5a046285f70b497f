"""A SAM of any size from the classes of the PyPI package segment-anything, so that the state dict has the original
names; a convolutional image encoder to put in the vision transformer's place; and a decoder call for prompts of
several pictures at once."""
import json
import os
import sys
from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import pyramid  # noqa: E402


def load_config(path):
    with open(path) as f:
        return json.load(f)


class ConvolutionalEncoder(pyramid.Pyramid):
    """forward(x) -> the embedding [B, C, g, g] at stride 16, and what the mask decoder adds while it upscales: features
    at stride 8 [B, C/4, 2g, 2g] and 4 [B, C/8, 4g, 4g], as in SAM 2."""

    def __init__(self, img_size, out_chans, **trunk):
        super().__init__(**trunk)
        self.img_size = img_size
        wide, fine = trunk["pyramid"]
        self.embed = nn.Conv2d(wide, out_chans, 1)
        self.at_8 = nn.Conv2d(fine, out_chans // 4, 1)
        self.at_4 = nn.Conv2d(pyramid.channels(trunk["stages"])[4], out_chans // 8, 1)
        with torch.no_grad():
            self.at_4.weight.mul_(0.1)  # the trunk's own features are large

    def forward(self, x, frozen=0):
        c4, middle, fine, _ = self.maps(x, frozen)
        return self.embed(middle), (self.at_8(fine), self.at_4(c4))


def image_encoder(c):
    encoder = dict(c["image_encoder"])
    if encoder.pop("kind") == "convolutional":
        return ConvolutionalEncoder(c["image_size"], c["out_chans"], **encoder)
    return ImageEncoderViT(
        img_size=c["image_size"],
        out_chans=c["out_chans"],
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        **encoder,
    )


def build(c):
    grid = c["image_size"] // c["image_encoder"].get("patch_size", 16)
    return Sam(
        image_encoder=image_encoder(c),
        prompt_encoder=PromptEncoder(
            embed_dim=c["out_chans"],
            image_embedding_size=(grid, grid),
            input_image_size=(c["image_size"], c["image_size"]),
            mask_in_chans=c["mask_in_chans"],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=c["num_multimask_outputs"],
            transformer=TwoWayTransformer(
                depth=c["decoder_depth"],
                embedding_dim=c["out_chans"],
                mlp_dim=c["decoder_mlp_dim"],
                num_heads=c["decoder_num_heads"],
            ),
            transformer_dim=c["out_chans"],
            iou_head_depth=c["iou_head_depth"],
            iou_head_hidden_dim=c["iou_head_hidden_dim"],
        ),
    )


def see(sam, side):
    """Makes a SAM with the convolutional encoder look at pictures of `side` pixels."""
    sam.image_encoder.img_size = side
    sam.prompt_encoder.input_image_size = (side, side)
    sam.prompt_encoder.image_embedding_size = (side // 16, side // 16)


def load_imagenet(sam):
    """Fills the trunk with ImageNet's weights, made to read SAM's normalised pixels instead of -1..1."""
    trunk = sam.image_encoder
    pyramid.load_imagenet(trunk)
    conv, norm = trunk.stem[0], trunk.stem[1]
    mean, std = sam.pixel_mean.flatten(), sam.pixel_std.flatten()
    with torch.no_grad():
        norm.running_mean -= (conv.weight.sum((2, 3)) * ((mean - 127.5) / 127.5)).sum(1)
        conv.weight *= (std / 127.5).view(1, 3, 1, 1)


def decode(sam, embeddings, sparse, fine=()):
    """All mask tokens' outputs for prompts that each bring their own picture's embedding.

    embeddings [P, C, h, w], sparse [P, n, C], fine: nothing or [P, C/4, 2h, 2w] and [P, C/8, 4h, 4w]
    -> logits [P, 1 + multimask, 4h, 4w], IoU [P, 1 + multimask].
    """
    d = sam.mask_decoder
    p, c, h, w = embeddings.shape
    tokens = torch.cat([d.iou_token.weight, d.mask_tokens.weight]).unsqueeze(0).expand(p, -1, -1)
    tokens = torch.cat([tokens, sparse], dim=1)
    src = embeddings + sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    pe = sam.prompt_encoder.get_dense_pe().expand(p, -1, -1, -1)
    hs, src = d.transformer(src, pe, tokens)
    first, norm, _, second, _ = d.output_upscaling
    up = first(src.transpose(1, 2).reshape(p, c, h, w))
    up = F.gelu(norm(up + fine[0] if fine else up))
    up = second(up)
    up = F.gelu(up + fine[1] if fine else up)
    hyper = torch.stack([m(hs[:, 1 + i]) for i, m in enumerate(d.output_hypernetworks_mlps)], dim=1)
    masks = (hyper @ up.flatten(2)).view(p, -1, 4 * h, 4 * w)
    return masks, d.iou_prediction_head(hs[:, 0])


def encode(sam, x):
    """Normalised pixels to the embedding and what else the decoder wants, whichever encoder it is."""
    out = sam.image_encoder(x)
    return out if isinstance(out, tuple) else (out, ())
