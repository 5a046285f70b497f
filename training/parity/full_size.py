"""riveg beside the reference implementations at full size, on random weights in the layouts of the released files.

    cargo build --release --example answers
    python training/parity/full_size.py DIR [tagger ofa sam]       (writes DIR/NETWORK/errors.json; some 7 GB of files)
    python training/parity/full_size.py DIR --table                (prints the table of docs/parity.md)

XLM-RoBERTa-large with a CRF as AdaSeq saves it, OFA-large as fairseq saves it, SAM ViT-H as Meta released it. The
references are those of training/golden (transformers and pytorch-crf, modelscope's port of OFA, segment-anything), in
f32 and in f64; the latter tells which of two f32 results is the better one. An error is the largest difference as a
share of the largest value. The program is target/release/examples/answers unless ANSWERS names another.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("ANSWERS", str(ROOT / "target/release/examples/answers"))
DTYPES = ("f32", "bf16")
NETWORKS = ("tagger", "ofa", "sam")


def golden(name):
    """A script of training/golden as a module."""
    spec = importlib.util.spec_from_file_location(f"golden_{name}", ROOT / "training/golden" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def randomise(module, seed):
    """Values at which sums keep their size from layer to layer and every part matters."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(module.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            tensor.copy_(1 + 0.2 * noise if "norm" in name.lower() and name.endswith("weight") else 0.1 * noise)
        elif "embeddings" in name:
            tensor.copy_(noise)
        else:
            tensor.copy_(noise * tensor[0].numel() ** -0.5 * 1.2)


def tagger(folder):
    from transformers import XLMRobertaConfig, XLMRobertaModel

    made = golden("tagger")
    tokenizer, special = made.xlm_roberta_tokenizer(), ("<s>", "</s>", "<unk>")
    configuration = XLMRobertaConfig(
        vocab_size=250002, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0,
        eos_token_id=2,
    )
    encoder = XLMRobertaModel(configuration, add_pooling_layer=False).eval()
    linear = torch.nn.Linear(1024, len(made.BIOES))
    crf = made.CRF(len(made.BIOES), batch_first=True)
    for seed, module in enumerate((encoder, linear, crf)):
        randomise(module, seed)
    state = {f"embedder.transformer_model.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"linear.{k}": v for k, v in linear.state_dict().items()}
    state |= {f"crf.{k}": v for k, v in crf.state_dict().items()}
    torch.save(state, folder / "pytorch_model.bin")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(configuration.to_dict()))
    labels = {str(i): label for i, label in enumerate(made.BIOES)}
    (folder / "configuration.json").write_text(json.dumps({"model": {"id_to_label": labels}}))
    words = "LeBron lakers in newyork los Angeles # @ James abc Xyz rs".split()
    texts = [words * 4, words, (words * 2)[3:]]
    (folder / "texts.json").write_text(json.dumps(texts))

    assemble = made.Assembly(tokenizer, special, {"max_length": 512})
    rows = [assemble(text, []) for text in texts]
    longest = max(len(row[0]) for row in rows)
    ids = torch.tensor([row[0] + [1] * (longest - len(row[0])) for row in rows])
    mask = torch.tensor([[1] * len(row[0]) + [0] * (longest - len(row[0])) for row in rows])

    @torch.no_grad()
    def run(dtype):
        for module in (encoder, linear, crf):
            module.to(dtype)
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        answers = {}
        for index, (row, states) in enumerate(zip(rows, hidden)):
            emissions = linear(states[row[2]])
            answers[f"{index}.emissions"] = emissions.flatten()
            answers[f"{index}.path"] = torch.tensor(crf.decode(emissions[None])[0])
        return answers

    return run


def ofa(folder):
    made = golden("ofa")
    made.FIRST_BIN, made.BINS = 58457, 1000
    sizes = dict(
        vocab_size=59457, d_model=1024, encoder_layers=12, decoder_layers=12, encoder_attention_heads=16,
        decoder_attention_heads=16, encoder_ffn_dim=4096, decoder_ffn_dim=4096, max_position_embeddings=1024,
        token_bucket_size=256, image_bucket_size=42, resnet_layers=[3, 8, 36], resnet_width=64, scale_attn=True,
        scale_fc=True, scale_heads=True, entangle_encoder_positions=False, entangle_decoder_positions=False,
    )
    side = 512
    model = made.build(sizes, 23)
    state = made.state_dict(model, fairseq=True)
    settings = {"model": argparse.Namespace(arch="ofa_large")}
    torch.save({"args": None, "cfg": settings, "model": state}, folder / "model.pt")
    vocabulary = dict(bos=0, pad=1, eos=2, unk=3, first_bin=58457, bins=1000)
    (folder / "config.json").write_text(json.dumps(dict(network=sizes, image_size=side, vocabulary=vocabulary)))
    generator = torch.Generator().manual_seed(1)
    lengths = [24, 13]
    pixels = torch.randn((2, 3, side, side), generator=generator)
    ids = torch.full((2, max(lengths)), made.PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(4, 50000, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = made.BOS, made.EOS
    save_file({"pixels": pixels, "ids": ids, "lengths": torch.tensor(lengths)}, folder / "inputs.safetensors")

    @torch.no_grad()
    def run(dtype):
        model.to(dtype)
        answers = {}
        for index, length in enumerate(lengths):
            text, picture = ids[index : index + 1, :length], pixels[index : index + 1].to(dtype)
            net = dict(input_ids=text, patch_images=picture, patch_masks=torch.ones(1).bool())
            answers[f"{index}.trunk"] = model.encoder.embed_images(picture)[0]
            answers[f"{index}.encoder"] = model.encoder(**net).last_hidden_state[0]
            answers[f"{index}.logits"] = model(**net, decoder_input_ids=text[:, :-1]).logits[0]
            search = made.SequenceGenerator(
                made.StubTokenizer(sizes["vocab_size"]), beam_size=5, max_len_b=4, min_len=4, no_repeat_ngram_size=3
            )
            best = search.generate([model], {"net_input": net})[0][0]
            answers[f"{index}.beam_tokens"] = best["tokens"][:4]
            answers[f"{index}.beam_score"] = best["score"][None]
        return answers

    return run


def sam(folder):
    made = golden("sam")
    config = made.BASE | dict(
        mask_in_chans=16, image_size=1024, out_chans=256, decoder_depth=2, decoder_num_heads=8, decoder_mlp_dim=2048,
        iou_head_depth=3, iou_head_hidden_dim=256,
        image_encoder=dict(
            kind="vit", patch_size=16, embed_dim=1280, depth=32, num_heads=16, mlp_ratio=4.0, window_size=14,
            global_attn_indexes=[7, 15, 23, 31],
        ),
    )
    network = made.build(config).eval()
    made.randomise(network, torch.Generator().manual_seed(3))
    # Predictions above 1 are cut; small ones are compared.
    with torch.no_grad():
        network.mask_decoder.iou_prediction_head.layers[-1].weight.mul_(0.05)
        network.mask_decoder.iou_prediction_head.layers[-1].bias.mul_(0.1).add_(0.5)
    torch.save(network.state_dict(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps(config))
    rgb = made.picture(0, (640, 427))
    boxes = torch.tensor([[40.0, 30.0, 300.0, 400.0], [0.0, 0.0, 640.0, 427.0], [350.5, 100.25, 500.0, 260.0]])
    save_file({"rgb": torch.from_numpy(rgb), "boxes": boxes}, folder / "inputs.safetensors")
    encoding = type(network.prompt_encoder.pe_layer)
    plain = encoding._pe_encoding
    # The reference makes its coordinates f32 whatever the network is.
    encoding._pe_encoding = lambda self, at: plain(self, at.to(self.positional_encoding_gaussian_matrix.dtype))

    @torch.no_grad()
    def run(dtype):
        network.to(dtype)
        transform = made.ResizeLongestSide(1024)
        resized = transform.apply_image(rgb)
        pixels = torch.from_numpy(resized).permute(2, 0, 1).to(dtype)
        embedding = network.image_encoder(network.preprocess(pixels).unsqueeze(0))
        scaled = transform.apply_boxes_torch(boxes.to(dtype), rgb.shape[:2])
        sparse, dense = network.prompt_encoder(points=None, boxes=scaled, masks=None)
        positions = network.prompt_encoder.get_dense_pe()
        logits, iou = network.mask_decoder.predict_masks(embedding, positions, sparse.to(dtype), dense)
        masks = network.postprocess_masks(logits, resized.shape[:2], rgb.shape[:2]) > config["mask_threshold"]
        return {
            "embedding": embedding[0].flatten(1), "logits": logits.flatten(0, 1).flatten(1),
            "iou": iou.flatten().clamp(0, 1), "masks": masks.flatten(0, 1).to(torch.uint8),
        }

    return run


def error(actual, expected):
    """Of numbers the error, of masks the least overlap, of decisions whether they agree."""
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    if expected.dtype == torch.uint8:
        actual, expected = actual.bool(), expected.bool()
        both, either = (actual & expected).flatten(1).sum(1), (actual | expected).flatten(1).sum(1)
        return float((both / either.clamp(min=1)).min())
    if expected.dtype == torch.int64:
        return bool(torch.equal(actual, expected))
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).abs().max() / expected.abs().max())


def measure(name, folder):
    folder.mkdir(parents=True, exist_ok=True)
    run, seconds, answers = globals()[name](folder), {}, {}
    for kind, dtype in (("torch f32", torch.float32), ("torch f64", torch.float64)):
        start = time.time()
        answers[kind] = {k: v.clone() for k, v in run(dtype).items()}
        seconds[kind] = time.time() - start
    del run
    for dtype in DTYPES:
        start = time.time()
        subprocess.run([PROGRAM, name, str(folder), dtype, str(folder / "answers.safetensors")], check=True)
        seconds[f"riveg {dtype}"] = time.time() - start
        answers[f"riveg {dtype}"] = load_file(folder / "answers.safetensors")
    reference, exact = answers["torch f32"], answers["torch f64"]
    rows = {}
    for tensor in reference:
        rows[tensor] = {"largest": float(reference[tensor].double().abs().max())}
        for kind, own in answers.items():
            if kind != "torch f64":
                rows[tensor][f"{kind} to f64"] = error(own[tensor], exact[tensor])
            if kind.startswith("riveg"):
                rows[tensor][f"{kind} to torch f32"] = error(own[tensor], reference[tensor])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    report = {"rows": rows, "seconds": seconds, "riveg_peak_gib": peak, "torch": torch.__version__}
    (folder / "errors.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1), flush=True)


def cell(tensor, value):
    if isinstance(value, bool):
        return "same" if value else "**differ**"
    return f"{value:.5f}" if tensor == "masks" else f"{value:.1e}"


def table(directory):
    columns = ["riveg f32 to torch f32", "riveg f32 to f64", "torch f32 to f64", "riveg bf16 to torch f32"]
    print("| network | tensor | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 2))
    for name in NETWORKS:
        path = directory / name / "errors.json"
        if path.is_file():
            for tensor, row in json.loads(path.read_text())["rows"].items():
                cells = " | ".join(cell(tensor, row[column]) for column in columns)
                print(f"| {name} | `{tensor}` | {cells} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.directory)
    elif len(arguments.networks) == 1:
        torch.manual_seed(0)
        measure(arguments.networks[0], arguments.directory / arguments.networks[0])
    else:
        # A process each: what one network took is given back before the next.
        for name in arguments.networks:
            subprocess.run([sys.executable, __file__, str(arguments.directory), name], check=True)


if __name__ == "__main__":
    main()
