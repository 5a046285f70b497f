"""OFA at nano size, by the port of its authors in the PyPI package modelscope, and its small vocabulary.

The sizes are ours; the parts, the prompts and the answers are OFA's, so that `src/models/ofa` loads the result."""

import functools
import importlib.util
import json
import os
import re
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "dense"))


@functools.cache
def golden():
    """training/golden/ofa.py, which imports the port alone and can build it at any width."""
    spec = importlib.util.spec_from_file_location("golden_ofa", os.path.join(HERE, "..", "golden", "ofa.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
BOS, PAD, EOS, UNK = range(4)
WORDS, BINS = 2000, 100
SIZES = {"vocab_size": WORDS + BINS, "d_model": 128, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "max_position_embeddings": 128,
         "token_bucket_size": 32, "image_bucket_size": 16, "resnet_layers": [2, 2, 2], "resnet_width": 32, "scale_attn": True,
         "scale_fc": True, "scale_heads": True, "entangle_encoder_positions": False, "entangle_decoder_positions": False}
SIDE = 192
CONFIG = {"network": SIZES, "image_size": SIDE,
          "vocabulary": {"bos": BOS, "pad": PAD, "eos": EOS, "unk": UNK, "first_bin": WORDS, "bins": BINS}}


def build(seed):
    """The network with random weights as the port draws them."""
    made_by = golden()
    torch.manual_seed(seed)
    net = made_by.build(SIZES, seed)
    # The golden's weights are for telling parts apart; these are for learning.
    for name, p in net.named_parameters():
        with torch.no_grad():
            if p.dim() >= 2 and "embed_images" in name:
                torch.nn.init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu")
            elif "rel_pos_table" in name:
                p.zero_()
            elif p.dim() >= 2:
                p.normal_(0, 0.02 if "embed" in name else p.shape[1] ** -0.5)
            else:
                p.fill_(1.0 if name.endswith(("weight", "c_attn")) else 0.0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.reset_running_stats()
    return net


def spelled(expression):
    """An expression as `src/models/ofa/text.rs` cleans it."""
    m = re.fullmatch(r"(.*?) ?\((PER|LOC|ORG|MISC)\)-(.*)", expression)
    if m:
        expression = f"{m[1]}({m[2].replace('MISC', 'OTHER')})-{m[3]}"
    return re.sub(r"\s{2,}", " ", expression.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ")).strip(" ")


def entailment(expression):
    return f' does the image describe " {spelled(expression)} "?'


def grounding(expression):
    return f' which region does the text " {spelled(expression)} " describe?'


def vocabulary(texts, folder):
    """Learns a byte-level BPE of WORDS tokens and writes vocab.json (with the location tokens) and merges.txt."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([*texts, *[" yes no maybe"] * 200], trainer)
    assert bpe.get_vocab_size() == WORDS
    bpe.model.save(folder)
    words = json.load(open(f"{folder}/vocab.json"))
    words.update({f"<bin_{i}>": WORDS + i for i in range(BINS)})
    json.dump(words, open(f"{folder}/vocab.json", "w"))


class Text:
    """Ids of prompts and answers."""

    def __init__(self, folder):
        self.bpe = Tokenizer(models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.yes, self.no = (self.ids(word)[0] for word in (" yes", " no"))

    def ids(self, text):
        return self.bpe.encode(text).ids

    def source(self, text):
        return [BOS, *self.ids(text)[:SIZES["max_position_embeddings"] - 2], EOS]


def padded(rows):
    out = torch.full((len(rows), max(map(len, rows))), PAD)
    for i, r in enumerate(rows):
        out[i, :len(r)] = torch.tensor(r)
    return out
