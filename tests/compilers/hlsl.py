"""HLSL through DXC and FXC, with the arguments that wgpu-hal 30 gives them (dx12/shader_compilation.rs), warnings read, and every register compared."""

import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

# Warnings that are known, and why they are no fault; any other fails.
ACCEPTED = [
    (r"DXIL\.dll not found", "DXC for Linux has no signature to give; Windows' own has"),
    (r"-Wparentheses-equality", "naga writes more parentheses than are needed"),
    (r"X3557: loop only executes for [01] iteration", "a tile's loop of one turn, or a loop over no slices; FXC writes it out, as it should"),
    (r"X4000: use of potentially uninitialized variable \((cell_of)\)", "FXC's own variable for what a function gives back, set on every way out"),
]

# wgpu has -no-warnings too: here they are wanted.
DXC = ["-HV", "2018", "-Ges"]
# D3DCOMPILE_ENABLE_STRICTNESS
FXC = ["0x800"]
# A user would not wait longer for one kernel of some dozens.
SECONDS = 120


def dxc_jobs(form, path, thorough):
    """As a device without 16-bit operations compiles a kernel, and as one with them does: it has the switch for every kernel."""
    entry = form["hlsl_entry"]
    with_f16 = [path, "cs_6_2", entry, *DXC, "-enable-16bit-types"]
    if form["f16"]:
        return [with_f16]
    without = [path, "cs_6_0", entry, *DXC]
    return [without, with_f16] if thorough else [without]


def fxc_jobs(form, path):
    return [[path, "cs_5_1", form["hlsl_entry"], *FXC]]


def misplaced(form, bound):
    """What is wrong with the places of buffers. naga adds `_` to names that mean something in HLSL, `_4` to those that it met before."""
    expected = {b["name"]: b["register"].replace("b", "cb") for b in form["bindings"]}
    constants = sum(b["register"].startswith("b") for b in form["bindings"])
    faults = []
    seen = set()
    for name, register, count in bound:
        known = re.sub(r"(_\d+)?_*$", "", name)
        if name == "_NagaConstants":
            place = f"cb{constants}"
        elif known in expected and known not in seen:
            seen.add(known)
            place = expected[known]
        else:
            faults.append(f"{name} is no binding of the kernel, or there twice")
            continue
        if (register, count) != (place, "1"):
            faults.append(f"{name} is at {register}, {count} of them; wgpu binds it at {place}")
    faults += [f"{name} is not in the compiled kernel" for name in expected if name not in seen]
    return faults


class Output:
    """What a harness says of one file."""

    def __init__(self):
        self.errors, self.warnings, self.bound = [], [], []

    def take(self, line):
        kind, _, text = line.partition("\t")
        if kind == "error":
            self.errors.append(text)
        elif kind == "warning":
            self.warnings.append(text)
        elif kind == "bound":
            self.bound.append(text.split())

    def faults(self, form):
        if self.errors:
            said = [line for line in self.errors if "error" in line and "error: validation errors" not in line]
            return [said[0] if said else self.errors[0]]
        said = [line for line in self.warnings if re.search(r"\bwarning( X\d+)?:", line)]
        unknown = [line for line in said if not any(re.search(kind, line) for kind, _ in ACCEPTED)]
        return unknown + misplaced(form, self.bound)


def lines_of(process, seconds):
    """Lines of a program's output; ends early where none comes for `seconds`."""
    pending = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        if not ready:
            yield None
            return
        read = os.read(process.stdout.fileno(), 1 << 16)
        if not read:
            return
        *lines, pending = (pending + read).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")


def compile_all(command, jobs, environment=None):
    """Runs a harness over (form, arguments) pairs: faults of each, and its slowest file. A file that takes too long costs that file alone."""
    faults, slowest = [], (0.0, "")
    rest = list(jobs)
    while rest:
        stderr = tempfile.TemporaryFile()
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, start_new_session=True
        )

        def feed(lines):
            try:
                process.stdin.write("".join("\t".join(line) + "\n" for line in lines).encode())
                process.stdin.close()
            except BrokenPipeError:
                pass

        threading.Thread(target=feed, args=([arguments for _, arguments in rest],), daemon=True).start()
        output, began, done = None, time.monotonic(), 0
        for line in lines_of(process, SECONDS):
            if line is None:
                break
            if line.startswith("= "):
                output, began = Output(), time.monotonic()
            elif line:
                if output is not None:
                    output.take(line)
            elif output is not None:
                form, arguments = rest[done]
                faults += [(form, f"{arguments[1]}: {fault}") for fault in output.faults(form)]
                slowest = max(slowest, (time.monotonic() - began, form["file"]))
                output, done = None, done + 1
        late = process.poll() is None and done < len(rest)
        if late:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stderr.seek(0)
        said = stderr.read().decode(errors="replace").strip()
        if done < len(rest):
            form, arguments = rest[done]
            what = f"not compiled after {SECONDS} s" if late else f"the compiler ended: {said or process.returncode}"
            faults.append((form, f"{arguments[1]}: {what}"))
            done += 1
        rest = rest[done:]
    return faults, slowest


def check(command, jobs, workers, environment=None):
    """All jobs on `workers` processes at once."""
    shares = [jobs[start::workers] for start in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(lambda share: compile_all(command, share, environment), shares))
    return [fault for faults, _ in parts for fault in faults], max(slowest for _, slowest in parts)
