#!/usr/bin/env python3
"""Every product and convolution of Stable Diffusion 1.5 at 256x256 (two rows) here and in burn's wgpu back end, on one adapter.

    cargo build --release --manifest-path benches/peers/burn/Cargo.toml
    python benches/peers/products.py [--gpu llvmpipe] [--only conv] [--runs 3] [--runner RUNNER] [--burn BINARY]

`benches/ops` and burn are timed in turns, and each shape's median over the turns counts; both read the result back in each run, ours is given its
input anew too. Prints a line a shape and the geometric mean. RUNNER is put before both programs (another Vulkan driver's loader, for example).
"""
import argparse, importlib.util, math, os, re, statistics, subprocess, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"^  (matmul (\d+)×(\d+)×(\d+)|conv(\d)x\d/(\d) (\d+)→(\d+) at (\d+)²)\s+([\d.]+) ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="llvmpipe")
    parser.add_argument("--only", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--runner", nargs="*", default=[])
    parser.add_argument("--burn", type=Path, default=ROOT / "benches/peers/burn/target/release/burn-peer")
    a = parser.parse_args()
    spec = importlib.util.spec_from_file_location("run", Path(__file__).with_name("run.py"))
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    env = dict(os.environ, CHIARO_BENCH_DEVICES=a.gpu, CHIARO_BENCH_ONLY=a.only)
    bench, ours, theirs, names = run.bench("ops"), {}, {}, {}
    for _ in range(a.runs):
        out = subprocess.run([*a.runner, bench], env=env, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        turn = {}
        for found in filter(None, map(LINE.match, out.splitlines())):
            name, rows, inner, columns, kernel, stride, c_in, c_out, side, ms = found.groups()
            shape = f"matmul {rows} {inner} {columns}" if rows else f"conv 2 {side} {c_in} {c_out} {kernel} {stride}"
            names[shape] = name
            turn.setdefault(shape, float(ms) / 1e3)
        for shape, seconds in turn.items():
            ours.setdefault(shape, []).append(seconds)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(names) + "\n")
            file.flush()
            out = subprocess.run([*a.runner, a.burn, file.name], check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in out.splitlines():
            shape, seconds = line.rsplit(" ", 1)
            theirs.setdefault(shape, []).append(float(seconds))
    ratios = []
    print("| shape | chiaro | burn | ratio |\n| --- | --- | --- | --- |")
    for shape, seconds in theirs.items():
        own, other = statistics.median(ours[shape]), statistics.median(seconds)
        ratios.append(other / own)
        print(f"| {names[shape]} | {own * 1e3:.1f} ms | {other * 1e3:.1f} ms | {ratios[-1]:.2f} |")
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"\n{len(ratios)} shapes, geometric mean {mean:.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
