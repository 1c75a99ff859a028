"""With and without One More Step, side by side: side_by_side.py OUTPUT.png [DEVICE]

pip install chiaro pillow
"""

import sys

import chiaro
from PIL import Image

prompts = ["a solid black image", "a solid white image", "a red circle on a black background"]

with chiaro.Engine(sys.argv[2] if len(sys.argv) > 2 else "auto") as engine:
    print(engine)
    model = engine.load()
    rows = []
    for prompt in prompts:
        row = []
        for oms in (False, True):
            with model.start(prompt, seed=7, num_inference_steps=12, oms=oms) as job:
                for event in job:
                    if event.kind == "step":
                        print(f"\r{prompt}: step {event.step} of {event.of}, {event.seconds_left:.1f} s left ", end="", file=sys.stderr)
                [picture] = job.images
            mean = sum(picture.tobytes()) / (3 * picture.width * picture.height * 255)
            print(f"\r{prompt}, {'with' if oms else 'without'} One More Step: mean brightness {mean:.2f}")
            row.append(picture.pil())
        rows.append(row)

width, height = rows[0][0].size
sheet = Image.new("RGB", (2 * width, len(rows) * height))
for y, row in enumerate(rows):
    for x, picture in enumerate(row):
        sheet.paste(picture, (x * width, y * height))
sheet.save(sys.argv[1])
print(sys.argv[1])
