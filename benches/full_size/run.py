#!/usr/bin/env python3
"""Full-size models with random weights in every container and element type: each is inspected and draws one small step.

    cargo build --release
    python benches/full_size/run.py --work /tmp/models [--families sd15 sd21 sdxl] [--devices cpu llvmpipe] [--containers ...]

Containers are written by the tools that people have them from: safetensors, `torch.save`, and the converter of
stable-diffusion.cpp (the package `cyllama`) for GGUF. Needs Python with torch, safetensors and cyllama, and room for the
largest model twice (f32 SDXL: 14 GB). Nothing is kept but the table that is printed.

Values are multiples of f16's in every type that can hold them, so a folder, a single file, f32 and .ckpt must give the
same picture to the last bit on one device. bf16 and fp8 are compared with a file of f16 or f32 that holds the rounded
values, and must give the same picture too; GGUF's blocks are compared with f16, as a ratio of signal to noise.
"""
import argparse, json, math, os, subprocess, sys, time, zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden"
CHIARO = os.environ.get("CHIARO", ROOT / "target/release/chiaro")
FAMILIES = {"sd15": "Stable Diffusion 1.x", "sd21": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}
TYPES = {"f16": torch.float16, "f32": torch.float32, "bf16": torch.bfloat16, "e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
CONTAINERS = ["folder-f16", "file-f16", "folder-f32", "file-f32", "file-bf16", "file-e4m3", "file-e5m2", "shards-f16", "ckpt-f16",
              "gguf-f16", "gguf-q8_0", "gguf-q4_0", "gguf-q4_K"]


def table(section):
    """diffusers name -> (original name, shape in diffusers)."""
    rows = (line.split(" ") for line in zlib.decompress((GOLDEN / "single_file/keys.zlib").read_bytes()).decode().splitlines())
    return {name: (original, [int(n) for n in shape.split(",")]) for own, name, original, shape in rows if own == section}


def clip(hidden, wide, layers, projection=None):
    shapes = {"text_model.embeddings.token_embedding.weight": [49408, hidden], "text_model.embeddings.position_embedding.weight": [77, hidden]}
    def both(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = list(shape), [shape[0]]
    both("text_model.final_layer_norm", hidden)
    for i in range(layers):
        at = f"text_model.encoder.layers.{i}"
        for p in "qkv":
            both(f"{at}.self_attn.{p}_proj", hidden, hidden)
        both(f"{at}.self_attn.out_proj", hidden, hidden)
        both(f"{at}.layer_norm1", hidden), both(f"{at}.layer_norm2", hidden)
        both(f"{at}.mlp.fc1", wide, hidden), both(f"{at}.mlp.fc2", hidden, wide)
    if projection:
        shapes["text_projection.weight"] = [projection, hidden]
    return shapes


def values(component, shapes):
    """f16: norm scales 1, biases 0, matrices that keep the variance, embeddings of CLIP's size."""
    tensors = {}
    for name, shape in shapes.items():
        gen = torch.Generator().manual_seed(zlib.crc32(f"{component}.{name}".encode()))
        if len(shape) == 1:
            t = torch.ones(shape) if name.endswith("weight") else torch.zeros(shape)
        else:
            fan = math.prod(shape[1:])
            scale = 0.02 if "embedding.weight" in name else math.sqrt(3 / fan)
            t = (torch.rand(shape, generator=gen) * 2 - 1) * scale
        tensors[name] = t.half()
    return tensors


def parts(family):
    """component -> (config of the family, tensors under diffusers' names)."""
    read = lambda name: json.loads((GOLDEN / family / name / "config.json").read_text())
    shapes = lambda section: {name: shape for name, (_, shape) in table(section).items()}
    unet, vae, text = read("unet"), read("vae"), read("text_encoder")
    vae.update(block_out_channels=[128, 256, 512, 512], norm_num_groups=32)
    large = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12, projection_dim=768)
    huge = dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=23, projection_dim=1024)
    giant = dict(hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32, projection_dim=1280)
    common = dict(norm_num_groups=32, layers_per_block=2)
    found = {"vae": (vae, values("vae", shapes("vae")))}
    if family == "sd15":
        unet.update(common, block_out_channels=[320, 640, 1280, 1280], attention_head_dim=8, cross_attention_dim=768, sample_size=64)
        found["text_encoder"] = ({**text, **large}, values("text_encoder", shapes("sd15_text_encoder")))
    elif family == "sd21":
        unet.update(common, block_out_channels=[320, 640, 1280, 1280], attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, sample_size=96)
        found["text_encoder"] = ({**text, **huge}, values("text_encoder", clip(1024, 4096, 23)))
    else:
        unet.update(common, block_out_channels=[320, 640, 1280], attention_head_dim=[5, 10, 20], cross_attention_dim=2048, sample_size=128,
                    addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816, transformer_layers_per_block=[1, 2, 10])
        found["text_encoder"] = ({**text, **large}, values("text_encoder", shapes("sd15_text_encoder")))
        found["text_encoder_2"] = ({**read("text_encoder_2"), **giant}, values("text_encoder_2", clip(1280, 5120, 32, 1280)))
    found["unet"] = (unet, values("unet", shapes(f"{family}_unet")))
    return found


def open_clip(tensors, prefix):
    """Under OpenCLIP's names, with the last layer that nobody listens to where the family's file has one."""
    new = {f"{prefix}token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
           f"{prefix}positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
           f"{prefix}logit_scale": torch.zeros([], dtype=torch.float16)}
    if "text_projection.weight" in tensors:
        new[f"{prefix}text_projection"] = tensors["text_projection.weight"].T.contiguous()
    layers = 1 + max(int(name.split(".")[3]) for name in tensors if ".layers." in name)
    for leaf in ("weight", "bias"):
        new[f"{prefix}ln_final.{leaf}"] = tensors[f"text_model.final_layer_norm.{leaf}"]
        for i in range(layers + (layers == 23)):
            old, at = f"text_model.encoder.layers.{min(i, layers - 1)}", f"{prefix}transformer.resblocks.{i}"
            new[f"{at}.attn.in_proj_{leaf}"] = torch.cat([tensors[f"{old}.self_attn.{p}_proj.{leaf}"] for p in "qkv"])
            for a, b in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")):
                new[f"{at}.{b}.{leaf}"] = tensors[f"{old}.{a}.{leaf}"].clone()
    return new


def single(family, found):
    """All tensors under their original names."""
    new = {}
    def rename(component, section, change=lambda name: name):
        for name, (original, _) in table(section).items():
            t = found[component][1][name]
            square = ".mid.attn_1." in original and t.ndim == 2
            new[change(original)] = t[:, :, None, None].contiguous() if square else t
    rename("unet", f"{family}_unet"), rename("vae", "vae")
    if family == "sd21":
        new.update(open_clip(found["text_encoder"][1], "cond_stage_model.model."))
    else:
        rename("text_encoder", "sd15_text_encoder", lambda name: name.replace("cond_stage_model.", "conditioner.embedders.0.") if family == "sdxl" else name)
    if family == "sdxl":
        new.update(open_clip(found["text_encoder_2"][1], "conditioner.embedders.1.model."))
    return new


def write_file(path, tensors, dtype):
    """A .safetensors file, tensor by tensor: SDXL in f32 would not fit a second time into 24 GiB."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    names = {torch.float16: "F16", torch.float32: "F32", torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}
    for n, t in tensors.items():
        end = at + t.numel() * dtype.itemsize
        header[n] = dict(dtype=names[dtype], shape=list(t.shape), data_offsets=[at, end])
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            file.write(t.to(dtype).contiguous().flatten().view(torch.uint8).numpy().tobytes())


def write_folder(path, family, found, dtype, shards=1):
    path.mkdir()
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes((GOLDEN / family / name).read_bytes())
    for i, name in enumerate(["tokenizer", "tokenizer_2"] if family == "sdxl" else ["tokenizer"]):
        source = GOLDEN / ("sd21" if family == "sd21" or i else "sd15") / "tokenizer"
        (path / name).mkdir()
        for file in source.iterdir():
            (path / name / file.name).write_bytes(file.read_bytes())
    for name, (config, tensors) in found.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(config))
        stem = "model" if name.startswith("text") else "diffusion_pytorch_model"
        names = sorted(tensors)
        groups = [names[i::shards] for i in range(shards)] if name == "unet" else [names]
        index = {}
        for i, group in enumerate(groups):
            file = f"{stem}.safetensors" if len(groups) == 1 else f"{stem}-{i + 1:05}-of-{len(groups):05}.safetensors"
            save_file({n: tensors[n].to(dtype) for n in group}, path / name / file, metadata={"format": "pt"})
            index.update({n: file for n in group})
        if len(groups) > 1:
            (path / name / f"{stem}.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=index)))


def write(path, family, found, container):
    """Gives the path of the model."""
    kind, dtype = container.split("-", 1)
    if kind in ("folder", "shards"):
        target = path / "model"
        write_folder(target, family, found, TYPES[dtype], 3 if kind == "shards" else 1)
        return target
    tensors = single(family, found)
    if kind == "ckpt":
        target = path / "model.ckpt"
        torch.save({"state_dict": tensors, "global_step": 7, "epoch": 1}, target)
        return target
    plain = path / "model.safetensors"
    write_file(plain, tensors, TYPES.get(dtype, torch.float16))
    if kind == "file":
        return plain
    del tensors
    target = path / "model.gguf"
    # Without a rule the converter of cyllama 0.2 stops.
    subprocess.run([sys.executable, "-m", "cyllama.sd", "convert", "-i", plain, "-o", target, "-t", dtype, "--tensor-type-rules", "none=f16"],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    plain.unlink()
    return target


def rounded(found, dtype):
    return {name: (config, {n: t.to(TYPES[dtype]).to(torch.float32 if dtype == "bf16" else torch.float16) for n, t in tensors.items()})
            for name, (config, tensors) in found.items()}


def size(path):
    return sum(f.stat().st_size for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file())


def chiaro(*arguments):
    run = subprocess.run([CHIARO, *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run


def draw(model, device, out):
    start = time.time()
    chiaro("a lighthouse at night", "--model", model, "--oms", "off", "-W", 64, "-H", 64, "--steps", 1, "--guidance", 1, "--sampler", "euler",
           "--device", device, "--precision", "f32", "--weights", "auto", "-o", out, "--overwrite", "-q")
    import numpy, PIL.Image
    return torch.from_numpy(numpy.array(PIL.Image.open(out))).double(), time.time() - start


def psnr(a, b):
    error = float(((a - b) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255 ** 2 / error)


def remove(path):
    import shutil
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--work", type=Path, required=True)
    ap.add_argument("--families", nargs="*", default=list(FAMILIES))
    ap.add_argument("--containers", nargs="*", default=CONTAINERS)
    ap.add_argument("--no-twins", action="store_true", help="no reference run of the same rounded values for bf16 and fp8")
    ap.add_argument("--devices", nargs="*", default=["cpu", "llvmpipe"])
    a = ap.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    bad = []
    for family in a.families:
        found = parts(family)
        references = {}
        print(f"{FAMILIES[family]}: {sum(t.numel() for _, ts in found.values() for t in ts.values()) / 1e6:.1f} M parameters", flush=True)
        for container in a.containers:
            dtype = container.split("-", 1)[1]
            exact = dtype in ("f16", "f32", "bf16", "e4m3", "e5m2")
            twin = dtype if dtype in ("bf16", "e4m3", "e5m2") else "f16"
            # What is rounded needs a reference of the same values.
            known = twin == "f16" or twin in references or a.no_twins
            jobs = [] if known else [("reference", rounded(found, twin), "file-f32" if twin == "bf16" else "file-f16")]
            for name, tensors, kind in [*jobs, (container, found, container)]:
                model = write(a.work, family, tensors, kind)
                report = json.loads(chiaro("inspect", model, "--json").stdout)
                line = f"  {name if name == container else 'values of ' + twin:<14} {size(model) / 2**30:6.2f} GiB  "
                right = report["family"] == FAMILIES[family] and not report["problems"] and not report["missing"]
                line += f"{report['kind']}, {report['family']}, predicts {report['prediction']}"
                devices = a.devices[:1] if name == "reference" else a.devices
                for device in devices:
                    picture, seconds = draw(model, device, a.work / "out.png")
                    first = references.setdefault(twin, picture)
                    ratio = psnr(picture, first)
                    # One device repeats its bits; another rounds otherwise, and a random model decodes rounding into grains.
                    good = math.isinf(ratio) if exact and device == a.devices[0] else ratio > (45 if exact else 12)
                    right &= good and float(picture.std()) > 1
                    line += f"; {device} {seconds:.1f} s, PSNR {ratio:.1f} dB"
                print(line + ("" if right else "  <- WRONG"), flush=True)
                bad += [] if right else [f"{family} {container}"]
                remove(model)
    print("all right" if not bad else f"wrong: {', '.join(bad)}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
