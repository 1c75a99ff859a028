#!/usr/bin/env python3
"""The same full-size Stable Diffusion 1.5 with random weights in other engines and here: seconds a UNet step (guidance pair) and a
decoded picture, in turns on one machine, as one table. Or the UNet of SDXL alone, or the One More Step module of SD 1.5 and 2.1.

    python benches/peers/run.py --work DIR [--models sd15 oms sdxl] [--sizes 256 512] [--runs 3] [--gpu llvmpipe] [--vulkan-python PYTHON] [--runner RUNNER]
                                [--tools chiaro-cpu chiaro-bf16 openvino openvino-bf16 onnxruntime torch sdcpp-cpu chiaro-gpu sdcpp-vulkan]

Ratios are to chiaro's row in the same precision. Needs torch, diffusers, safetensors, openvino, onnx with onnxruntime, and cyllama
(stable-diffusion.cpp for processors) in the Python that runs it, each for its own tools alone. Its Vulkan back end is
another wheel of the same module: install `cyllama-vulkan` in a second environment and name its interpreter. On a CUDA machine torch runs
there, in f16. Whether results are right is for the goldens to say; the benches here compare executors before they print.
"""
import argparse, functools, importlib.util, json, os, re, shutil, statistics, subprocess, sys, tempfile, traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = ["--prompt", "a lighthouse at night", "--negative", "fog", "--cfg-scale", "7", "--sampler", "euler", "--seed", "1"]

# A UNet of diffusers, whatever the model, and what it takes beside the latents: the timestep, the text's states, what SDXL is told of the picture. The
# module of One More Step is a UNet without a time path.
NETWORK = r"""
import json, torch
from diffusers import UNet2DConditionModel, AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file
class Nothing(torch.nn.Module):
    def forward(self, *_):
        return None
class Network(torch.nn.Module):
    def __init__(self, folder, dtype):
        super().__init__()
        config = json.load(open(folder + "/unet/config.json"))
        self.is_oms = config["_class_name"] != "UNet2DConditionModel"
        self.net = UNet2DConditionModel.from_config({**config, "_class_name": "UNet2DConditionModel"})
        if self.is_oms:
            self.net.time_embedding = Nothing()
            for block in self.net.modules():
                if isinstance(block, ResnetBlock2D):
                    block.time_emb_proj = None
        self.net.load_state_dict(load_file(folder + "/unet/diffusion_pytorch_model.safetensors"), assign=True)
        self.net = self.net.to(dtype).eval()
        self.told = (1280, 6) if config.get("addition_embed_type") else ()
        self.width = config["cross_attention_dim"]
    def inputs(self, side):
        return torch.randn(2, 4, side, side), torch.tensor(500), torch.randn(2, 77, self.width), *(torch.randn(2, n) for n in self.told)
    def forward(self, x, t, c, pooled=None, ids=None):
        more = dict(added_cond_kwargs=dict(text_embeds=pooled, time_ids=ids)) if self.told else {}
        return self.net(x, t, c, return_dict=False, **more)[0]
"""

TORCH = NETWORK + r"""
import sys, time, resource
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
    unet = Network(folder, dtype).to(device)
    inputs = [value.to(device, dtype) if value.ndim else value for value in unet.inputs(size)]
    step = timed(lambda: unet(*inputs), steps)
    decode = None
    del unet
    if wants_vae:
        vae = AutoencoderKL.from_pretrained(folder + "/vae", torch_dtype=dtype).to(device).eval()
        decode = timed(lambda: vae.decode(inputs[0][:1]), 1)
mib = torch.cuda.max_memory_allocated() >> 20 if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
print(json.dumps(dict(step=step, vae=decode, mib=mib, device=device)))
"""


# What diffusers' networks are to other engines: converted once, one file a network, for any size.
CONVERT = NETWORK + r"""
import sys
from pathlib import Path
folder, to, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = AutoencoderKL.from_pretrained(folder + "/vae", torch_dtype=torch.float32).eval()
    def forward(self, x):
        return self.net.decode(x, return_dict=False)[0]
for name in ("unet", "vae"):
    if not Path(folder, name).exists():
        continue
    net = Decoder() if name == "vae" else Network(folder, torch.float32)
    inputs = (torch.randn(1, 4, 32, 32),) if name == "vae" else net.inputs(32)
    if name == "unet":
        (out / "shapes.json").write_text(json.dumps([list(value.shape) for value in inputs[1:]]))
    with torch.inference_mode():
        if to == "openvino":
            import openvino
            openvino.save_model(openvino.convert_model(net, example_input=inputs), out / f"{name}.xml", compress_to_fp16=True)
        else:
            (out / name).mkdir()
            names = ["x", "t", "c", "pooled", "ids"][: len(inputs)]
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
    if callable(inputs):
        inputs = inputs(model)
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
# A network that does not look at the timestep has no such input.
def network(model):
    return [value for value, kept in zip(values, [True, len(model.inputs) == len(values), *[True] * 3]) if kept]
values = [normal(2, 4, side, side)] + [normal(*shape) if shape else numpy.array(500) for shape in json.load(open(folder + "/shapes.json"))]
step = timed("unet", network, steps)
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
        out = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})[0]
        found.append(time.perf_counter() - start)
    assert numpy.isfinite(out).all()
    return sorted(found[1:])[count // 2]
normal = lambda *shape: numpy.random.default_rng(1).standard_normal(shape, dtype=numpy.float32)
values = [normal(*shape) if shape else numpy.array(500) for shape in json.load(open(folder + "/shapes.json"))]
step = timed("unet", dict(zip(["x", "t", "c", "pooled", "ids"], [normal(2, 4, side, side), *values])), steps)
decode = timed("vae", dict(x=normal(1, 4, side, side)), 2) if wants_vae else None
print(json.dumps(dict(step=step, vae=decode, mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)))
"""


def full_size():
    spec = importlib.util.spec_from_file_location("full_size", ROOT / "benches/full_size/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(work, model):
    """A model folder and, of SD 1.5, the same weights as one file, in f16. Of the others the UNet alone."""
    if (work / "made").exists():
        return
    # In a process of its own: what this one has resident counts as the most that its children had.
    child = os.fork()
    if child:
        if os.waitpid(child, 0)[1]:
            raise SystemExit(f"{model} could not be made")
        return
    status = 1
    try:
        write(work, model)
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def write(work, model):
    import torch
    full = full_size()
    if model == "sd15":
        found = full.parts("sd15")
        full.write_folder(work / "folder", "sd15", found, torch.float16)
        full.write_file(work / "model.safetensors", full.single("sd15", found), torch.float16)
    else:
        config, tensors = full.parts("sdxl")["unet"] if model == "sdxl" else oms_module(full)
        (work / "folder/unet").mkdir(parents=True, exist_ok=True)
        (work / "folder/unet/config.json").write_text(json.dumps(config))
        full.write_file(work / "folder/unet/diffusion_pytorch_model.safetensors", tensors, torch.float16)
    (work / "made").touch()


def oms_module(full):
    """The published module of SD 1.5 and 2.1 (h1t/oms_b_openclip_15_21: its config), with random weights: a UNet's names but for those of the time."""
    from diffusers import UNet2DConditionModel
    config = json.loads((ROOT / "tests/golden/oms/oms_module/config.json").read_text())
    config.update(block_out_channels=[160, 320, 640], attention_head_dim=[5, 10, 20], cross_attention_dim=1024, norm_num_groups=32)
    shapes = UNet2DConditionModel.from_config({**config, "_class_name": "UNet2DConditionModel"}).state_dict().items()
    return config, full.values("oms", {name: list(value.shape) for name, value in shapes if "time_emb" not in name})


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
    if not vae and not (work / "folder/vae").exists():
        return alone(work, device, size, steps, precision, runner)
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


def alone(work, device, size, steps, precision, runner):
    env = dict(os.environ, CHIARO_BENCH_DEVICES=device, CHIARO_BENCH_UNET=str(work / "folder/unet"), CHIARO_BENCH_SIZE=str(size), CHIARO_BENCH_RUNS=str(steps))
    if device == "cpu":
        env["CHIARO_BENCH_PRECISION"] = precision
    out, resident = measured([*runner, bench("forward")], env)
    plan = int(re.search(r"peak (\d+) MiB", out)[1])
    return dict(step=float(re.search(r": ([\d.]+) s a forward", out)[1]), vae=None, plan=plan, mib=resident if device == "cpu" else plan)


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
    parser.add_argument("--models", nargs="+", default=["sd15"], choices=["sd15", "oms", "sdxl"])
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
    print("| picture | engine | step, guidance pair | times chiaro's | decoder | times chiaro's | memory as each tool tells it |\n| --- | --- | --- | --- | --- | --- | --- |")
    for model in a.models:
        compare(a, model)


def compare(a, model):
    """The rows of one model."""
    work = a.work / model
    work.mkdir(parents=True, exist_ok=True)
    make(work, model)
    runner, vae = [a.runner] if a.runner else [], model == "sd15" and not a.no_vae
    tools = {
        "chiaro-cpu": lambda size: ours(work, "cpu", size, a.steps, vae),
        "chiaro-bf16": lambda size: ours(work, "cpu", size, a.steps, vae, "bf16"),
        "chiaro-gpu": lambda size: ours(work, a.gpu, size, a.steps, vae, runner=runner),
        "openvino": lambda size: other(OPENVINO, converted(work, "openvino"), size, a.steps, vae, "f32"),
        "openvino-bf16": lambda size: other(OPENVINO, converted(work, "openvino"), size, a.steps, vae, "bf16"),
        "onnxruntime": lambda size: other(ONNXRUNTIME, converted(work, "onnx"), size, a.steps, vae),
        "torch": lambda size: other(TORCH, work / "folder", size, a.steps, vae),
        "sdcpp-cpu": lambda size: sdcpp(work, sys.executable, size, a.steps, {}),
        "sdcpp-vulkan": lambda size: sdcpp(work, a.vulkan_python, size, a.vulkan_steps or a.steps,
                                           {"GGML_VK_VISIBLE_DEVICES": a.vulkan_device}, runner),
    }
    # stable-diffusion.cpp draws whole pictures of one file alone.
    names = [tool for tool in a.tools if model == "sd15" or not tool.startswith("sdcpp")]
    for size in a.sizes:
        found = {tool: [] for tool in names}
        for run in range(a.runs):
            for tool in names:
                found[tool].append(tools[tool](size))
                print(f"run {run + 1}, {model} {size}, {tool}: {found[tool][-1]}", file=sys.stderr, flush=True)
        middle = lambda tool, what: None if found[tool][0][what] is None else statistics.median(f[what] for f in found[tool])
        for tool in names:
            kind = "chiaro-gpu" if "vulkan" in tool else "chiaro-bf16" if "bf16" in tool else "chiaro-cpu"
            own = kind if kind in found else next((t for t in names if t.startswith("chiaro")), tool)
            cells = []
            for what in ("step", "vae"):
                value, base = middle(tool, what), middle(own, what)
                cells += ["", ""] if value is None else [f"{value:.2f} s", "" if tool.startswith("chiaro") or not base else f"{value / base:.2f}"]
            print(f"| {model}, {size}² | {tool} | {' | '.join(cells)} | {middle(tool, 'mib'):.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
