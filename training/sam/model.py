"""A SAM of any size from the classes of the PyPI package segment-anything, so that the state dict
has the original names; and a decoder call for prompts of several pictures at once."""
import json
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer


def load_config(path):
    with open(path) as f:
        return json.load(f)


def build(c):
    grid = c["image_size"] // c["patch_size"]
    return Sam(
        image_encoder=ImageEncoderViT(
            depth=c["depth"],
            embed_dim=c["embed_dim"],
            img_size=c["image_size"],
            mlp_ratio=c["mlp_ratio"],
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=c["num_heads"],
            patch_size=c["patch_size"],
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=c["global_attn_indexes"],
            window_size=c["window_size"],
            out_chans=c["out_chans"],
        ),
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


def encode(encoder, x):
    """The image encoder, also returning its last tokens before the neck [B, h, w, C]."""
    x = encoder.patch_embed(x) + encoder.pos_embed
    for block in encoder.blocks:
        x = block(x)
    return x, encoder.neck(x.permute(0, 3, 1, 2))


def decode(sam, embeddings, sparse):
    """All mask tokens' outputs for prompts that each bring their own picture's embedding.

    embeddings [P, C, h, w], sparse [P, n, C] -> logits [P, 1 + multimask, 4h, 4w], IoU [P, 1 + multimask].
    """
    d = sam.mask_decoder
    p, c, h, w = embeddings.shape
    tokens = torch.cat([d.iou_token.weight, d.mask_tokens.weight]).unsqueeze(0).expand(p, -1, -1)
    tokens = torch.cat([tokens, sparse], dim=1)
    src = embeddings + sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    pe = sam.prompt_encoder.get_dense_pe().expand(p, -1, -1, -1)
    hs, src = d.transformer(src, pe, tokens)
    up = d.output_upscaling(src.transpose(1, 2).reshape(p, c, h, w))
    hyper = torch.stack([m(hs[:, 1 + i]) for i, m in enumerate(d.output_hypernetworks_mlps)], dim=1)
    masks = (hyper @ up.flatten(2)).view(p, -1, 4 * h, 4 * w)
    return masks, d.iou_prediction_head(hs[:, 0])
