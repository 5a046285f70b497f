"""The tagger in PyTorch: BERT, a linear layer, a linear-chain CRF, and a head for fine types.

State-dict names are AdaSeq's; `fine.*` is ours. Mirrors src/models/tagger of the server.
"""

import torch
from torch import nn
from torchcrf import CRF
from transformers import BertConfig, BertModel

from data import EOS, LABELS, case_type

CASES = 4


class Pieces:
    """Cuts words to piece ids, each word alone, first piece first; remembers what it cut."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.unk = tokenizer.token_to_id("[UNK]")
        self.cls = tokenizer.token_to_id("[CLS]")
        self.sep = tokenizer.token_to_id("[SEP]")
        self.known = {}

    def __call__(self, word):
        ids = self.known.get(word)
        if ids is None:
            ids = self.tokenizer.encode(word, add_special_tokens=False).ids or [self.unk]
            self.known[word] = ids
        return ids

    def sequence(self, words, knowledge, max_length, max_knowledge):
        """(ids, token types, first piece of each sentence word) of `[CLS] s <EOS> z [SEP]`.

        Pieces past `max_length - 1` are cut, then `[SEP]` is appended; words that lost their
        first piece have no entry. At most `max_knowledge` pieces follow the sentence.
        """
        ids, types, firsts = [self.cls], [0], []
        for word in words:
            if len(ids) >= max_length - 1:
                break
            firsts.append(len(ids))
            pieces = self(word)
            ids += pieces
            types += [case_type(word)] * len(pieces)
        if knowledge:
            end = len(ids) + max_knowledge
            for word in [EOS, *knowledge]:
                pieces = self(word)
                ids += pieces
                types += [CASES + case_type(word)] * len(pieces)
                if len(ids) >= end:
                    break
            ids, types = ids[:end], types[:end]
        ids, types = ids[: max_length - 1], types[: max_length - 1]
        return ids + [self.sep], types + [0], firsts


class Fine(nn.Module):
    """One of the fine types per entity, from the mean of its words and its coarse type."""

    def __init__(self, hidden, kinds, labels):
        super().__init__()
        self.linear = nn.Linear(hidden, labels)
        self.kind = nn.Embedding(kinds, labels)
        nn.init.zeros_(self.kind.weight)

    def forward(self, mean, kind):
        return self.linear(mean) + self.kind(kind)


class Embedder(nn.Module):
    """Only a name: AdaSeq calls the encoder `embedder.transformer_model`."""

    def __init__(self, config):
        super().__init__()
        self.transformer_model = BertModel(config, add_pooling_layer=False)


class Tagger(nn.Module):
    """Encoder, emissions, CRF, fine types."""

    def __init__(self, config, fine):
        super().__init__()
        self.embedder = Embedder(config)
        self.linear = nn.Linear(config.hidden_size, len(LABELS))
        self.crf = CRF(len(LABELS), batch_first=True)
        self.fine = Fine(config.hidden_size, 4, fine)
        self.dropout = nn.Dropout(0.1)

    def words(self, batch):
        """Word representations [B, W, H]: the last hidden state of each word's first piece."""
        hidden = self.embedder.transformer_model(
            input_ids=batch["ids"], token_type_ids=batch["types"], attention_mask=batch["mask"]
        ).last_hidden_state
        index = batch["firsts"].unsqueeze(-1).expand(-1, -1, hidden.size(-1))
        return self.dropout(hidden.gather(1, index))

    def fine_logits(self, words, entities):
        """Logits [N, F] of entities given as rows (batch, start, end, kind)."""
        means = torch.stack([words[b, s:e].mean(0) for b, s, e, _ in entities])
        kinds = torch.tensor([k for *_, k in entities])
        return self.fine(means, kinds)


def from_pretrained(folder, fine):
    """A tagger on a pretrained BERT whose token types are widened to cases × (sentence, knowledge)."""
    pretrained = BertModel.from_pretrained(folder, add_pooling_layer=False)
    config = BertConfig.from_pretrained(folder)
    config.type_vocab_size = 2 * CASES
    model = Tagger(config, fine)
    state = pretrained.state_dict()
    name = "embeddings.token_type_embeddings.weight"
    state[name] = state[name][:1].repeat(2 * CASES, 1)
    model.embedder.transformer_model.load_state_dict(state)
    return model, config


def collate(rows):
    """Pads rows of (ids, types, firsts, labels) to tensors."""
    length = max(len(r[0]) for r in rows)
    count = max(len(r[2]) for r in rows)

    def pad(values, size):
        return torch.tensor([list(v) + [0] * (size - len(v)) for v in values])

    return {
        "ids": pad([r[0] for r in rows], length),
        "types": pad([r[1] for r in rows], length),
        "mask": pad([[1] * len(r[0]) for r in rows], length),
        "firsts": pad([r[2] for r in rows], count),
        "labels": pad([r[3] for r in rows], count),
        "words": pad([[1] * len(r[2]) for r in rows], count).bool(),
    }
