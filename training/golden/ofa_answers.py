"""Answers of OFA from a picture and an expression to the end, for tests/golden_ofa_answers.rs.

    python training/golden/ofa_answers.py      (after ofa.py; writes tests/golden/ofa/answers)

A network like `fairseq` of ofa.py, but one whose decoder looks sharply at the picture and the text, so that answers
differ between them and lead by more than half precision loses. Around it: texts cleaned and put into the prompts here again, from the description
of OFA's data sets; transformers' GPT-2 tokenizer in Python; pictures scaled by Pillow; the port's beam search; location
tokens to pixels as in OFA's evaluation, by way of the side of the network's pictures.
"""

import json
import pathlib
import re

import numpy as np
import ofa as made
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import GPT2Tokenizer

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "ofa" / "answers"
# From this seed some answers are boxes.
SEED = 34
# How much larger logits are.
SHARP = 4
# None higher than wide: Pillow 12 and later scale some of those vertically first (see src/vision/resize.rs).
SIZES = [(97, 61), (120, 90), (64, 64), (50, 33)]
# What RiVEG was trained on, in its spelling, beside ours.
EXPRESSIONS = [
    ("LeBron James (PER)-an athlete", "LeBron James(PER)-an athlete"),
    ("Rome (LOC)-a city", "Rome(LOC)-a city"),
    ("The Golden State Warriors (ORG)-a sports team", "The Golden State Warriors(ORG)-a sports team"),
    ("Boeing 777 (MISC)-an aircraft / a  product", "Boeing 777(OTHER)-an aircraft / a  product"),
    ("#Zürich", "#Zürich"),
    ("it", "it"),
]
DESCRIPTION = "A man - with  a ball."


def clean(text):
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ").replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:80])


def picture(index, size):
    rng = np.random.default_rng(index)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    rgb = np.asarray(small.resize(size, Image.BICUBIC)).astype(int) + rng.integers(-20, 20, (size[1], size[0], 1))
    return rgb.clip(0, 255).astype(np.uint8)


def pixels(rgb, side):
    scaled = np.array(Image.fromarray(rgb).resize((side, side), Image.BICUBIC))
    return ((torch.from_numpy(scaled).permute(2, 0, 1).float() / 255 - 0.5) / 0.5)[None]


def box(tokens, size, side):
    """Pixels of the picture, or nothing where the answer is no box."""
    bins = [token - made.FIRST_BIN for token in tokens]
    if not all(0 <= b < made.BINS for b in bins):
        return None
    edges = [b / (made.BINS - 1) * side for b in bins]
    x1, y1, x2, y2 = (edge / (side / length) for edge, length in zip(edges, [*size, *size]))
    return [x1, y1, x2, y2] if x1 < x2 and y1 < y2 else None


@torch.no_grad()
def build(sizes, seed):
    model = made.build(sizes, seed)
    for name, value in model.decoder.named_parameters():
        if "cross_attn." in name and name.endswith("bias"):
            value.zero_()
        elif name.endswith(("cross_attn.q_proj.weight", "cross_attn.k_proj.weight")):
            value.mul_(2.5)
        elif name.endswith("cross_attn_mid_layer_norm.weight"):
            value.mul_(8)
        elif name == "layer_norm.bias":
            value.mul_(0.3 * SHARP)
        elif name == "layer_norm.weight":
            value.mul_(SHARP)
    return model


@torch.no_grad()
def ground(model, sizes, net):
    """The best answer and by how much it leads the second one."""
    search = made.SequenceGenerator(
        made.StubTokenizer(sizes["vocab_size"]), beam_size=5, max_len_b=4, min_len=4, no_repeat_ngram_size=3
    )
    best, second = search.generate([model], {"net_input": net})[0][:2]
    return best["tokens"][:4].tolist(), float(best["score"]), float(best["score"] - second["score"])


@torch.no_grad()
def entail(model, net, answers):
    logits = model(**net, decoder_input_ids=net["input_ids"][:, :-1]).logits[0, -1, answers].double()
    no, yes, maybe = logits.softmax(-1).tolist()
    return max(yes, maybe) / (max(yes, maybe) + no)


def main():
    side, sizes = made.NETWORKS["fairseq"]
    model = build(sizes, SEED)
    OUT.mkdir(exist_ok=True)
    tied = ["decoder.embed_tokens.weight", "decoder.output_projection.weight"]
    tensors = made.state_dict(model, fairseq=True)
    save_file({k: v for k, v in tensors.items() if k not in tied}, OUT / "model.safetensors")
    for name in ("config.json", "vocab.json", "merges.txt"):
        (OUT / name).write_bytes((OUT.parent / "fairseq" / name).read_bytes())
    tokenizer = GPT2Tokenizer(str(OUT / "vocab.json"), str(OUT / "merges.txt"))
    answers = [tokenizer.encode(word)[0] for word in (" no", " yes", " maybe")]
    pictures = [picture(index, size) for index, size in enumerate(SIZES)]
    cases = []
    for index, (rgb, size) in enumerate(zip(pictures, SIZES)):
        for number, (expression, trained) in enumerate(EXPRESSIONS):
            description = DESCRIPTION if (index + number) % 2 else None
            grounding = f' which region does the text " {clean(trained)} " describe?'
            entailment = f' does the image describe " {clean(trained)} "?'
            if description:
                entailment = f' can image and text1 " {clean(trained)} " imply text2 " {clean(description)} "?'
            texts = {"ground": grounding, "entail": entailment}
            ids = {kind: [made.BOS, *tokenizer.encode(text), made.EOS] for kind, text in texts.items()}
            net = {kind: dict(input_ids=torch.tensor([row]), patch_images=pixels(rgb, side),
                              patch_masks=torch.ones(1).bool()) for kind, row in ids.items()}
            tokens, score, lead = ground(model, sizes, net["ground"])
            cases.append({
                "picture": index, "expression": expression, "description": description,
                "prompts": [{"text": texts[kind], "ids": ids[kind]} for kind in texts], "tokens": tokens,
                "box": box(tokens, size, side), "score": score, "lead": lead,
                "probability": entail(model, net["entail"], answers),
            })
    (OUT / "cases.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")
    save_file({str(i): torch.from_numpy(rgb) for i, rgb in enumerate(pictures)}, OUT / "pictures.safetensors")
    for case in cases:
        print(case["picture"], case["tokens"], case["box"] is not None, f"{case['lead']:.4f} {case['probability']:.4f}")


if __name__ == "__main__":
    main()
