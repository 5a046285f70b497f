"""What PyTorch takes for the stages that `riveg bench` measures, on the same weights and shapes.

    riveg bench --random tagger=xlm-roberta-large,ofa=base,sam=vit-b --weights DIR …   writes DIR
    python training/bench/torch_baseline.py DIR --threads 2

DIR holds `tagger`, `ofa-entail`, `ofa-ground` and `sam` as riveg writes random weights, or is the pack
`models/nano`. Prints one line of JSON that names the cases and their implementations, then for every
line `CASE IMPLEMENTATION` on standard input runs it once and answers with milliseconds.
`scripts/bench-vs-torch` speaks with it.

The networks are those of transformers, segment-anything and modelscope's port of OFA, `nano`'s those
that it was trained with. Their inputs lie ready on the device: unlike riveg, which scales pictures
and cuts texts to pieces inside the clock, PyTorch's clock sees the networks alone.

    pip install torch transformers==4.57.3 segment-anything pytorch-crf safetensors tokenizers
    pip install --no-deps torchvision modelscope==1.40.2
"""

import argparse
import functools
import importlib.util
import json
import string
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

TRAINING = Path(__file__).resolve().parents[1]
EXPRESSION = "a b c d e f g h"
ENTITIES = 2
BEAM, STEPS = 5, 5
OFA_SIZES = {
    # d_model, encoder and decoder layers, heads, trunk
    "tiny": (256, 4, 4, 4, "resnet50"),
    "medium": (512, 4, 4, 8, "resnet101"),
    "base": (768, 6, 6, 12, "resnet101"),
    "large": (1024, 12, 12, 16, "resnet152"),
    "huge": (1280, 24, 12, 16, "resnet152"),
}


@functools.cache
def script(path, name):
    """A module of another training folder; several of them have the same file name."""
    sys.path.insert(0, str((TRAINING / path).parent))
    spec = importlib.util.spec_from_file_location(name, TRAINING / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(net, tensors, rename=lambda name: name):
    """Loads every tensor there is; those that only the reference has keep their values."""
    tensors = {rename(k): v for k, v in tensors.items()}
    unexpected = net.load_state_dict(tensors, strict=False, assign=True).unexpected_keys
    assert not unexpected, unexpected
    return net.eval()


class Tagger:
    """Encoder, linear layer and CRF."""

    def __init__(self, folder, place):
        from torchcrf import CRF
        from transformers import BertConfig, BertModel, XLMRobertaConfig, XLMRobertaModel

        config = json.loads((folder / "config.json").read_text())
        encoder, labels = dict(config["encoder"]), len(config["labels"])
        bert = encoder.pop("model_type") == "bert"
        kind, configuration = (BertModel, BertConfig) if bert else (XLMRobertaModel, XLMRobertaConfig)
        tensors = load_file(folder / "model.safetensors")
        part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.nets = {}
        for implementation in ("eager", "sdpa"):
            net = kind(configuration(**encoder, attn_implementation=implementation), add_pooling_layer=False)
            self.nets[implementation] = load(net, part("embedder.transformer_model.")).to(**place)
        linear, crf = torch.nn.Linear(encoder["hidden_size"], labels), CRF(labels, batch_first=True)
        self.linear = load(linear, part("linear.")).float().to(place["device"])
        self.crf = load(crf, part("crf.")).float().to(place["device"])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokens = [tokenizer.token_to_id(letter) for letter in string.ascii_lowercase]
        self.letters, self.frame = tokens, [tokenizer.token_to_id(t) for t in (["[CLS]", "[SEP]"] if bert else ["<s>", "</s>"])]
        self.device = place["device"]

    def tag(self, batch, pieces):
        words = [self.letters[i % 26] for i in range(pieces - 2)]
        ids = torch.tensor([[self.frame[0], *words, self.frame[1]]] * batch, device=self.device)

        def run(implementation):
            hidden = self.nets[implementation](input_ids=ids).last_hidden_state[:, 1:-1]
            return self.crf.decode(self.linear(hidden.float()))

        return run


class Ofa:
    """modelscope's port, with its own cache of keys and values in beam search."""

    def __init__(self, folder, place):
        golden = script("golden/ofa.py", "golden_ofa")
        config = json.loads((folder / "config.json").read_text())
        d, encoder, decoder, heads, trunk = OFA_SIZES[config["network"]]
        self.port = golden.ofa
        net = golden.ofa.OFAModel(golden.OFAConfig(
            vocab_size=59457, d_model=d, encoder_layers=encoder, decoder_layers=decoder,
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * d,
            decoder_ffn_dim=4 * d, normformer=True, entangle_position_embedding=False,
            disable_entangle=True, resnet_type=trunk,
        ))
        names = {
            "encoder.": {"attn_ln": "self_attn_mid_layer_norm"},
            "decoder.": {"self_attn_ln": "self_attn_mid_layer_norm", "cross_attn_ln": "cross_attn_mid_layer_norm",
                         "encoder_attn_layer_norm": "cross_attn_layer_norm", "encoder_attn": "cross_attn"},
        }

        def rename(name):
            table = names[name[:8]] | {"ffn_layernorm": "ffn_layer_norm"}
            return ".".join(table.get(part, part) for part in name.split("."))

        self.net = load(net, load_file(folder / "model.safetensors"), rename)
        # One matrix under three names.
        net.decoder.embed_tokens = net.encoder.embed_tokens
        net.decoder.output_projection.weight = net.encoder.embed_tokens.weight
        self.net.to(**place)
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.side, self.place = config["image_size"], place

    def inputs(self, batch, prompt):
        ids = [0, *self.tokenizer.encode(prompt, add_special_tokens=False).ids, 2]
        ids = torch.tensor([ids] * batch, device=self.place["device"])
        pixels = torch.randn(batch, 3, self.side, self.side).to(**self.place)
        masks = torch.ones(batch, dtype=torch.bool, device=self.place["device"])
        return {"input_ids": ids, "patch_images": pixels, "patch_masks": masks}

    def entail(self, batch):
        net = self.inputs(batch, f' does the image describe " {EXPRESSION} "?')
        prompt = net["input_ids"][:, :-1]
        return lambda _: self.net(**net, decoder_input_ids=prompt).logits[:, -1, 4:7].softmax(-1).cpu()

    def ground(self, batch):
        net = self.inputs(batch, f' which region does the text " {EXPRESSION} " describe?')
        return lambda _: self.search(net)

    def trunk(self, batch):
        pixels = torch.randn(batch, 3, self.side, self.side).to(**self.place)
        return lambda _: self.net.encoder.embed_images(pixels)

    def search(self, net):
        """Beam search for four tokens and the end: five passes of the decoder."""
        encoded = self.net.encoder(**net)
        batch = len(net["input_ids"])
        tokens = torch.zeros(batch, 1, dtype=torch.long, device=self.place["device"])
        scores, past = torch.zeros(batch, 1, device=self.place["device"]), None
        for step in range(STEPS):
            memory = encoded.last_hidden_state
            out = self.net.decoder(
                input_ids=tokens, encoder_hidden_states=memory, src_pos_embed=encoded.position_embedding,
                encoder_attention_mask=self.port._expand_mask(encoded.padding_mask, memory.dtype, 1),
                past_key_values=past, use_cache=True)
            logits = out.last_hidden_state[:, -1].float().log_softmax(-1)
            beams = scores.shape[1]
            totals = (scores.flatten()[:, None] + logits).view(batch, beams, -1)
            best = totals.flatten(1).topk(BEAM, -1)
            parents = best.indices // totals.shape[-1]
            rows = (parents + torch.arange(batch, device=parents.device)[:, None] * beams).flatten()
            tokens = torch.cat([tokens[rows], (best.indices % totals.shape[-1]).view(-1, 1)], 1)
            scores = best.values
            past = [[state.index_select(0, rows) for state in layer] for layer in out.past_key_values]
            if step == 0:
                many = {k: encoded[k].index_select(0, rows) for k in ("last_hidden_state", "padding_mask", "position_embedding")}
                encoded = self.port.OFAEncoderOutput(**many)
        return tokens.view(batch, BEAM, -1)[:, 0].cpu()


def sdpa_attention(attention, x):
    """segment-anything's `Attention.forward` on PyTorch's fused attention, positions as its mask."""
    from segment_anything.modeling.image_encoder import get_rel_pos

    b, h, w, _ = x.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(x).reshape(b, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    rows = get_rel_pos(h, h, attention.rel_pos_h)
    columns = get_rel_pos(w, w, attention.rel_pos_w)
    grid = q.reshape(b, heads, h, w, -1)
    bias = torch.einsum("bnhwc,hkc->bnhwk", grid, rows)[..., None] + torch.einsum("bnhwc,wkc->bnhwk", grid, columns)[..., None, :]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias.reshape(b, heads, h * w, h * w))
    return attention.proj(out.view(b, heads, h, w, -1).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1))


class Sam:
    """segment-anything, or the network that nano's segmenter was trained as."""

    def __init__(self, folder, place):
        self.code = script("sam/model.py", "sam_model")
        self.config = json.loads((folder / "config.json").read_text())
        self.net = self.code.build(self.config)
        tensors = load_file(folder / "model.safetensors")
        self.transformer = self.config["image_encoder"]["kind"] == "vit"
        if self.transformer:
            load(self.net, tensors)
        else:
            self.code.pyramid.load_folded(self.net.eval(), tensors)
        self.net.to(**place)
        self.net.prompt_encoder.float()  # it places corners in f32, whatever its table's type
        self.plain = {}
        for block in getattr(self.net.image_encoder, "blocks", ()):
            self.plain[block.attn] = block.attn.forward
        self.place = place

    def attend(self, implementation):
        for attention, plain in self.plain.items():
            attention.forward = plain if implementation == "eager" else lambda x, a=attention: sdpa_attention(a, x)

    def pixels(self, batch):
        return torch.randn(batch, 3, *[self.config["image_size"]] * 2).to(**self.place)

    def encode(self, batch):
        pixels = self.pixels(batch)

        def run(implementation):
            self.attend(implementation)
            return self.code.encode(self.net, pixels)

        return run

    def segment(self, boxes):
        encoded = self.code.encode(self.net, self.pixels(1))
        return lambda _: self.decode(encoded, boxes)

    def decode(self, encoded, boxes):
        embedding, fine = encoded
        side = self.config["image_size"]
        at = torch.arange(boxes)[:, None] * (side / 64)
        corners = torch.cat([at, at, at + side / 3, at + side / 4], 1).to(self.place["device"])
        sparse, dense = self.net.prompt_encoder(points=None, boxes=corners, masks=None)
        sparse, dense = sparse.to(embedding.dtype), dense.to(embedding.dtype)
        if fine:
            many = [part.expand(boxes, -1, -1, -1) for part in (embedding, *fine)]
            logits, iou = self.code.decode(self.net, many[0], sparse, many[1:])
            logits = logits[:, :1]
        else:
            logits, iou = self.net.mask_decoder(
                image_embeddings=embedding, image_pe=self.net.prompt_encoder.get_dense_pe().to(embedding.dtype),
                sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False)
        return logits.float().cpu(), iou.float().cpu()


class Dense:
    """nano's entailment and grounding; all questions are the same one, so its text is read once."""

    def __init__(self, folder, place):
        self.code = script("dense/model.py", "dense_model")
        self.config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        step = tensors.pop("text.table_step").float()
        tensors["text.table"] = (tensors["text.table"].float() - 128) * step[:, None]
        self.net = self.code.Dense(self.config, tensors["text.table"]).eval()
        self.code.pyramid.load_folded(self.net, tensors)
        self.net.to(**place)
        self.place = place

    def tokens(self, questions):
        words = torch.arange(8).expand(questions, -1)
        mask = torch.ones_like(words, dtype=torch.bool)
        kind = torch.zeros(questions, dtype=torch.long)
        return [t.to(self.place["device"]) for t in (words + 1037, words, mask, kind)]

    def ask(self, batch, questions):
        pixels = torch.randn(batch, 3, *[self.config["side"]] * 2).to(**self.place)
        tokens = self.tokens(questions)
        return lambda _: [t.cpu() for t in self.code.answer(self.net, pixels, tokens)]

    def entail(self, batch):
        pixels = torch.randn(batch, 3, *[self.config["side"]] * 2).to(**self.place)
        tokens = self.tokens(1)

        def run(_):
            f, e, scene = self.net.trunk(pixels)
            t = self.net.text(*tokens)
            return torch.sigmoid(self.net.judge(f, scene, t, *self.net.maps(e, t))).cpu()

        return run

    def ground(self, batch):
        """Answers entailment as well: the training code has the two in one function."""
        return self.ask(batch, 1)


def networks(folder):
    """What DIR holds, by role."""
    found = {}
    for name, kind, roles in [("tagger", Tagger, ["tag"]), ("ofa-entail", Ofa, ["entail", "trunk"]), ("ofa-ground", Ofa, ["ground"]),
                              ("dense", Dense, ["entail", "ground"]), ("sam", Sam, ["encode", "segment"])]:
        if (folder / name / "config.json").is_file():
            found |= dict.fromkeys(roles, (kind, folder / name))
    return found


def whole(tagger, entailer, grounder, segmenter, pieces):
    """One post: a text, a picture, ENTITIES questions, boxes. The dense network looks at it once."""
    parts = [tagger.tag(1, pieces)]
    if isinstance(entailer, Dense):
        parts.append(entailer.ask(1, ENTITIES))
    else:
        parts += [entailer.entail(ENTITIES), grounder.ground(ENTITIES)]
    encode = segmenter.encode(1)

    def run(implementation):
        for part in parts:
            part(implementation)
        return segmenter.decode(encode(implementation), ENTITIES)

    return run


def cases(args, place):
    """Case name to its function and implementations."""
    found, built = networks(args.weights), {}

    def network(role):
        kind, folder = found[role]
        if folder not in built:
            built[folder] = kind(folder, place)
        return built[folder]

    made = {}
    for case in args.cases.split(","):
        stage, batch = case.split("/")
        if stage == "whole":
            roles = [network(role) for role in ("tag", "entail", "ground", "encode")]
            made[case] = whole(*roles, args.pieces), ["eager", "sdpa"]
        elif stage == "tag":
            made[case] = network(stage).tag(int(batch), args.pieces), ["eager", "sdpa"]
        else:
            net = network(stage)
            fused = stage == "encode" and net.transformer
            made[case] = getattr(net, stage)(int(batch)), ["eager", "sdpa"] if fused else ["eager"]
    return made


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--cases", required=True, help="e.g. tag/1,tag/8,encode/1")
    parser.add_argument("--pieces", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="f32", choices=["f32", "f16", "bf16"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # f32 is f32 on both sides; products are so by default
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[args.dtype]
    with torch.inference_mode():
        made = cases(args, {"device": args.device, "dtype": dtype})
        print(json.dumps({"torch": torch.__version__, "cases": {name: kinds for name, (_, kinds) in made.items()}}), flush=True)
        for line in sys.stdin:
            name, implementation = line.split()
            begun = time.perf_counter()
            made[name][0](implementation)
            if args.device != "cpu":
                torch.cuda.synchronize()
            print(1000 * (time.perf_counter() - begun), flush=True)


if __name__ == "__main__":
    main()
