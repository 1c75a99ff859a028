#!/usr/bin/env python3
"""A real GPU beside the others: full-size Stable Diffusion 1.5 in f16 and one large product, and whether the ratios that the project asks for hold.

    python benches/peers/gpu.py --work DIR --gpu NAME [--size 512] [--runs 3] [--steps 10] [--vulkan-python PYTHON [--vulkan-device 0]]

A step: stable-diffusion.cpp's Vulkan back end takes at least 1.5 times as long on the same card, PyTorch's eager f16 at least half as long. An
f16 product of 4096×1280 with 1280×1280: at least 0.4 of PyTorch's rate. Prints a line a check, PASS, FAIL or SKIPPED with the reason, and ends with 1
if one fails. PyTorch needs CUDA (or ROCm, which it calls the same); stable-diffusion.cpp the second environment of README.md.
"""
import argparse, importlib.util, os, re, statistics, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (4096, 1280, 1280)
MATMUL = r"""
import torch
x = torch.randn(4096, 1280, device="cuda", dtype=torch.float16)
w = torch.randn(1280, 1280, device="cuda", dtype=torch.float16)
for _ in range(20): x @ w.T
begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
begin.record()
for _ in range(200): x @ w.T
end.record()
torch.cuda.synchronize()
print(begin.elapsed_time(end) / 200e3)
"""


def check(found, name, ratio, least):
    verdict = "PASS" if ratio >= least else "FAIL"
    found.append(verdict)
    print(f"{verdict}: {name}: {ratio:.2f}, wanted at least {least}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gpu", required=True, help="a number or a part of the adapter's name")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--vulkan-python")
    parser.add_argument("--vulkan-device", default="0")
    a = parser.parse_args()
    spec = importlib.util.spec_from_file_location("run", Path(__file__).with_name("run.py"))
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    a.work.mkdir(parents=True, exist_ok=True)
    run.make(a.work)
    try:
        import torch
        cuda = torch.cuda.is_available()
        without = f"torch {torch.__version__} finds no GPU"
    except ImportError as error:
        cuda, without = False, str(error)

    steps = {"chiaro": lambda: run.ours(a.work, a.gpu, a.size, a.steps, False)["step"]}
    if cuda:
        steps["PyTorch f16"] = lambda: run.torch_(a.work, a.size, a.steps, False)["step"]
    if a.vulkan_python:
        steps["stable-diffusion.cpp Vulkan"] = lambda: run.sdcpp(
            a.work, a.vulkan_python, a.size, a.steps, {"GGML_VK_VISIBLE_DEVICES": a.vulkan_device})["step"]
    times = {name: [] for name in steps}
    for _ in range(a.runs):
        for name, step in steps.items():
            times[name].append(step())
    times = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in times.items():
        print(f"{a.size}², a step of a guidance pair, {name}: {seconds * 1e3:.1f} ms")

    found = []
    if "stable-diffusion.cpp Vulkan" in times:
        check(found, "step, stable-diffusion.cpp's time by chiaro's", times["stable-diffusion.cpp Vulkan"] / times["chiaro"], 1.5)
    else:
        print("SKIPPED: stable-diffusion.cpp's Vulkan back end: --vulkan-python names no Python that has it")
    if not cuda:
        print(f"SKIPPED: PyTorch: {without}")
        sys.exit("FAIL" in found)
    check(found, "step, PyTorch's time by chiaro's", times["PyTorch f16"] / times["chiaro"], 0.5)

    name = "×".join(map(str, SHAPE))
    env = dict(os.environ, CHIARO_BENCH_DEVICES=a.gpu, CHIARO_BENCH_ONLY=name, CHIARO_BENCH_PRECISION="f16", CHIARO_BENCH_RUNS="20")
    rate = re.compile(rf"matmul {name} .*?([\d.]+) GFLOP/s")
    ours, theirs = [], []
    for _ in range(a.runs):
        out = subprocess.run([run.bench("ops")], env=env, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        ours.append(float(rate.search(out)[1]))
        out = subprocess.run([sys.executable, "-c", MATMUL], check=True, capture_output=True, text=True).stdout
        theirs.append(2 * SHAPE[0] * SHAPE[1] * SHAPE[2] / float(out) / 1e9)
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    print(f"f16 product {name}: chiaro {ours / 1e3:.1f} TFLOP/s, PyTorch {theirs / 1e3:.1f} TFLOP/s")
    check(found, "product, chiaro's rate by PyTorch's", ours / theirs, 0.4)
    sys.exit("FAIL" in found)


if __name__ == "__main__":
    main()
