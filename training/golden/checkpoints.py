"""Checkpoint files for src/models/pickle/tests.rs, as PyTorch writes them.

    pip install torch==2.9.1 safetensors
    python training/golden/checkpoints.py tests/golden/checkpoints

Every file that can be read holds the same tensors, those of expected.safetensors; the files differ
in the container, the pickle's protocol, and what lies around the state dict.
"""

import argparse
import collections
import dataclasses
import pathlib
import pickle
import zipfile

import torch
from safetensors.torch import save_file


class Attributes(dict):
    """A dict whose items are attributes too, as configurations of training programs are."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class Ordered(collections.OrderedDict):
    """A kind of OrderedDict."""


@dataclasses.dataclass
class Settings:
    """Lies beside the state dict."""

    layers: int = 2
    names: tuple = ("a", "b")


class Node:
    """What OmegaConf wraps values in."""

    def __init__(self, value):
        self.__dict__["_val"] = value


class Config:
    """What OmegaConf wraps dicts in."""

    def __init__(self, content):
        self.__dict__["_content"] = {key: Node(value) for key, value in content.items()}


def tensors():
    """Tensors of many types, and views of storages that others look at too."""
    generator = torch.Generator().manual_seed(4)
    base = torch.randn((6, 8), generator=generator)
    cube = torch.randn((2, 3, 4), generator=generator)
    return {
        "plain": torch.randn((3, 4), generator=generator),
        "half": torch.randn(5, generator=generator).half(),
        "brain": torch.randn((2, 3), generator=generator).bfloat16(),
        "double": torch.randn(3, generator=generator).double(),
        "long": torch.tensor([1, -2, 2**40]),
        "int": torch.tensor([[7], [-8]], dtype=torch.int32),
        "byte": torch.tensor([0, 255], dtype=torch.uint8),
        "flag": torch.tensor([True, False, True]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "first_row": base[0],
        "last_rows": base[4:],
        "transposed": base.t(),
        "every_other": base[1::2, 1::3],
        "permuted": cube.permute(1, 2, 0),
        "repeated": torch.tensor([1.0, 2.0]).expand(3, 2),
        "whole": base,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    state = tensors()
    save_file({k: v.clone().contiguous() for k, v in state.items()}, out / "expected.safetensors")
    old = {"_use_new_zipfile_serialization": False}
    torch.save(state, out / "zip.pth")
    torch.save(state, out / "legacy.pth", **old)
    torch.save(state, out / "protocol4.pth", pickle_protocol=4)
    torch.save(state, out / "legacy_protocol4.pth", pickle_protocol=4, **old)

    flags = argparse.Namespace(arch="ofa_tiny", scale_attn=True, dropout=0.5, task=None)
    fairseq = {
        "args": flags,
        "cfg": {"model": flags, "task": Config({"bins": 1000, "size": 480})},
        "epoch": torch.tensor(3),
        "model": state,
        "last_optimizer_state": {"state": {0: {"exp_avg": state["plain"]}}},
    }
    torch.save(fairseq, out / "fairseq.pt")
    torch.save(fairseq, out / "fairseq_legacy.pt", **old)

    ordered = Ordered(state)
    ordered._metadata = {"": {"version": 1}}
    # One object under two keys, and kinds of dict before it.
    twice = {"config": Attributes(lr=0.1, model=Attributes(depth=3)), "settings": Settings()}
    torch.save({**twice, "best": ordered, "state_dict": ordered}, out / "objects.pth")
    parallel = {f"module.{name}": torch.nn.Parameter(tensor, tensor.is_floating_point())
                if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save({"state_dict": collections.OrderedDict(parallel)}, out / "parameters.pth")
    averaged = {"optimizer": {"lr": 1}, "ema": {"module": state}}
    torch.save(averaged, out / "averaged.pth")

    # Small enough to be damaged at every byte.
    two = {"state_dict": {"whole": torch.ones(2, 3), "view": torch.ones(2, 3)[:, 1]}}
    torch.save(two, out / "small.pth")
    torch.save(two, out / "small_legacy.pth", **old)

    # What is refused, with what is said of it.
    torch.save(torch.nn.Linear(2, 3), out / "refused_module.pth")
    torch.save({"lr": 0.1, "steps": [1, 2]}, out / "refused_without.pth")
    torch.save({"c": torch.ones(2, dtype=torch.complex64), "x": torch.ones(1)}, out / "complex.pth")
    (out / "refused_pickle.pth").write_bytes(pickle.dumps({"a": [1.0]}, protocol=2))
    with zipfile.ZipFile(out / "zip.pth") as source:
        with zipfile.ZipFile(out / "refused_big_end.pth", "w") as target:
            for name in source.namelist():
                big = name.endswith("/byteorder")
                target.writestr(name, b"big" if big else source.read(name))
        with zipfile.ZipFile(out / "refused_compressed.pth", "w", zipfile.ZIP_DEFLATED) as target:
            for name in source.namelist():
                target.writestr(name, source.read(name))


if __name__ == "__main__":
    main()
