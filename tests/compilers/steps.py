"""What each compiler is asked, and of which forms."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hlsl
import metal
import tools

HERE = Path(__file__).resolve().parent


@dataclass
class Result:
    faults: list
    summary: str


class Dxc:
    title = "DXC 1.7 for Linux (HLSL for shader model 6)"
    environment = None

    def __init__(self):
        self.command = tools.dxc()

    def has(self, form):
        # What DX12 has of workgroup memory (wgpu-hal's limit); forms that need more are chosen for other GPUs.
        return "dxc" in form["targets"] and form["workgroup_bytes"] <= 32 << 10

    def path(self, file):
        return str(file)

    def check(self, forms, folder, arguments):
        path = lambda form: self.path(folder / f"{form['file']}.6.hlsl")  # noqa: E731
        jobs = [(form, job) for form in forms for job in hlsl.dxc_jobs(form, path(form), arguments.all)]
        faults, (seconds, file) = hlsl.check(self.command, jobs, arguments.jobs, self.environment)
        return Result(faults, f"{len(forms)} forms in {len(jobs)} compilations, the slowest {seconds:.1f} s ({file})")


class DxcOfWindows(Dxc):
    """What lies beside a program on Windows; wgpu asks for 1.8 or newer."""

    title = "dxcompiler.dll 1.9 under Wine (HLSL for shader model 6)"

    def __init__(self):
        self.command, self.environment = tools.windows("dxc.cpp", "dxcompiler.dll")

    def path(self, file):
        return tools.windows_path(file)


class Fxc:
    title = "d3dcompiler_47.dll under Wine (FXC: HLSL for shader model 5.1)"

    def __init__(self):
        self.command, self.environment = tools.windows("fxc.cpp", "d3dcompiler_47.dll")

    def has(self, form):
        return "fxc" in form["targets"]

    def few(self, forms):
        """FXC is the slowest: of forms that differ only in what is added to a product, the one with least and the one with most."""
        groups = {}
        for form in forms:
            sums = {"BIAS", "IMAGE_ADD", "RESIDUAL"}
            key = (form["kernel"], tuple(flag for flag in form["flags"] if flag not in sums))
            groups.setdefault(key, []).append((len(sums & set(form["flags"])), form))
        ends = [pick(group, key=lambda item: item[0])[1] for group in groups.values() for pick in (min, max)]
        return list({form["file"]: form for form in ends}.values())

    def check(self, forms, folder, arguments):
        forms = forms if arguments.all else self.few(forms)
        jobs = [(form, job) for form in forms for job in hlsl.fxc_jobs(form, tools.windows_path(folder / f"{form['file']}.5.1.hlsl"))]
        faults, (seconds, file) = hlsl.check(self.command, jobs, arguments.jobs, self.environment)
        return Result(faults, f"{len(forms)} forms, the slowest {seconds:.1f} s ({file})")


class Tint:
    title = "Tint and Dawn (WGSL for browsers)"

    def __init__(self):
        self.packages = tools.dawn()

    def has(self, form):
        return "web" in form["targets"]

    def ask(self, forms, folder):
        environment = dict(os.environ, PYTHONPATH=str(self.packages))
        lines = "".join(json.dumps(form) + "\n" for form in forms)
        command = [sys.executable, str(HERE / "tint.py"), str(folder)]
        done = subprocess.run(command, input=lines, text=True, capture_output=True, env=environment)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        faults = [(form, answer["fault"]) for form, answer in zip(forms, answers) if answer["fault"]]
        if len(answers) < len(forms):
            said = done.stderr.strip().splitlines()
            faults.append((forms[len(answers)], f"Dawn ended: {said[-1] if said else done.returncode}"))
        return faults, sum(answer["pipeline"] for answer in answers)

    def check(self, forms, folder, arguments):
        faults, pipelines = [], 0
        # Dawn keeps what it compiled: a new process now and then.
        for start in range(0, len(forms), 500):
            more, made = self.ask(forms[start : start + 500], folder)
            faults += more
            pipelines += made
        beyond = f"{len(forms) - pipelines - len(faults)} need more than WebGPU's default limits: text alone"
        return Result(faults, f"{len(forms)} forms, {pipelines} pipelines ({beyond})")


class SpirvVal:
    title = "spirv-val (SPIR-V 1.3 and 1.6)"
    environments = ["vulkan1.1", "vulkan1.3"]

    def __init__(self):
        self.command = tools.spirv_val()

    def has(self, form):
        return "vulkan" in form["targets"]

    def ask(self, job):
        form, environment, folder = job
        command = [*self.command, "--target-env", environment, str(folder / f"{form['file']}.{environment}.spv")]
        done = subprocess.run(command, text=True, capture_output=True)
        said = (done.stderr or done.stdout).strip().splitlines()
        return (form, f"{environment}: {said[0] if said else done.returncode}") if done.returncode or said else None

    def check(self, forms, folder, arguments):
        jobs = [(form, environment, folder) for form in forms for environment in self.environments]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            faults = [fault for fault in pool.map(self.ask, jobs) if fault]
        return Result(faults, f"{len(forms)} forms, {len(jobs)} modules")


class Metal:
    title = "clang and a shim (MSL)"

    def __init__(self):
        self.packages = tools.clang()

    def has(self, form):
        return "metal" in form["targets"]

    def check(self, forms, folder, arguments):
        faults = metal.check(self.packages, forms, folder, arguments.jobs)
        return Result(faults, f"{len(forms)} forms")


STEPS = {"dxc": Dxc, "dxc-windows": DxcOfWindows, "fxc": Fxc, "tint": Tint, "spirv-val": SpirvVal, "metal": Metal}
