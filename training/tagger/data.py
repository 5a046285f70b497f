"""Twitter-GMNER with its released knowledge and FMNERG's fine types, as word lists with spans.

Only the train split is ever augmented or trained on; dev chooses, test reports.
"""

import random
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ["LOC", "MISC", "ORG", "PER"]
LABELS = ["O"] + [f"{p}-{k}" for k in KINDS for p in "BIES"]
LABEL_ID = {name: i for i, name in enumerate(LABELS)}
EOS = "<EOS>"
SPLIT_FILE = {"train": "train", "dev": "valid", "test": "test"}


@dataclass
class Tweet:
    """One tweet: words, entities as (start, end, kind, fine) over words, knowledge words."""

    words: list
    spans: list
    knowledge: list = field(default_factory=list)


def _blocks(text):
    """Blank-line separated CoNLL blocks as lists of tab-split rows, without IMGID rows."""
    rows = []
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if not line.strip():
            if rows:
                yield rows
            rows = []
        elif not line.startswith("IMGID:"):
            rows.append(line.split("\t"))
    if rows:
        yield rows


def bio_spans(tags):
    """(start, end, kind) of BIO tags; an I that continues nothing starts an entity."""
    spans, start, kind = [], None, None
    for i, tag in enumerate(list(tags) + ["O"]):
        prefix, _, name = tag.partition("-")
        if start is not None and (prefix != "I" or name != kind):
            spans.append((start, i, kind))
            start = None
        if prefix == "B" or (prefix == "I" and start is None):
            start, kind = i, name
    return spans


def load(root, split):
    """All tweets of a split."""
    root = Path(root)
    coarse = list(_blocks((root / f"gmner/txt/{split}.txt").read_text("utf-8")))
    fine = list(_blocks((root / f"fmnerg/{split}.txt").read_text("utf-8")))
    with zipfile.ZipFile(root / "riveg/Twitter10000_noaugment.zip") as z:
        known = list(_blocks(z.read(f"{SPLIT_FILE[split]}.txt").decode("utf-8")))
    assert len(coarse) == len(fine) == len(known), split
    tweets = []
    for c, f, k in zip(coarse, fine, known):
        words = [row[0] for row in c]
        assert words == [row[0] for row in f]
        assert words == [row[0] for row in k if row[-1] != "X"]
        fine_of = {(s, e): name for s, e, name in bio_spans([row[2] for row in f])}
        spans = [
            (s, e, "MISC" if kind == "OTHER" else kind, fine_of.get((s, e)))
            for s, e, kind in bio_spans([row[1] for row in c])
        ]
        knowledge = [row[0] for row in k if row[-1] == "X"]
        assert not knowledge or knowledge[0] == EOS
        tweets.append(Tweet(words, spans, knowledge[1:]))
    return tweets


def fine_labels(tweets):
    """The fine types that occur, in alphabetical order."""
    return sorted({fine for t in tweets for *_, fine in t.spans if fine})


def bioes(length, spans):
    """Label ids of one sentence."""
    out = [0] * length
    for start, end, kind, _ in spans:
        if end - start == 1:
            out[start] = LABEL_ID[f"S-{kind}"]
        else:
            out[start] = LABEL_ID[f"B-{kind}"]
            for i in range(start + 1, end - 1):
                out[i] = LABEL_ID[f"I-{kind}"]
            out[end - 1] = LABEL_ID[f"E-{kind}"]
    return out


def case_type(word):
    """Case of a word: 0 no capital, 1 first letter only, 2 all capitals, 3 any other mixture."""
    upper = sum(c.isupper() for c in word)
    if upper == 0:
        return 0
    if upper == 1:
        return 1 if word[0].isupper() else 3
    return 3 if any(c.islower() for c in word) else 2


def _edit(tweet, drop, merge):
    """Drops words, and glues runs of words to one; touches no word of an entity."""
    inside = {i for s, e, *_ in tweet.spans for i in range(s, e)}
    drop = {i for i in drop if i not in inside}
    merge = {i for i in merge if i not in inside and i - 1 not in inside and i - 1 not in drop}
    words, where = [], []
    for i, word in enumerate(tweet.words):
        if i in drop:
            where.append(len(words))
        elif i in merge and words:
            words[-1] += word
            where.append(len(words) - 1)
        else:
            where.append(len(words))
            words.append(word)
    where.append(len(words))
    spans = [(where[s], where[e - 1] + 1, kind, fine) for s, e, kind, fine in tweet.spans]
    return Tweet(words, spans, tweet.knowledge)


def _url_runs(words):
    """Positions that belong to a URL's pieces: the first of each run, and the rest."""
    first, rest = set(), set()
    i = 0
    while i < len(words):
        if re.match(r"https?(:|$|…)", words[i], re.I) and i + 1 < len(words):
            first.add(i)
            j = i + 1
            while j < len(words) and re.match(r"(:|/+t?|\.|co|t|co/\S*|//\S*|/\S*)$", words[j]):
                rest.add(j)
                j += 1
            if j < len(words) and words[j - 1] == "/" and j > i + 1:
                rest.add(j)
                j += 1
            i = j
        else:
            i += 1
    return first, rest


def like_a_sentence(tweet, rng):
    """What is sent to the server is often not a tweet: without retweet head, URLs, hashtags, handles."""
    words = tweet.words
    first, rest = _url_runs(words)
    drop = first | rest
    for i, word in enumerate(words):
        follows = i > 0 and words[i - 1] in "@#" and i - 1 in drop
        if word == "RT" and i == 0:
            drop.add(i)
        elif word == "@" or (word == "#" and rng.random() < 0.7):
            drop.add(i)
        elif follows and (words[i - 1] == "@" or rng.random() < 0.5):
            drop.add(i)
        elif word in ("_", ":") and i > 0 and i - 1 in drop:
            drop.add(i)
    edited = _edit(tweet, drop, set())
    if edited.words and edited.words[-1][-1].isalnum() and rng.random() < 0.6:
        edited.words = edited.words + ["."]
    return edited if edited.words else tweet


def like_our_splitter(tweet):
    """The server's splitter keeps a URL and a handle as one word each, and users send `&`, not `&amp;`."""
    words = list(tweet.words)
    _, rest = _url_runs(words)
    inside = {i for s, e, *_ in tweet.spans for i in range(s, e)}
    merge = set(rest)
    drop = set()
    for i, word in enumerate(words):
        if i in inside:
            continue
        if i >= 2 and word == "_" and words[i - 2] == "@":
            merge.add(i)
            if i + 1 < len(words) and words[i + 1].isalnum():
                merge.add(i + 1)
        if word == ";" and i > 0 and words[i - 1] in ("&amp", "&lt", "&gt") and i - 1 not in inside:
            drop.add(i)
            words[i - 1] = {"&amp": "&", "&lt": "<", "&gt": ">"}[words[i - 1]]
    return _edit(Tweet(words, tweet.spans, tweet.knowledge), drop, merge)


def augment(tweet, rng):
    """One random variant of a training tweet."""
    draw = rng.random()
    if draw < 0.2:
        tweet = like_a_sentence(tweet, rng)
    elif draw < 0.45:
        tweet = like_our_splitter(tweet)
    draw = rng.random()
    if draw < 0.08:
        tweet = Tweet([w.lower() for w in tweet.words], tweet.spans, tweet.knowledge)
    elif draw < 0.11:
        tweet = Tweet([w.upper() for w in tweet.words], tweet.spans, tweet.knowledge)
    elif draw < 0.14:
        tweet = Tweet([w[:1].upper() + w[1:] for w in tweet.words], tweet.spans, tweet.knowledge)
    return tweet
