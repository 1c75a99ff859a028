#!/usr/bin/env python3
"""The same full-size Stable Diffusion 1.5 with random weights in other engines and here: seconds a UNet step (guidance pair) and a
decoded picture, in turns on one machine, as one table.

    python benches/peers/run.py --work DIR [--sizes 256 512] [--runs 3] [--gpu llvmpipe] [--vulkan-python PYTHON] [--runner RUNNER]
                                [--tools chiaro-cpu chiaro-bf16 openvino openvino-bf16 onnxruntime torch sdcpp-cpu chiaro-gpu sdcpp-vulkan]

Ratios are to chiaro's row in the same precision. Needs torch, diffusers, safetensors, openvino, onnx with onnxruntime, and cyllama
(stable-diffusion.cpp for processors) in the Python that runs it, each for its own tools alone. Its Vulkan back end is
another wheel of the same module: install `cyllama-vulkan` in a second environment and name its interpreter. On a CUDA machine torch runs
there, in f16. Whether results are right is for the goldens to say; the benches here compare executors before they print.
"""
import argparse, functools, importlib.util, json, os, re, shutil, statistics, subprocess, sys, tempfile
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


# What diffusers' networks are to other engines: converted once, one file a network, for any size.
CONVERT = r"""
import sys, torch
from pathlib import Path
from diffusers import UNet2DConditionModel, AutoencoderKL
folder, to, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
class Unet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = UNet2DConditionModel.from_pretrained(folder + "/unet", torch_dtype=torch.float32).eval()
    def forward(self, x, t, c):
        return self.net(x, t, c, return_dict=False)[0]
class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = AutoencoderKL.from_pretrained(folder + "/vae", torch_dtype=torch.float32).eval()
    def forward(self, x):
        return self.net.decode(x, return_dict=False)[0]
for name, make, inputs in (("unet", Unet, (torch.randn(2, 4, 32, 32), torch.tensor(500), torch.randn(2, 77, 768))),
                           ("vae", Decoder, (torch.randn(1, 4, 32, 32),))):
    net = make()
    with torch.inference_mode():
        if to == "openvino":
            import openvino
            openvino.save_model(openvino.convert_model(net, example_input=inputs), out / f"{name}.xml", compress_to_fp16=True)
        else:
            (out / name).mkdir()
            names = ["x", "t", "c"][: len(inputs)]
            axes = {"x": {2: "h", 3: "w"}}
            torch.onnx.export(net, inputs, out / name / "model.onnx", input_names=names, dynamic_axes=axes, opset_version=17, dynamo=False)
    del net
"""

OPENVINO = r"""
import json, sys, time, resource, numpy, openvino
folder, side, steps, wants_vae, precision = sys.argv[1], int(sys.argv[2]) // 8, int(sys.argv[3]), sys.argv[4] == "1", sys.argv[5]
core = openvino.Core()
def timed(name, inputs, count):
    model = core.read_model(f"{folder}/{name}.xml")
    model.reshape({i: x.shape for i, x in enumerate(inputs)})
    # Latency: all cores on one request. Without the hint it computes in bf16 where the processor can.
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision})
    told = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert told == precision, f"it computes in {told}"
    request = compiled.create_infer_request()
    found = []
    for _ in range(count + 1):
        start = time.perf_counter()
        request.infer(inputs)
        found.append(time.perf_counter() - start)
    assert numpy.isfinite(request.get_output_tensor(0).data).all()
    return sorted(found[1:])[count // 2]
normal = lambda *shape: numpy.random.default_rng(1).standard_normal(shape, dtype=numpy.float32)
step = timed("unet", [normal(2, 4, side, side), numpy.array(500), normal(2, 77, 768)], steps)
decode = timed("vae", [normal(1, 4, side, side)], 2) if wants_vae else None
print(json.dumps(dict(step=step, vae=decode, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)))
"""

ONNXRUNTIME = r"""
import json, os, sys, time, resource, numpy, onnxruntime
folder, side, steps, wants_vae = sys.argv[1], int(sys.argv[2]) // 8, int(sys.argv[3]), sys.argv[4] == "1"
def timed(name, inputs, count):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(f"{folder}/{name}/model.onnx", options, providers=["CPUExecutionProvider"])
    found = []
    for _ in range(count + 1):
        start = time.perf_counter()
        out = session.run(None, inputs)[0]
        found.append(time.perf_counter() - start)
    assert numpy.isfinite(out).all()
    return sorted(found[1:])[count // 2]
normal = lambda *shape: numpy.random.default_rng(1).standard_normal(shape, dtype=numpy.float32)
step = timed("unet", dict(x=normal(2, 4, side, side), t=numpy.array(500), c=normal(2, 77, 768)), steps)
decode = timed("vae", dict(x=normal(1, 4, side, side)), 2) if wants_vae else None
print(json.dumps(dict(step=step, vae=decode, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)))
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


@functools.cache
def bench(name):
    lines = subprocess.run(["cargo", "bench", "--locked", "--no-run", "--message-format=json", "--bench", name], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.splitlines()
    found = [m["executable"] for m in map(json.loads, lines) if m.get("reason") == "compiler-artifact" and m["target"]["name"] == name]
    return found[-1]


def measured(command, env):
    """What a program prints, and the most memory that it had resident, in MiB."""
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(list(map(str, command)), env=env, cwd=ROOT, stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{command[0]} ended with {child.returncode}")
        out.seek(0)
        return out.read(), usage.ru_maxrss >> 10


def ours(work, device, size, steps, vae, precision="f32", runner=()):
    env = dict(os.environ, CHIARO_BENCH_DEVICES=device, CHIARO_BENCH_MODEL=str(work / "folder"), CHIARO_BENCH_SIZE=str(size),
               CHIARO_BENCH_GUIDANCE="7", CHIARO_BENCH_STEPS=str(steps + 2), CHIARO_BENCH_RUNS="2", CHIARO_BENCH_BANDS="0")
    if device == "cpu":
        env["CHIARO_BENCH_PRECISION"] = precision
    out, resident = measured([*runner, bench("unet_step")], env)
    found = dict(step=float(re.search(r": ([\d.]+) s a step", out)[1]), mib=resident, vae=None, plan=int(re.search(r"peak (\d+) MiB", out)[1]))
    if device != "cpu":
        found["mib"] = found["plan"]
    if vae:
        out, _ = measured([*runner, bench("vae")], env)
        found["vae"] = float(re.search(r"whole ([\d.]+) s", out)[1])
    return found


def converted(work, to):
    out = work / to
    if not (out / "done").exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        subprocess.run([sys.executable, "-c", CONVERT, work / "folder", to, out], check=True, capture_output=True)
        (out / "done").touch()
    return out


def other(program, folder, size, steps, vae, *more):
    out, _ = measured([sys.executable, "-c", program, folder, size, steps, int(vae), *more], dict(os.environ))
    return json.loads(out.splitlines()[-1])


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
        "chiaro-bf16": lambda size: ours(a.work, "cpu", size, a.steps, not a.no_vae, "bf16"),
        "chiaro-gpu": lambda size: ours(a.work, a.gpu, size, a.steps, not a.no_vae, runner=runner),
        "openvino": lambda size: other(OPENVINO, converted(a.work, "openvino"), size, a.steps, not a.no_vae, "f32"),
        "openvino-bf16": lambda size: other(OPENVINO, converted(a.work, "openvino"), size, a.steps, not a.no_vae, "bf16"),
        "onnxruntime": lambda size: other(ONNXRUNTIME, converted(a.work, "onnx"), size, a.steps, not a.no_vae),
        "torch": lambda size: other(TORCH, a.work / "folder", size, a.steps, not a.no_vae),
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
            kind = "chiaro-gpu" if "vulkan" in tool else "chiaro-bf16" if "bf16" in tool else "chiaro-cpu"
            own = kind if kind in found else next((t for t in a.tools if t.startswith("chiaro")), tool)
            cells = []
            for what in ("step", "vae"):
                value, base = middle(tool, what), middle(own, what)
                cells += ["", ""] if value is None else [f"{value:.2f} s", "" if tool.startswith("chiaro") or not base else f"{value / base:.2f}"]
            print(f"| {size}² | {tool} | {' | '.join(cells)} | {middle(tool, 'mib'):.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
