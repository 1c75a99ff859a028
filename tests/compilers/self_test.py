"""Faults put in on purpose, which the checks have to find: a check that cannot fail is none."""

import re
import shutil
import struct
from types import SimpleNamespace

QUIET = SimpleNamespace(all=False, jobs=1)


def replace(pattern, by):
    """Changes the first match in a text, which has to be there."""

    def change(text):
        changed, count = re.subn(pattern, by, text, count=1, flags=re.M)
        if count == 0:
            raise ValueError(f"nothing to change: {pattern}")
        return changed

    return change


# Of each step: what is broken, in which kernel, in which file, how, and what the answer has to say.
HLSL = [
    ("a register that another buffer has", "matmul", replace(r"(ByteAddressBuffer x\w* : register\()t0", r"\1t7"), r"x\w* is at t7"),
    ("two constant buffers at one place", "matmul", replace(r"register\(b1\)", "register(b0)"), r"overlap|cb0|register"),
    ("a wrong type", "matmul", replace(r"float4 unpack_weight\(float4 stored\)", "float4 unpack_weight(uint2 stored)"), r"error"),
    ("a warning that nobody knows", "matmul", replace(r"^float4 unpack_weight\([^)]*\)\s*\{", r"\g<0> float3 cut = stored;"), r"warning|truncation"),
]
METAL = [
    ("a value of a wrong type", "matmul", replace(r"metal::float4 _e5 = unpack_weight\(_e4\);", "metal::float4 _e5 = unpack_weight(quad_1, _e4);"), "no matching function"),
    ("a vector of a wrong length", "matmul", replace(r"metal::float4 unpack_weight\(\s*metal::float4 stored", "metal::float4 unpack_weight(metal::float2 stored"), "no matching function|cannot"),
    ("a name that Metal does not have", "matmul", replace(r"metal::exp\(", "metal::exponential("), "exponential"),
    ("arguments of two types", "matmul", replace(r"metal::min\(", "metal::min(1.0, "), "no matching function"),
    ("a pointer of a wrong address space", "matmul", replace(r"threadgroup (type_\d+& weight_tile)", r"device \1"), "no matching function|cannot|address space"),
    ("a conversion of a vector that does not say so", "matmul", replace(r"static_cast<metal::float4>\((\w+)\)", r"metal::half4(\1)"), "cannot|no viable|incompatible|incomp"),
    ("an attribute that Metal does not have", "matmul", replace(r"thread_index_in_threadgroup", "thread_index_in_group"), "no attribute"),
    ("two buffers in each other's place", "matmul", lambda text: text.replace("[[buffer(1)]]", "[[buffer(x)]]").replace("[[buffer(2)]]", "[[buffer(1)]]").replace("[[buffer(x)]]", "[[buffer(2)]]"), "buffer 1 is"),
]
TINT = [
    ("a type without its extension", "f16", replace(r"^enable f16;", ""), "f16"),
    ("subgroups without their extension", "subgroups", replace(r"enable subgroups; ", ""), "subgroup"),
    ("a wrong type", "matmul", replace(r"vec4<f32>\(stored\)", "vec4<u32>(stored)"), "return|type|convert"),
    ("a binding of another kind", "matmul", replace(r"var<storage, read> x:", "var<storage, read_write> x:"), "binding|layout"),
]


def first(forms, wanted):
    """The first form of a kernel in f32, or one that needs a feature."""
    if wanted in ("f16", "subgroups"):
        return next(form for form in forms if form[wanted])
    return next(form for form in forms if form["kernel"] == wanted and not form["f16"] and "DIRECT" not in form["flags"] and not form["matrices"]
                and "WEIGHT_BLOCKS" not in form["flags"] and "WEIGHT_F16_PACKED" not in form["flags"])


def broken_spirv(data):
    """A module whose first function ends before its last instruction."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    return struct.pack(f"<{len(words) - 1}I", *words[:-1])


def wrong_operand(data):
    """A module in which an addition has a type for an operand."""
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    at = 5
    while at < len(words):
        length, opcode = words[at] >> 16, words[at] & 0xFFFF
        if opcode == 128:
            words[at + 3] = words[at + 1]
            return struct.pack(f"<{len(words)}I", *words)
        at += length
    raise ValueError("no addition")


def missed(step, name, forms, folder, scratch):
    """Faults that the step did not find, and how many it was given."""
    scratch.mkdir(parents=True)
    forms = [form for form in forms if step.has(form)]
    endings = {"dxc": "6.hlsl", "dxc-windows": "6.hlsl", "fxc": "5.1.hlsl", "tint": "wgsl", "metal": "metal"}
    cases = {"dxc": HLSL, "dxc-windows": HLSL, "fxc": HLSL, "tint": TINT, "metal": METAL}.get(name, [])
    not_found, given = [], 0

    def expect(what, form, said):
        nonlocal given
        given += said is not None
        faults = [fault for _, fault in step.check([form], scratch, QUIET).faults]
        if said is None and faults:
            not_found.append(f"{what}: {faults[0]}")
        elif said is not None and not any(re.search(said, fault) for fault in faults):
            not_found.append(f"{what} ({form['kernel']}): {faults[0] if faults else 'it passed'}")

    for what, wanted, change, said in cases:
        form = first(forms, wanted)
        file = f"{form['file']}.{endings[name]}"
        text = (folder / file).read_text()
        (scratch / file).write_text(text)
        expect("what is whole was refused", form, None)
        try:
            (scratch / file).write_text(change(text))
        except ValueError as error:
            not_found.append(f"{what}: {error}")
            continue
        expect(what, form, said)
    if name in ("dxc", "dxc-windows", "fxc"):
        form = dict(first(forms, "attention"), file="broken-alias")
        shutil.copy(folder / f"broken-alias.{endings[name]}", scratch)
        expect("an alias that was put back", form, "redefinition")
    if name == "tint":
        form = first(forms, "matmul")
        (scratch / f"{form['file']}.wgsl").write_text((folder / f"{form['file']}.wgsl").read_text())
        expect("an override that the kernel does not have", dict(form, overrides={**form["overrides"], "NO_SUCH": 1}), "NO_SUCH|override")
    if name == "spirv-val":
        form = first(forms, "matmul")
        for what, change in (("a module that is cut off", broken_spirv), ("an addition of a type", wrong_operand)):
            for environment in step.environments:
                file = f"{form['file']}.{environment}.spv"
                (scratch / file).write_bytes((folder / file).read_bytes())
            expect("what is whole was refused", form, None)
            for environment in step.environments:
                file = scratch / f"{form['file']}.{environment}.spv"
                file.write_bytes(change(file.read_bytes()))
            expect(what, form, "error|vulkan")
    return not_found, given
