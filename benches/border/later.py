"""later.py PICTURES: seconds of each picture after the first, on the processor, one a line."""

import sys
import time

import chiaro

engine = chiaro.Engine("cpu")
model = engine.load()
for picture in range(int(sys.argv[1]) + 1):
    began = time.perf_counter()
    [image] = model.generate("a red ball", num_inference_steps=8)
    image.numpy()
    if picture:
        print(f"{time.perf_counter() - began:.6f}")
