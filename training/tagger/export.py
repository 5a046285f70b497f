"""Writes a checkpoint of train.py as the server reads it: f16 weights, config, tokenizer.

    python export.py --run RUN --out ../../models/nano/tagger
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from data import LABELS
from train import encoder_folder, open_tokenizer

ENCODER_KEYS = ["model_type", "vocab_size", "hidden_size", "num_hidden_layers",
                "num_attention_heads", "intermediate_size", "hidden_act",
                "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id"]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--run", required=True)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    run, out = Path(args.run), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    saved = torch.load(run / "last.pt", map_location="cpu", weights_only=False)
    labels = json.loads((run / "labels.json").read_text())
    state = {k: v.half().contiguous() for k, v in saved["model"].items() if v.is_floating_point()}
    save_file(state, out / "model.safetensors")
    (out / "model.safetensors").chmod(0o644)
    config = {
        "encoder": {k: labels["encoder"][k] for k in ENCODER_KEYS},
        "labels": LABELS,
        "crf_scope": "sentence",
        "max_length": 512,
        "max_knowledge": 80,
        "token_types": "word_case",
        "fine_labels": labels["fine"],
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    open_tokenizer(encoder_folder()).save(str(out / "tokenizer.json"), pretty=False)
    print(json.dumps({"state": saved["state"],
                      "parameters": sum(v.numel() for v in state.values())}))


if __name__ == "__main__":
    main()
