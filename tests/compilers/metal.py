"""MSL as clang's C++ for OpenCL, with metal_shim.h for Metal's library: names, types, overloads, address spaces; and the slots of buffers."""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARGUMENTS = ["-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-nostdinc", "-target", "spir64", "-Werror"]
# Metal's attributes, which clang does not know; floating-point constants are f32 as in Metal; conversions of signs are naga's casts.
ARGUMENTS += ["-Wno-unknown-attributes", "-Wno-sign-conversion", "-Wno-undefined-inline", "-cl-single-precision-constant"]
VECTOR = r"(?:metal::)?(?:float|half|int|uint|uchar)[234]"
# Metal's attributes of a compute function and its parameters, version 4 of the specification, tables 5.8 and 5.11.
BUILT_IN = {
    "threadgroup_position_in_grid": "metal::uint3",
    "threadgroups_per_grid": "metal::uint3",
    "thread_position_in_grid": "metal::uint3",
    "thread_position_in_threadgroup": "metal::uint3",
    "thread_index_in_threadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "threads_per_simdgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
    "simdgroups_per_threadgroup": "uint",
}


def for_clang(text):
    """MSL in what clang's dialect can say; lines keep their numbers."""
    text = re.sub(r"^#include <(metal_stdlib|simd/simd\.h)>$", "", text, flags=re.M)
    text = re.sub(rf"\bstatic_cast<({VECTOR})>\(", r"metal::cast<\1>(", text)
    return re.sub(rf"(?<![\w:])({VECTOR})\(", r"metal::make<\1>(", text)


def attributes(form, text):
    """What is wrong with the attributes, which clang does not read."""
    faults = []
    slots = {}
    for kind, name, attribute in re.findall(r"([\w:]+(?: const)?&?) (\w+) \[\[(\w+(?:\(\d+\))?)\]\]", text):
        buffer = re.fullmatch(r"buffer\((\d+)\)", attribute)
        if buffer:
            slots[int(buffer[1])] = name
        elif attribute not in BUILT_IN:
            faults.append(f"Metal has no attribute {attribute}")
        elif BUILT_IN[attribute] != kind:
            faults.append(f"{attribute} is declared as {kind}, Metal has it as {BUILT_IN[attribute]}")
    bound = [binding["name"] for binding in form["bindings"]] + ["_buffer_sizes"]
    for slot, name in enumerate(bound):
        found = slots.pop(slot, None)
        # naga adds `_4` to names that it met before, and `_` to Metal's own words.
        if found is None and name == "_buffer_sizes":
            continue
        if found is None or found != name and re.sub(r"(_\d+)?_*$", "", found) != name:
            faults.append(f"buffer {slot} is {found}; wgpu binds {name} there")
    faults += [f"buffer {slot} is {name}; wgpu binds nothing there" for slot, name in slots.items()]
    return faults


def ask(job):
    packages, jobs, folder = job
    sys.path.insert(0, str(packages))
    from clang import cindex

    index = cindex.Index.create()
    shim = str(HERE / "metal_shim.h")
    faults = []
    for form in jobs:
        text = (Path(folder) / f"{form['file']}.metal").read_text()
        path = f"{form['file']}.cl"
        unit = index.parse(path, args=[*ARGUMENTS, "-include", shim], unsaved_files=[(path, for_clang(text))])
        said = [d for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
        if said:
            where = f"line {said[0].location.line}"
            if said[0].location.file and said[0].location.file.name == shim:
                # Of a template: what called it is told in the notes.
                calls = [child.location.line for child in said[0].children if child.location.file and child.location.file.name == path]
                where = f"line {calls[0] if calls else '?'}"
            faults.append((form, f"{where}: {said[0].spelling}"))
        faults += [(form, fault) for fault in attributes(form, text)]
    return faults


def check(packages, forms, folder, workers):
    shares = [(packages, forms[start::workers], folder) for start in range(workers)]
    with ProcessPoolExecutor(workers) as pool:
        return [fault for faults in pool.map(ask, shares) for fault in faults]
