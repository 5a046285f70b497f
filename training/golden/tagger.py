"""Golden tensors of the tagger: tiny random BERT and XLM-RoBERTa (transformers) with pytorch-crf,
and transformers' own token classifiers without one.

    python training/golden/tagger.py

Writes tests/golden/tagger/{bert,xlm_roberta}: config.json, tokenizer.json, model.safetensors and
cases.json (pieces, emissions, Viterbi paths, marginals by brute force), and {bert,xlm_roberta}_tokens
in the layout in which transformers saves them, with logits and the best label of each word. Piece assembly is written
here again from the fact sheet, independently of the server's code and of the training recipe.
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torchcrf import CRF
from transformers import (
    BertConfig, BertForTokenClassification, BertModel, XLMRobertaConfig, XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tagger"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BIOES = ["O"] + [f"{p}-{t}" for t in ("LOC", "OTHER", "ORG", "PER") for p in "BIES"]
BIO = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
COARSE = ["PER", "LOC"]  # in the order in which BIO names them
# In the order of a public XLM-RoBERTa fine-tuned on CoNLL-2003, where I begins entities, too.
CONLL = ["B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O"]
FINE = ["athlete", "city", "company", "festival", "musician"]


def bert_tokenizer():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "#", "@", ".", "'", "<", ">", "lebron", "james",
             "in", "los", "angeles", "lake", "##rs", "new", "york", "eos", "é"]
    vocab += list(LETTERS) + ["##" + c for c in LETTERS]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def xlm_roberta_tokenizer():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0),
              ("▁lake", -4.0), ("rs", -4.0), ("▁new", -4.0), ("york", -5.0), ("▁los", -4.5)]
    pieces += [(c, -7.0 - i / 10) for i, c in enumerate(LETTERS + LETTERS.upper() + "#@.'<>")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    return tokenizer


def randomise(module, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(module.named_parameters()):
            noise = torch.randn(p.shape, generator=generator)
            if "LayerNorm.weight" in name:
                p.copy_(1 + 0.1 * noise)
            elif name.startswith("encoder"):
                p.copy_(0.2 * noise)
            else:
                p.copy_(noise)


def case_of(word):
    capitals = [c for c in word if c.isupper()]
    if not capitals:
        return 0
    if len(capitals) == 1:
        return 1 if word[0].isupper() else 3
    return 2 if not any(c.islower() for c in word) else 3


class Assembly:
    """Words to ids, token types and first pieces; section 1.2 of the fact sheet."""

    def __init__(self, tokenizer, special, config):
        self.tokenizer, self.config = tokenizer, config
        self.first, self.last, self.unknown = (tokenizer.token_to_id(s) for s in special)

    def __call__(self, words, knowledge):
        rows = [(w, 0) for w in words]
        if knowledge:
            rows += [(w, 1) for w in ["<EOS>"] + knowledge]
        ids, types, firsts, sentence = [self.first], [0], [], 0
        budget = self.config["max_length"] - 1
        limit = None
        for word, part in rows:
            if part and limit is None:
                limit = min(budget, len(ids) + (self.config.get("max_knowledge") or 10**9))
            stop = limit if part else budget
            if len(ids) >= stop:
                if part:
                    break
                continue
            pieces = self.tokenizer.encode(word, add_special_tokens=False).ids or [self.unknown]
            kind = case_of(word) + 4 * part if self.config.get("token_types") == "word_case" else 0
            firsts.append(len(ids))
            sentence += 1 - part
            for piece in pieces[: stop - len(ids)]:
                ids.append(piece)
                types.append(kind)
        return ids + [self.last], types + [0], firsts, sentence


def marginals(crf, emissions):
    """Per word and label, by summing over every label sequence."""
    words, labels = emissions.shape
    weights = torch.zeros(words, labels, dtype=torch.float64)
    e, t = emissions.double(), crf.transitions.double()
    for path in itertools.product(range(labels), repeat=words):
        score = crf.start_transitions[path[0]].double() + crf.end_transitions[path[-1]].double()
        for i, label in enumerate(path):
            score = score + e[i, label] + (t[path[i - 1], label] if i else 0)
        for i, label in enumerate(path):
            weights[i, label] += score.exp()
    return (weights / weights[0].sum()).tolist()


def inputs():
    yield "short", "LeBron in los Angeles".split(), []
    yield "zero pieces", ["new", "\u200d", "york"], []
    yield "unknown", ["東京", "Café", "NBA", "iPhone"], []
    yield "knowledge", "new york . #".split(), "lakers (team) in Los Angeles".split()
    yield "sentence cut", "abcdef ghijkl mnopqr stuvwx yzabcd lakers york".split(), ["lakers"]
    yield "knowledge cut", "James in new york".split(), "Named abcdefghijkl LAKERS qrstuv wx".split()
    yield "one word", ["lakers"], []


def build(name, encoder, tokenizer, special, config, seed):
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    encoder.eval()
    randomise(encoder, seed)
    labels = config["labels"]
    torch.manual_seed(seed)
    linear = torch.nn.Linear(encoder.config.hidden_size, len(labels))
    crf = CRF(len(labels), batch_first=True)
    randomise(linear, seed + 1)
    randomise(crf, seed + 2)
    state = {f"embedder.transformer_model.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"linear.{k}": v for k, v in linear.state_dict().items()}
    state |= {f"crf.{k}": v for k, v in crf.state_dict().items()}
    fine = None
    if config.get("fine_labels"):
        kinds = len({label[2:] for label in labels if label != "O"})
        fine = torch.nn.ModuleDict({
            "linear": torch.nn.Linear(encoder.config.hidden_size, len(FINE)),
            "kind": torch.nn.Embedding(kinds, len(FINE)),
        })
        randomise(fine, seed + 3)
        state |= {f"fine.{k}": v for k, v in fine.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")
    keep = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "hidden_act", "max_position_embeddings", "type_vocab_size",
            "layer_norm_eps", "pad_token_id"]
    own = encoder.config.to_dict()
    (folder / "config.json").write_text(
        json.dumps({"encoder": {k: own[k] for k in keep}, **config}, indent=1) + "\n"
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    cases = run(encoder, linear, crf, fine, Assembly(tokenizer, special, config), config)
    (folder / "cases.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")


@torch.no_grad()
def run(encoder, linear, crf, fine, assemble, config):
    """All inputs in one padded batch, so that padding is exercised on this side too."""
    named = list(inputs())
    rows = [assemble(words, knowledge) for _, words, knowledge in named]
    longest = max(len(r[0]) for r in rows)
    pad = encoder.config.pad_token_id
    ids = torch.tensor([r[0] + [pad] * (longest - len(r[0])) for r in rows])
    types = torch.tensor([r[1] + [0] * (longest - len(r[0])) for r in rows])
    mask = torch.tensor([[1] * len(r[0]) + [0] * (longest - len(r[0])) for r in rows])
    hidden = encoder(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
    cases = []
    for (name, words, knowledge), row, states in zip(named, rows, hidden):
        firsts, sentence = row[2], row[3]
        seen = firsts if config["crf_scope"] == "sequence" else firsts[:sentence]
        emissions = linear(states[seen])
        path = crf.decode(emissions[None])[0]
        case = {
            "name": name, "words": words, "knowledge": knowledge, "ids": row[0], "types": row[1],
            "firsts": firsts, "sentence": sentence, "path": path,
            "emissions": [round(x, 6) for x in emissions.flatten().tolist()],
        }
        if len(config["labels"]) ** len(seen) < 200_000:
            case["marginals"] = marginals(crf, emissions)
        if fine is not None:
            # Every span of the sentence, as if it were of each coarse type.
            case["fine"] = []
            for start in range(sentence):
                for end in range(start + 1, sentence + 1):
                    mean = states[firsts[start:end]].mean(0)
                    for kind, coarse in enumerate(COARSE):
                        scores = (fine["linear"](mean) + fine["kind"].weight[kind]).softmax(-1)
                        best = int(scores.argmax())
                        case["fine"].append({
                            "span": [start, end], "kind": coarse, "name": FINE[best],
                            "score": round(scores[best].item(), 7),
                        })
        cases.append(case)
    return cases


@torch.no_grad()
def build_classifier(name, model, tokenizer, special, seed):
    """A token classifier as transformers saves it; only what a tagger reads is kept of its files."""
    folder = OUT / name
    model.eval()
    randomise(model.base_model, seed)
    randomise(model.classifier, seed + 1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    offset = model.config.pad_token_id + 1 if model.config.model_type == "xlm-roberta" else 0
    longest = model.config.max_position_embeddings - offset
    assemble = Assembly(tokenizer, special, {"max_length": longest})
    cases = []
    for title, words, knowledge in inputs():
        ids, types, firsts, sentence = assemble(words, knowledge)
        logits = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0]
        emissions = logits[firsts[:sentence]]
        cases.append({
            "name": title, "words": words, "knowledge": knowledge, "ids": ids, "types": types,
            "firsts": firsts, "sentence": sentence, "path": emissions.argmax(-1).tolist(),
            "emissions": [round(x, 6) for x in emissions.flatten().tolist()],
            "marginals": emissions.double().softmax(-1).tolist(),
        })
    (folder / "cases.json").write_text(json.dumps(cases, ensure_ascii=False) + "\n")


def named(labels):
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def main():
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48}
    bert = bert_tokenizer()
    build(
        "bert",
        BertModel(BertConfig(vocab_size=bert.get_vocab_size(), max_position_embeddings=40,
                             type_vocab_size=8, **size), add_pooling_layer=True),
        bert, ("[CLS]", "[SEP]", "[UNK]"),
        {"labels": BIO, "crf_scope": "sentence", "max_length": 24, "max_knowledge": 10,
         "token_types": "word_case", "fine_labels": FINE},
        seed=9,
    )
    xlm = xlm_roberta_tokenizer()
    build(
        "xlm_roberta",
        XLMRobertaModel(XLMRobertaConfig(
            vocab_size=xlm.get_vocab_size(), max_position_embeddings=34, type_vocab_size=1,
            layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2, **size)),
        xlm, ("<s>", "</s>", "<unk>"),
        {"labels": BIOES, "crf_scope": "sequence", "max_length": 32},
        seed=2,
    )
    build_classifier(
        "bert_tokens",
        BertForTokenClassification(BertConfig(
            vocab_size=bert.get_vocab_size(), max_position_embeddings=24, **named(BIO), **size)),
        bert, ("[CLS]", "[SEP]", "[UNK]"), seed=5,
    )
    build_classifier(
        "xlm_roberta_tokens",
        XLMRobertaForTokenClassification(XLMRobertaConfig(
            vocab_size=xlm.get_vocab_size(), max_position_embeddings=34, type_vocab_size=1,
            layer_norm_eps=1e-5, pad_token_id=1, bos_token_id=0, eos_token_id=2, **named(CONLL), **size)),
        xlm, ("<s>", "</s>", "<unk>"), seed=6,
    )


if __name__ == "__main__":
    main()
