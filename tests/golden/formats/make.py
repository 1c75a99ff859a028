"""Small files as the reference programs write them, and the values that those programs read from them.

    pip install gguf==0.19 torch==2.8 safetensors numpy
    python make.py            # writes into the folder of this script

types.gguf: a matrix of each type. Blocks of types that the gguf package can make are made of random values; those of the others
are random bits with finite scales. types.safetensors has what the package makes of them (gguf.dequantize).
"""
import argparse
import collections
import os
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file

HERE = Path(__file__).parent
torch.set_num_threads(1)
rng = np.random.default_rng(20)


def blocks(kind, rows, columns):
    """Random blocks: every bit pattern of quants and small scales, halves that are finite."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    halves = {Q.Q2_K: [80, 82], Q.Q3_K: [108], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}[kind]
    for at in halves:
        scale = rng.normal(0, 0.01, data.shape[0]).astype(np.float16)
        data[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def write_types():
    writer = gguf.GGUFWriter(HERE / "types.gguf", "sd1")
    writer.add_custom_alignment(64)
    writer.add_array("some.list", ["one", "two"])
    expected = {}

    def add(name, data, kind):
        plain = kind in (Q.F32, Q.F16)
        writer.add_tensor(name, data, raw_dtype=None if plain else kind)
        values = data.astype(np.float32) if plain else gguf.dequantize(data, kind)
        expected[name] = torch.from_numpy(np.ascontiguousarray(values.astype(np.float32)))

    x = rng.normal(0, 1, (3, 512)).astype(np.float32)
    x[0, :40] = 0
    add("F32", x, Q.F32)
    add("F16", x.astype(np.float16), Q.F16)
    for kind in (Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1):
        add(kind.name, gguf.quantize(x, kind), kind)
    for kind in (Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K):
        add(kind.name, blocks(kind, 3, 512), kind)
    add("vector", x[0], Q.F32)
    # As ComfyUI-GGUF keeps a convolution [16, 32, 3, 1].
    add("conv", gguf.quantize(x.reshape(6, 256), Q.Q8_0), Q.Q8_0)
    expected["conv"] = expected["conv"].reshape(16, 32, 3, 1)
    writer.add_array("comfy.gguf.orig_shape.conv", [16, 32, 3, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, HERE / "types.safetensors")


class Callback:
    """A class that only its own program has."""

    def __init__(self):
        self.best = {"score": 0.5, "when": (1, 2)}


class Runs:
    """What a hostile pickle does: its reader calls a function of its choice."""

    def __reduce__(self):
        return os.system, ("touch pickle-was-executed",)


def write_torch():
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    whole = draw(6, 4)
    state = collections.OrderedDict(
        single=draw(2, 3),
        half=draw(4, 2).half(),
        brain=draw(3).bfloat16(),
        double=draw(2).double(),
        ids=torch.arange(5),
        number=torch.tensor(7.0),
        empty=torch.zeros(0, 3),
        small=draw(4, 4).to(torch.float8_e4m3fn),
        flags=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(draw(2, 2)),
    )
    # Parts of one storage.
    state["first"], state["last"] = whole[:2], whole[2:]
    # Attributes of its own make PyTorch write a tensor another way.
    state["marked"] = draw(2, 2)
    state["marked"].note = "kept"
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    extras = {
        "epoch": 3,
        "global_step": 10**12,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {Callback: Callback()},
        "optimizer_states": [{"state": {0: {"exp_avg": draw(3), "step": 4}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}],
        "lr_schedulers": [],
        "hyper_parameters": argparse.Namespace(path=Path("x"), sizes={1, 2}, scale=np.float64(0.5)),
        "NativeMixedPrecisionPlugin": None,
    }
    torch.save({**extras, "state_dict": state}, HERE / "lightning.ckpt")
    torch.save(state, HERE / "bare.pt", pickle_protocol=4)
    save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, HERE / "lightning.safetensors")
    torch.save({"unet": {"a": draw(2)}, "text": {"b": {"c": draw(1)}}}, HERE / "nested.pt")
    torch.save({"a": draw(2, 3).t()}, HERE / "turned.pt")
    torch.save({"a": draw(2)}, HERE / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {"a": draw(2)}, "extra": Runs()}, HERE / "beside.ckpt")
    torch.save({"state_dict": {"a": draw(2), "b": Runs()}}, HERE / "among.ckpt")
    torch.save({"state_dict": Runs()}, HERE / "instead.ckpt")


write_types()
write_torch()
