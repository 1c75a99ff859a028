"""WGSL through Tint and Dawn's rules for pipelines, by Dawn's Null backend: it offers every feature and WebGPU's default limits, and needs no driver.

    python tint.py FOLDER < FORMS

FORMS are lines of the index. Each answer is a line of JSON: `file`, `fault` (null if none), `pipeline` (whether one was made).
"""

import json
import os
import sys
from pathlib import Path

os.environ["WGPU_BACKEND_TYPE"] = "Null"

BUFFERS = {"Uniform": "uniform", "Read": "read-only-storage", "ReadWrite": "storage"}


class Devices:
    """A device for each set of features, so that a text passes with what it asks for and no more."""

    def __init__(self):
        import logging

        logging.disable(logging.WARNING)
        import wgpudawn
        import wgpudawn.backends.auto  # noqa: F401

        self.gpu = wgpudawn.gpu
        self.stages = wgpudawn.ShaderStage
        self.made = {}

    def of(self, form):
        features = [name for name, wanted in (("shader-f16", form["f16"]), ("subgroups", form["subgroups"])) if wanted]
        key = tuple(features)
        if key not in self.made:
            self.made[key] = self.gpu.request_adapter_sync().request_device_sync(required_features=features)
        return self.made[key]


def beyond_defaults(form):
    """Whether a form needs more than every browser guarantees: then its text is checked, and no pipeline is made."""
    invocations = form["workgroup_size"][0] * form["workgroup_size"][1] * form["workgroup_size"][2]
    buffers = sum(binding["kind"] != "Uniform" for binding in form["bindings"])
    return invocations > 256 or form["workgroup_bytes"] > 16 << 10 or buffers > 8


def check(devices, form, text):
    """Whether a pipeline was made; raises on a fault."""
    device = devices.of(form)
    module = device.create_shader_module(code=text)
    said = [m for m in module.get_compilation_info_sync().messages if m.type != "info"]
    if said:
        raise ValueError("; ".join(f"line {m.line_num}: {m.message}" for m in said))
    if beyond_defaults(form):
        return False
    entries = [
        {"binding": b["number"], "visibility": devices.stages.COMPUTE, "buffer": {"type": BUFFERS[b["kind"]]}}
        for b in form["bindings"]
    ]
    layout = device.create_pipeline_layout(bind_group_layouts=[device.create_bind_group_layout(entries=entries)])
    stage = {"module": module, "entry_point": form["entry"], "constants": form["overrides"]}
    device.create_compute_pipeline(layout=layout, compute=stage)
    return True


def main():
    folder = Path(sys.argv[1])
    devices = Devices()
    for line in sys.stdin:
        form = json.loads(line)
        fault, pipeline = None, False
        try:
            pipeline = check(devices, form, (folder / f"{form['file']}.wgsl").read_text())
        except Exception as error:  # Dawn's errors are of several kinds; each is a fault of the text.
            fault = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(json.dumps({"file": form["file"], "fault": fault, "pipeline": pipeline}), flush=True)


if __name__ == "__main__":
    main()
