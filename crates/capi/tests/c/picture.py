"""picture.py LIBRARY OUTPUT.png: one picture by ctypes, without a header."""

import ctypes
import sys

library = ctypes.CDLL(sys.argv[1])
pointer, text = ctypes.c_void_p, ctypes.c_char_p


def call(function, *arguments):
    error = pointer()
    status = getattr(library, function)(*arguments, ctypes.byref(error))
    if status:
        message = library.chiaro_error_message
        message.restype, message.argtypes = text, [pointer]
        sys.exit(f"{function}: {status}: {message(error).decode()}")


class EngineOptions(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("precision", ctypes.c_uint32), ("device", text)]


engine, job, image = pointer(), pointer(), pointer()
# Shorter than the library's: an older header.
options = EngineOptions(ctypes.sizeof(EngineOptions), 0, b"cpu")
call("chiaro_engine_new", ctypes.byref(options), ctypes.byref(engine))
request = b'{"version": 1, "request": {"prompt": "a red ball", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 7}}'
call("chiaro_job_new_json", engine, request, ctypes.byref(job))
call("chiaro_job_run", job)
call("chiaro_job_image", job, ctypes.c_size_t(0), ctypes.byref(image))
write_type = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t, pointer)
with open(sys.argv[2], "wb") as out:
    write = write_type(lambda data, size, _: 0 if out.write(ctypes.string_at(data, size)) == size else 1)
    call("chiaro_image_png", image, write, None)
for name, handle in [("image", image), ("job", job), ("engine", engine)]:
    release = getattr(library, f"chiaro_{name}_release")
    release.restype, release.argtypes = None, [pointer]
    release(handle)
