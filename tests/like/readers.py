#!/usr/bin/env python3
"""Pictures that chiaro writes, read by other programs' rules.

usage: readers.py CHIARO_BINARY        (pip install sd-parsers)

Draws a few small pictures and reads their parameters with PyPI's sd-parsers, and by the rules of AUTOMATIC1111's `modules/infotext_utils.py`
(the grammar of its fields, its lines, its quotes), which are written down here from its description. Not part of tests/run: it needs PyPI.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from sd_parsers import ParserManager

MODEL = Path(__file__).resolve().parent.parent / "golden" / "sd15"

# A field: a name of letters, digits, blanks, - and /, a colon, and a value in quotes or up to the next comma.
FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

CASES = [
    # Options, prompt, negative prompt, fields that must be there.
    ([], "a red circle", None, {}),
    (["--seed", "9", "--sampler", "dpmpp_2m", "--sigmas", "karras", "--guidance", "5.5"], "a (red:1.2) circle, [blue]", "blurry, low quality",
     {"Sampler": "DPM++ 2M", "Schedule type": "Karras", "CFG scale": "5.5", "Seed": "9"}),
    (["--rng", "a1111", "--ensd", "31337", "--sampler", "euler_ancestral", "--clip-skip", "2"], "two\nlines: of, text", "Negative: x",
     {"Sampler": "Euler a", "ENSD": "31337", "Clip skip": "2"}),
    (["--variation-seed", "3", "--variation-strength", "0.25", "--eta", "0.5", "--sampler", "ddim"], "红色的圆 é “q”", "青",
     {"Variation seed": "3", "Variation seed strength": "0.25", "Eta DDIM": "0.5"}),
    (["--hires", "1.5", "--hires-strength", "0.6", "--hires-steps", "2"], "a café", "",
     {"Hires upscale": "1.5", "Hires steps": "2", "Denoising strength": "0.6", "Hires upscaler": "Latent"}),
    (["--control", "net", "--control-image", "first.png"], "a net", None, {}),
]


def a1111(text):
    """Prompt, negative prompt and fields, by AUTOMATIC1111's rules."""
    *lines, last = text.strip().split("\n")
    fields = FIELD.findall(last)
    assert len(fields) >= 3, f"AUTOMATIC1111 would take this for a prompt: {last!r}"
    prompt, negative, is_negative = [], [], False
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            is_negative, line = True, line[len("Negative prompt:"):].strip()
        (negative if is_negative else prompt).append(line)
    read = {name: json.loads(value) if value[:1] == value[-1:] == '"' else value for name, value in fields}
    return "\n".join(prompt), "\n".join(negative), read


def tensors(path):
    """Names, headers and bytes of a safetensors file."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    data = whole[8 + length:]
    header = json.loads(whole[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry, data[slice(*entry["data_offsets"])]) for name, entry in header.items()}


def write_net(folder):
    """A ControlNet: the file of the goldens has only the tensors that its UNet has not."""
    own = MODEL.parent / "control" / "sd15_a"
    shared = ("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block.")
    unet = tensors(MODEL / "unet" / "diffusion_pytorch_model.safetensors")
    net = {name: tensor for name, tensor in unet.items() if name.startswith(shared)} | tensors(own / "extra.safetensors")
    header, body = {}, b""
    for name, (entry, data) in net.items():
        header[name] = entry | {"data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "config.json").write_text((own / "config.json").read_text())


def main():
    binary = str(Path(sys.argv[1]).resolve())
    parsers = ParserManager()
    with tempfile.TemporaryDirectory() as folder:
        write_net(Path(folder) / "net")
        base = [binary, "--model", str(MODEL), "-d", "cpu", "-W", "64", "-H", "64", "-s", "3", "-q"]
        for number, (options, prompt, negative, fields) in enumerate(CASES):
            name = "first.png" if number == 0 else f"{number}.png"
            typed = [] if negative is None else ["-n", negative]
            subprocess.run([*base, *options, *typed, "-o", name, prompt], cwd=folder, check=True)
            path = Path(folder) / name
            text = Image.open(path).info["parameters"]
            read_prompt, read_negative, read = a1111(text)
            assert read_prompt == prompt and read_negative == (negative or ""), (number, text)
            wanted = {"Steps": "3", "Size": "64x64", "Model": "sd15", **fields}
            for field, value in wanted.items():
                assert read.get(field) == value, (number, field, value, read)
            assert read["Version"].startswith("chiaro "), read
            info = parsers.parse(path)
            assert info is not None, (number, "sd-parsers finds nothing")
            (sampler,) = info.samplers
            assert info.generator.name == "AUTOMATIC1111", info.generator
            assert sampler.name == read["Sampler"], sampler
            # Of a net's quoted fields it takes "Model" for the checkpoint's, in AUTOMATIC1111's own pictures too.
            assert "--control" in options or sampler.model.name == "sd15", sampler
            assert [p.value for p in sampler.prompts] == [prompt], (number, sampler)
            assert [p.value for p in sampler.negative_prompts] == ([negative] if negative else []), (number, sampler)
            own = sampler.parameters
            assert (own["steps"], own["seed"]) == ("3", read["Seed"]) and own["cfg_scale"] == read["CFG scale"], own
            print(f"{name}: {sampler.name}, {len(read)} fields")
    print(f"all {len(CASES)} are read by sd-parsers and by AUTOMATIC1111's rules")


if __name__ == "__main__":
    main()
