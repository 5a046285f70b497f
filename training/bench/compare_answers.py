"""Compares what `riveg predict --input` answered in two ways: the entities, how far boxes and scores differ, and masks.

    python training/bench/compare_answers.py REFERENCE.jsonl OTHER.jsonl…
"""

import json
import sys
from pathlib import Path


def answers(path):
    """Per post: its entities, or nothing where it failed."""
    records = map(json.loads, Path(path).read_text().splitlines())
    return {record["id"]: (record.get("result") or {}).get("entities", []) for record in records}


def pixels(mask):
    """The set of runs of a COCO mask with plain counts."""
    at, inside, found = 0, False, set()
    for count in mask["counts"]:
        if inside:
            found.update(range(at, at + count))
        at, inside = at + count, not inside
    return found


def main():
    reference = answers(sys.argv[1])
    for path in sys.argv[2:]:
        other, same, shown, scores, boxes, overlaps = answers(path), 0, 0, [0.0], [0.0], []
        for post, entities in reference.items():
            key = lambda e: (e["start"], e["end"], e["type"])
            theirs = {key(e): e for e in other[post]}
            for entity in entities:
                twin = theirs.get(key(entity))
                if twin is None:
                    continue
                same += 1
                scores.append(abs(entity["score"] - twin["score"]))
                shown += entity["groundable"] == twin["groundable"]
                if entity.get("box") and twin.get("box"):
                    boxes.append(max(abs(a - b) for a, b in zip(entity["box"], twin["box"])))
                if entity.get("mask") and twin.get("mask"):
                    ours, others = pixels(entity["mask"]), pixels(twin["mask"])
                    overlaps.append(len(ours & others) / max(1, len(ours | others)))
        total = sum(map(len, reference.values()))
        print(f"{Path(path).name}: {same} of {total} entities the same, {shown} of them judged alike; "
              f"largest difference of a score {max(scores):.2e}, of a box {max(boxes):.2f} pixels; "
              f"least overlap of a mask {min(overlaps, default=1.0):.4f} ({len(overlaps)} masks)")


if __name__ == "__main__":
    main()
