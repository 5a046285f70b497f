"""Golden tensors for tests/golden_ofa.rs, from the OFA port in the PyPI package modelscope.

    pip install torch==2.9.1 transformers==4.57.3 safetensors regex
    pip install --no-deps modelscope==1.40.2
    python training/golden/ofa.py tests/golden/ofa [--bpe DIR]

Three small networks with random weights, with different flags and in different checkpoint layouts:
`fairseq` (names and flags of the original; also as a .pt file), `port` (the port's names;
positions added to the inputs, no inner normalisations, no factors per head) and `hub` (a folder as the
port's are downloaded, with its own config.json and half-precision pytorch_model.bin). DIR holds OFA's
utils/BPE (dict.txt, encoder.json, vocab.bpe); with it the tokenizations are made anew, and a subset
of the vocabulary that is just enough for them.
"""

import argparse
import importlib.util
import json
import pathlib
import sys
import types

import torch
from safetensors.torch import save_file


def stub_packages():
    """Lets the OFA modules be imported without the rest of modelscope."""
    root = pathlib.Path(importlib.util.find_spec("modelscope").submodule_search_locations[0])
    for name in ["", ".models", ".models.multi_modal", ".models.multi_modal.ofa"]:
        module = types.ModuleType("modelscope" + name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules["modelscope" + name] = module
    # The vision transformers of OFA-Sys, unused here, would need fairseq.
    vit = types.ModuleType("modelscope.models.multi_modal.ofa.vit")
    vit.vit_base = vit.vit_large = vit.vit_large_336 = vit.vit_huge = None
    sys.modules[vit.__name__] = vit


stub_packages()
from modelscope.models.multi_modal.ofa import modeling_ofa as ofa  # noqa: E402
from modelscope.models.multi_modal.ofa.configuration_ofa import OFAConfig  # noqa: E402
from modelscope.models.multi_modal.ofa.generate.sequence_generator import (  # noqa: E402
    SequenceGenerator,
)
from modelscope.models.multi_modal.ofa.resnet import ResNet  # noqa: E402

BOS, PAD, EOS, UNK = 0, 1, 2, 3
FIRST_BIN, BINS = 300, 100
# Tokens of several bytes in the small vocabulary, after the specials and the 256 bytes.
WORDS = [" yes", " no", " maybe", " the", " text"]


class NarrowResNet(ResNet):
    """The port's trunk with another width."""

    def __init__(self, layers, width):
        self.narrow = width
        super().__init__(layers)
        self.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(width)

    def _make_layer(self, block, planes, blocks, **kwargs):
        if planes == 64:
            self.inplanes = self.narrow
        return super()._make_layer(block, planes * self.narrow // 64, blocks, **kwargs)


def randomize(model, generator):
    """Random values at which every part of the network matters."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            value = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.dim() == 1 and (name.endswith("weight") or name.endswith("c_attn")):
            value = 1 + 0.3 * noise
        elif tensor.dim() == 1:
            value = 0.2 * noise
        elif "rel_pos_table" in name or "embed" in name and "images" not in name:
            value = noise
        else:
            value = noise * (1.3 / tensor[0].numel() ** 0.5)
        tensor.copy_(value)


def build(sizes, seed):
    """A network of the port in eval mode."""
    config = OFAConfig(
        vocab_size=sizes["vocab_size"],
        d_model=sizes["d_model"],
        encoder_layers=sizes["encoder_layers"],
        decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["encoder_attention_heads"],
        decoder_attention_heads=sizes["decoder_attention_heads"],
        encoder_ffn_dim=sizes["encoder_ffn_dim"],
        decoder_ffn_dim=sizes["decoder_ffn_dim"],
        max_position_embeddings=sizes["max_position_embeddings"],
        token_bucket_size=sizes["token_bucket_size"],
        image_bucket_size=sizes["image_bucket_size"],
        normformer=sizes["scale_attn"],
        entangle_position_embedding=sizes["entangle_encoder_positions"],
        disable_entangle=not sizes["entangle_decoder_positions"],
        resnet_type="resnet50",
    )
    model = ofa.OFAModel(config)
    width = sizes["resnet_width"]
    model.encoder.embed_images = NarrowResNet(sizes["resnet_layers"], width)
    model.encoder.image_proj = torch.nn.Linear(16 * width, sizes["d_model"])
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        randomize(model, generator)
        if not sizes["scale_heads"]:
            for name, parameter in model.named_parameters():
                if name.endswith("c_attn"):
                    parameter.fill_(1.0)
        # Location tokens become likely and repetitions less so, so that some answers are boxes.
        model.decoder.layernorm_embedding.weight.mul_(0.1)
        table = model.encoder.embed_tokens.weight
        table.mul_(0.5)
        direction = torch.randn(sizes["d_model"], generator=generator)
        first = sizes.get("first_bin", FIRST_BIN)
        table[first : first + BINS] += direction
        model.decoder.layer_norm.bias += 0.4 * direction
    return model.eval()


def state_dict(model, fairseq):
    """Tensors of a checkpoint, without buffers that are computed anew."""
    names = {
        "encoder.": {"self_attn_mid_layer_norm": "attn_ln"},
        "decoder.": {
            "self_attn_mid_layer_norm": "self_attn_ln",
            "cross_attn_mid_layer_norm": "cross_attn_ln",
            "cross_attn_layer_norm": "encoder_attn_layer_norm",
            "cross_attn": "encoder_attn",
        },
    }
    tensors = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if fairseq:
            table = names[name[:8]] | {"ffn_layer_norm": "ffn_layernorm"}
            name = ".".join(table.get(part, part) for part in name.split("."))
        tensors[name] = tensor.clone()
    return tensors


class StubTokenizer:
    """What the port's generator asks of a tokenizer."""

    pad_token_id, unk_token_id, bos_token_id, eos_token_id = PAD, UNK, BOS, EOS

    def __init__(self, size):
        self.size = size

    def get_vocab(self):
        return {str(i): i for i in range(self.size)}

    def get_added_vocab(self):
        return {}


@torch.no_grad()
def goldens(model, sizes, image_size, seed):
    """Inputs and outputs of all parts."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [24, 13, 7]
    pixels = torch.randn((3, 3, image_size, image_size), generator=generator)
    ids = torch.full((3, max(lengths)), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, sizes["vocab_size"], (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = BOS, EOS
    net = dict(input_ids=ids, patch_images=pixels, patch_masks=torch.ones(3).bool())
    biases = []
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, __, kwargs: biases.append(kwargs["attn_bias"]), with_kwargs=True
        )
        for layer in model.encoder.layers
    ]
    encoded = model.encoder(**net)
    for hook in hooks:
        hook.remove()
    heads = sizes["encoder_attention_heads"]

    # Entailment: the decoder reads the source without </s>.
    prompts = torch.full((3, max(lengths) - 1), PAD)
    for row, length in enumerate(lengths):
        prompts[row, : length - 1] = ids[row, : length - 1]
    logits = model(**net, decoder_input_ids=prompts).logits
    last = torch.stack([logits[row, length - 2] for row, length in enumerate(lengths)])

    # Beam search. The port's generator keeps no keys and values between steps.
    search = SequenceGenerator(
        StubTokenizer(sizes["vocab_size"]),
        beam_size=5,
        max_len_b=4,
        min_len=4,
        no_repeat_ngram_size=3,
    )
    best = [hypotheses[0] for hypotheses in search.generate([model], {"net_input": net})]
    assert all(b["tokens"][-1] == EOS and len(b["tokens"]) == 5 for b in best)
    out = {
        "pixels": pixels,
        "ids": ids,
        "lengths": torch.tensor(lengths),
        "trunk": model.encoder.embed_images(pixels),
        "encoder": encoded.last_hidden_state,
        "prompt_logits": logits,
        "last_logits": last,
        "beam_tokens": torch.stack([b["tokens"][:4] for b in best]),
        "beam_scores": torch.stack([b["score"] for b in best]),
    }
    for layer, bias in enumerate(biases):
        out[f"bias.{layer}"] = bias.view(3, heads, *bias.shape[1:])[0]
    return {name: tensor.contiguous() for name, tensor in out.items()}


def byte_characters():
    """GPT-2's printable stand-ins for bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return {b: chr(b) if b in keep else chr(next(spare)) for b in range(256)}


def small_vocabulary():
    """vocab.json and merges.txt of the small pack: bytes and a few words."""
    characters = byte_characters()
    vocabulary = {"<s>": BOS, "<pad>": PAD, "</s>": EOS, "<unk>": UNK}
    vocabulary |= {characters[b]: 4 + b for b in range(256)}
    merges = []
    for word in WORDS:
        symbols = [characters[b] for b in word.encode()]
        left = symbols[0]
        for right in symbols[1:]:
            if left + right not in vocabulary:
                merges.append(f"{left} {right}")
                vocabulary[left + right] = len(vocabulary)
            left += right
    assert len(vocabulary) <= FIRST_BIN
    vocabulary |= {f"<bin_{i}>": FIRST_BIN + i for i in range(BINS)}
    return vocabulary, merges


TEXTS = [
    " yes",
    " no",
    " maybe",
    ' which region does the text " a man " describe?',
    ' can image and text1 " garfield park(loc) a conservatory " imply text2 " a greenhouse "?',
    ' does the image describe " @kingjames(per) an athlete\'s  friend in 2016 "?',
    ' does the image describe " zürich 🏀 日本(loc) a city "?',
]


def merge_steps(word, ranks):
    """The tokens of one word and the merges that lead to them."""
    symbols, used = list(word), []
    while len(symbols) > 1:
        pair = min(zip(symbols, symbols[1:]), key=lambda p: ranks.get(p, float("inf")))
        if pair not in ranks:
            break
        used.append(pair)
        merged, i = [], 0
        while i < len(symbols):
            if tuple(symbols[i : i + 2]) == pair:
                merged.append("".join(pair))
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        symbols = merged
    return symbols, used


def tokenizations(bpe):
    """Ids of TEXTS, by transformers' GPT-2 tokenizer in Python, and the vocabulary they need."""
    import regex
    from transformers import GPT2Tokenizer

    encoder = json.loads((bpe / "encoder.json").read_text())
    lines = (bpe / "vocab.bpe").read_text().splitlines()[1:]
    ranks = {tuple(line.split(" ")): i for i, line in enumerate(lines) if line}
    entries = [line.split()[0] for line in (bpe / "dict.txt").read_text().splitlines()]
    ofa_ids = {int(entry): 4 + i for i, entry in enumerate(entries) if entry.isdigit()}
    reference = GPT2Tokenizer(str(bpe / "encoder.json"), str(bpe / "vocab.bpe"))
    pattern = regex.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    )
    characters = byte_characters()
    used, tokens, cases = set(), set(characters.values()), []
    for text in TEXTS:
        ids = []
        for word in pattern.findall(text):
            symbols, merges = merge_steps([characters[b] for b in word.encode()], ranks)
            used.update(merges)
            ids += [encoder[symbol] for symbol in symbols]
        assert ids == reference.encode(text), text
        cases.append({"text": text, "ids": [ofa_ids[i] for i in ids]})
    merges = sorted(used, key=ranks.get)
    tokens |= {"".join(pair) for pair in merges}
    return {
        "about": "What GPT-2's byte-pair vocabulary and OFA's numbering of it say about `cases`.",
        "encoder": {token: encoder[token] for token in sorted(tokens, key=encoder.get)},
        "merges": [" ".join(pair) for pair in merges],
        "dictionary_lines": len(entries),
        "dictionary": {str(ofa_ids[encoder[token]]): encoder[token] for token in sorted(tokens)},
        "cases": cases,
    }


# Location tokens behind the small vocabulary, as many as published ones have.
HUB_FIRST_BIN, HUB_BINS = 400, 1000

NETWORKS = {
    "fairseq": (
        64,
        dict(
            vocab_size=400,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=40,
            max_position_embeddings=160,
            token_bucket_size=8,
            image_bucket_size=6,
            resnet_layers=[1, 2, 1],
            resnet_width=4,
            scale_attn=True,
            scale_fc=True,
            scale_heads=True,
            entangle_encoder_positions=False,
            entangle_decoder_positions=False,
        ),
    ),
    "port": (
        48,
        dict(
            vocab_size=400,
            d_model=24,
            encoder_layers=1,
            decoder_layers=3,
            encoder_attention_heads=2,
            decoder_attention_heads=3,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=48,
            token_bucket_size=16,
            image_bucket_size=3,
            resnet_layers=[1, 1, 2],
            resnet_width=4,
            scale_attn=False,
            scale_fc=False,
            scale_heads=False,
            entangle_encoder_positions=True,
            entangle_decoder_positions=True,
        ),
    ),
    "hub": (
        48,
        dict(
            vocab_size=HUB_FIRST_BIN + HUB_BINS,
            first_bin=HUB_FIRST_BIN,
            d_model=16,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=32,
            max_position_embeddings=64,
            token_bucket_size=8,
            image_bucket_size=32,
            resnet_layers=[1, 1, 1],
            resnet_width=4,
            scale_attn=True,
            scale_fc=True,
            scale_heads=True,
            entangle_encoder_positions=False,
            entangle_decoder_positions=False,
        ),
    ),
}


def fairseq_settings(sizes, image_size):
    """What lies beside the state dict in a checkpoint of fairseq's."""
    model = argparse.Namespace(
        arch="ofa",
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        scale_attn=sizes["scale_attn"],
        scale_fc=sizes["scale_fc"],
        scale_heads=sizes["scale_heads"],
        scale_resids=False,
        attn_scale_factor=2,
        resnet_type="resnet50",
        entangle_position_embedding=sizes["entangle_encoder_positions"],
        disable_entangle=not sizes["entangle_decoder_positions"],
    )
    task = {"_name": "refcoco", "patch_image_size": image_size, "num_bins": BINS}
    return {"args": None, "cfg": {"model": model, "task": task}}


def save_hub(model, image_size, folder):
    """A folder as ModelScope's are; without configuration.json, as Hugging Face's."""
    # Published files also have these tables of numbers, which are large and computed anew.
    tables = ("token_rp_bucket", "image_rp_bucket")
    tensors = {k: v for k, v in model.state_dict().items() if not k.endswith(tables)}
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    torch.save(half, folder / "pytorch_model.bin")
    model.config.architectures = ["OFAModel"]
    model.config.to_json_file(folder / "config.json")
    around = {
        "framework": "pytorch",
        "task": "visual-entailment",
        "model": {"type": "ofa", "language": "en", "patch_image_size": image_size},
    }
    (folder / "configuration.json").write_text(json.dumps(around, indent=1) + "\n")
    vocabulary, merges = small_vocabulary()
    vocabulary = {k: v for k, v in vocabulary.items() if not k.startswith("<bin_")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--bpe", type=pathlib.Path)
    arguments = parser.parse_args()
    # From these seeds the answers differ between inputs, and some are boxes.
    for seed, (name, (image_size, sizes)) in enumerate(NETWORKS.items(), start=19):
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        model = build(sizes, seed)
        if name == "hub":
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    if tensor.is_floating_point():
                        tensor.copy_(tensor.half())
            save_hub(model, image_size, folder)
            save_file(goldens(model, sizes, image_size, seed + 100), folder / "golden.safetensors")
            continue
        tensors = state_dict(model, fairseq=name == "fairseq")
        if name == "fairseq":
            settings = fairseq_settings(sizes, image_size)
            torch.save({**settings, "model": tensors}, arguments.out / "fairseq.pt")
            tied = ["decoder.embed_tokens.weight", "decoder.output_projection.weight"]
        else:
            tied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
            tensors = {k: v for k, v in tensors.items() if not k.endswith("c_attn")}
        kept = {k: v for k, v in tensors.items() if k not in tied}
        save_file(kept, folder / "model.safetensors")
        save_file(goldens(model, sizes, image_size, seed + 100), folder / "golden.safetensors")
        vocabulary = dict(bos=BOS, pad=PAD, eos=EOS, unk=UNK, first_bin=FIRST_BIN, bins=BINS)
        config = dict(network=sizes, image_size=image_size, vocabulary=vocabulary)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    vocabulary, merges = small_vocabulary()
    folder = arguments.out / "fairseq"
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    buckets = {}
    for size in [256, 8]:
        table = ofa.make_token_bucket_position(size)
        # Queries after the first key, then keys after the first query.
        buckets[f"token.{size}"] = torch.cat([table[:, 0], table[0, :]])
    buckets["image.6"] = ofa.make_image_bucket_position(6, 124)[1:, 1:].contiguous()
    save_file(buckets, arguments.out / "buckets.safetensors")
    if arguments.bpe:
        text = json.dumps(tokenizations(arguments.bpe), ensure_ascii=True, indent=0)
        (arguments.out / "gpt2_subset.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
