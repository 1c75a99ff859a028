#!/usr/bin/env python3
"""The same full-size Stable Diffusion 1.5 with random weights in other engines and here: seconds a UNet step (guidance pair) and a
decoded picture, in turns on one machine, as one table.

    python benches/peers/run.py --work DIR [--sizes 256 512] [--runs 3] [--tools chiaro-cpu torch sdcpp-cpu chiaro-gpu sdcpp-vulkan]
                                [--gpu llvmpipe] [--vulkan-python PYTHON] [--runner RUNNER]

Needs torch, diffusers, safetensors and cyllama (stable-diffusion.cpp for processors) in the Python that runs it. Its Vulkan back end is
another wheel of the same module: install `cyllama-vulkan` in a second environment and name its interpreter. On a CUDA machine torch runs
there, in f16. Whether results are right is for the goldens to say; the benches here compare executors before they print.
"""
import argparse, importlib.util, json, os, re, statistics, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = ["--prompt", "a lighthouse at night", "--negative", "fog", "--cfg-scale", "7", "--sampler", "euler", "--seed", "1"]

TORCH = r"""
import json, sys, time, resource, torch
from diffusers import UNet2DConditionModel, AutoencoderKL
folder, size, steps, wants_vae = sys.argv[1], int(sys.argv[2]) // 8, int(sys.argv[3]), sys.argv[4] == "1"
device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
def timed(call, count):
    call()
    found = []
    for _ in range(count):
        if device == "cuda": torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda": torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]
with torch.inference_mode():
    unet = UNet2DConditionModel.from_pretrained(folder + "/unet", torch_dtype=dtype).to(device).eval()
    x, c = torch.randn(2, 4, size, size).to(device, dtype), torch.randn(2, 77, 768).to(device, dtype)
    step = timed(lambda: unet(x, 500, c), steps)
    decode = None
    del unet
    if wants_vae:
        vae = AutoencoderKL.from_pretrained(folder + "/vae", torch_dtype=dtype).to(device).eval()
        decode = timed(lambda: vae.decode(x[:1]), 1)
mib = torch.cuda.max_memory_allocated() >> 20 if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps(dict(step=step, vae=decode, mib=mib, device=device)))
"""


def full_size():
    spec = importlib.util.spec_from_file_location("full_size", ROOT / "benches/full_size/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(work):
    """A model folder and the same weights as one file, in f16."""
    if (work / "model.safetensors").exists() and (work / "folder/unet").exists():
        return
    import torch
    full = full_size()
    found = full.parts("sd15")
    full.write_folder(work / "folder", "sd15", found, torch.float16)
    full.write_file(work / "model.safetensors", full.single("sd15", found), torch.float16)


def bench(name):
    lines = subprocess.run(["cargo", "bench", "--locked", "--no-run", "--message-format=json", "--bench", name], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    found = [m["executable"] for m in map(json.loads, lines) if m.get("reason") == "compiler-artifact" and m["target"]["name"] == name]
    return found[-1]


def ours(work, device, size, steps, vae, runner=()):
    env = dict(os.environ, CHIARO_BENCH_DEVICES=device, CHIARO_BENCH_MODEL=str(work / "folder"), CHIARO_BENCH_SIZE=str(size),
               CHIARO_BENCH_GUIDANCE="7", CHIARO_BENCH_STEPS=str(steps + 2), CHIARO_BENCH_RUNS="1", CHIARO_BENCH_BANDS="0")
    out = subprocess.run([*runner, bench("unet_step")], env=env, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    found = dict(step=float(re.search(r": ([\d.]+) s a step", out)[1]), mib=int(re.search(r"peak (\d+) MiB", out)[1]), vae=None)
    if vae:
        out = subprocess.run([*runner, bench("vae")], env=env, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        found["vae"] = float(re.search(r"whole ([\d.]+) s", out)[1])
    return found


def torch_(work, size, steps, vae):
    out = subprocess.run([sys.executable, "-c", TORCH, str(work / "folder"), str(size), str(steps), str(int(vae))], check=True, capture_output=True, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def sdcpp(work, python, size, steps, env, runner=()):
    def run(steps):
        command = [*runner, python, "-m", "cyllama.sd", "txt2img", "--model", work / "model.safetensors", "-W", size, "-H", size, "--steps", steps,
                   "--threads", os.cpu_count(), "--verbose", "--output", work / "sdcpp.png", *PROMPT]
        done = subprocess.run(list(map(str, command)), env=dict(os.environ, **env), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"stable-diffusion.cpp ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        return done.stdout + done.stderr
    seconds = lambda out, what: float(re.search(what + r" completed, taking ([\d.]+)s", out)[1])
    # Its first step compiles kernels: only what further ones add counts.
    first, out = run(1), run(1 + steps)
    buffers = [float(m) for m in re.findall(r"compute buffer size: +([\d.]+) MB", out)]
    weights = re.search(r"diffusion_model ([\d.]+)MB", out)
    step = (seconds(out, "sampling") - seconds(first, "sampling")) / steps
    return dict(step=step, vae=seconds(out, "decode_first_stage"), mib=int(float(weights[1]) + max(buffers[:-1])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="UNet steps that are timed in each run, after one that warms up")
    parser.add_argument("--vulkan-steps", type=int, help="another number for sdcpp-vulkan, which takes minutes a step on llvmpipe")
    parser.add_argument("--vulkan-device", default="0", help="ggml's number of the same adapter")
    parser.add_argument("--tools", nargs="+", default=["chiaro-cpu", "torch", "sdcpp-cpu"])
    parser.add_argument("--gpu", default="llvmpipe", help="a part of the adapter's name, for chiaro-gpu")
    parser.add_argument("--vulkan-python", default=sys.executable)
    parser.add_argument("--runner", help="a program that starts chiaro-gpu and sdcpp-vulkan on another driver")
    parser.add_argument("--no-vae", action="store_true")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    make(a.work)
    runner = [a.runner] if a.runner else []
    tools = {
        "chiaro-cpu": lambda size: ours(a.work, "cpu", size, a.steps, not a.no_vae),
        "chiaro-gpu": lambda size: ours(a.work, a.gpu, size, a.steps, not a.no_vae, runner),
        "torch": lambda size: torch_(a.work, size, a.steps, not a.no_vae),
        "sdcpp-cpu": lambda size: sdcpp(a.work, sys.executable, size, a.steps, {}),
        "sdcpp-vulkan": lambda size: sdcpp(a.work, a.vulkan_python, size, a.vulkan_steps or a.steps,
                                           {"GGML_VK_VISIBLE_DEVICES": a.vulkan_device}, runner),
    }
    print("| picture | engine | step, guidance pair | times chiaro's | decoder | times chiaro's | memory as each tool tells it |\n| --- | --- | --- | --- | --- | --- | --- |")
    for size in a.sizes:
        found = {tool: [] for tool in a.tools}
        for run in range(a.runs):
            for tool in a.tools:
                found[tool].append(tools[tool](size))
                print(f"run {run + 1}, {size}, {tool}: {found[tool][-1]}", file=sys.stderr, flush=True)
        middle = lambda tool, what: None if found[tool][0][what] is None else statistics.median(f[what] for f in found[tool])
        for tool in a.tools:
            own = "chiaro-gpu" if "vulkan" in tool and "chiaro-gpu" in found else next(t for t in a.tools if t.startswith("chiaro"))
            cells = []
            for what in ("step", "vae"):
                value, base = middle(tool, what), middle(own, what)
                cells += ["", ""] if value is None else [f"{value:.2f} s", "" if tool.startswith("chiaro") or not base else f"{value / base:.2f}"]
            print(f"| {size}² | {tool} | {' | '.join(cells)} | {middle(tool, 'mib'):.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
