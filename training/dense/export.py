"""Writes what the server loads: config.json, model.safetensors (batch normalisation folded, f16; the word table
8 bits), tokenizer.json.

    python export.py RUN/calibrated.pt FOLDER
"""

import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

import model


def bytes_of(table):
    """The word table as bytes (128 is zero) and the step of each row; `words.coarse` made it exact."""
    step = (table.abs().amax(1) / 127).clamp(min=1e-8).half().float()
    return {"text.table": ((table / step[:, None]).round() + 128).to(torch.uint8), "text.table_step": step}


def write(net, cfg, folder, tokenizer, dtype):
    os.makedirs(folder, exist_ok=True)
    rows = net.text.table.shape[0]
    json.dump({**cfg, "vocabulary": rows}, open(f"{folder}/config.json", "w"), indent=1)
    tensors = model.pyramid.fold(net)
    tensors.update(bytes_of(tensors.pop("text.table")))
    save_file({k: v if v.dtype == torch.uint8 else v.to(dtype) for k, v in tensors.items()}, f"{folder}/model.safetensors")
    if tokenizer != f"{folder}/tokenizer.json":
        shutil.copyfile(tokenizer, f"{folder}/tokenizer.json")


def main():
    import evaluate
    checkpoint, folder = sys.argv[1:]
    state = torch.load(checkpoint, map_location="cpu")["slow"]
    net = model.Dense(model.CONFIG, state["text.table"])
    net.load_state_dict(state)
    write(net.eval(), model.CONFIG, folder, evaluate.tokenizer(), torch.float16)


if __name__ == "__main__":
    main()
