"""After training: the two last layers that speak in probabilities (entailment, and the box's score), in two steps.

    python calibrate.py --data SHARED_DATA --cache CACHE.pkl --run RUN

First each is refitted on whole training photos, asked as the server asks, with shown and absent things in equal
number. As boxes of training photos fit better than those of new ones, a straight line on each layer's output is then
fitted to the development photos, with names that training never says. No held-out photo is used. Reads RUN/trained.pt,
writes RUN/calibrated.pt.
"""

import argparse
import pickle
import random

import torch
import torch.nn.functional as F

import evaluate
import model
import phrases

PULL = 0.01  # of the refitted weights towards where they were


def refit(layer, row, x, y, line):
    """Logistic regression on one output of a linear layer: all of its weights, or a straight line on the output."""
    w0, b0 = layer.weight[row].detach().clone(), layer.bias[row].detach().clone()
    scale = torch.ones(1, requires_grad=True)
    w, b = torch.zeros_like(w0, requires_grad=not line), torch.zeros_like(b0, requires_grad=True)
    opt = torch.optim.LBFGS([scale, b] if line else [scale, w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        opt.zero_grad()
        z = scale * (x @ w0 + b0) + x @ w + b
        value = F.binary_cross_entropy_with_logits(z, y) + PULL * (w**2).sum()
        value.backward()
        return value

    before = F.binary_cross_entropy_with_logits(x @ w0 + b0, y).item()
    opt.step(loss)
    print(f"{len(y)} questions, loss {before:.4f} -> {loss().item():.4f}, scale {scale.item():.3f}, shift {b.item():.3f}")
    with torch.no_grad():
        layer.weight[row] = scale * w0 + w
        layer.bias[row] = scale * b0 + b


@torch.no_grad()
def answers(net, held, never):
    """What both layers see and what is true, over all questions: judge (x, y), score (x, y)."""
    seen, rng = {}, random.Random(12)
    hooks = [layer.register_forward_hook(lambda m, i, out, key=key: seen.update({key: i[0].detach()}))
             for key, layer in (("judge", net.judge_out), ("score", net.box_out))]
    judged, scored = ([], []), ([], [])
    side, k = net.cfg["side"], net.cfg["best"]
    for photo, ground, judge in held.rows:
        x = torch.from_numpy(held.cached(photo, side)).permute(2, 0, 1)[None].float() / 127.5 - 1
        if rng.random() < 0.3:
            judge = [*judge, (never(rng), 0, "never")]
        boxes, score, _ = model.answer(net, x, held.encoder.batch([q[0] for q in ground + judge]))
        n = len(ground)
        judged[0].append(seen["judge"][0][n:])
        judged[1].extend(float(t) for _, t, _ in judge)
        if n:
            # The hidden features of the cell whose box scored best.
            hidden = seen["score"].view(-1, k, seen["score"].shape[1])[:n]
            quality = torch.sigmoid(hidden @ net.box_out.weight[4] + net.box_out.bias[4])
            scored[0].append(hidden[torch.arange(n), (quality - score[0, :n, None]).abs().argmin(1)])
            scored[1].extend(float(evaluate.overlap(boxes[0, i].tolist(), g[1]) > 0.5) for i, g in enumerate(ground))
    for hook in hooks:
        hook.remove()
    return [(torch.cat(x), torch.tensor(y)) for x, y in (judged, scored)]


def main():
    p = argparse.ArgumentParser()
    for k in ("data", "cache", "run"):
        p.add_argument(f"--{k}", required=True)
    o = p.parse_args()
    torch.set_num_threads(2)
    cache = pickle.load(open(o.cache, "rb"))
    state = torch.load(f"{o.run}/trained.pt", map_location="cpu")
    net = model.Dense(model.CONFIG, state["slow"]["text.table"])
    net.load_state_dict(state["slow"])
    net.eval()
    names = phrases.Names(f"{o.data}/fmnerg/train.txt"), phrases.unseen(o.data, "dev")
    for part, said in zip(("train", "dev"), names):
        held = evaluate.Held(cache, o.data, part, 11)
        judge, score = answers(net, held, lambda rng: phrases.never(rng, said).text)
        refit(net.judge_out, 0, *judge, line=part == "dev")
        refit(net.box_out, 4, *score, line=part == "dev")
    torch.save({**state, "slow": net.state_dict()}, f"{o.run}/calibrated.pt")


if __name__ == "__main__":
    main()
