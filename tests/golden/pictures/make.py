"""Writes the pictures of this folder: pip install pillow==13.0.0 piexif==1.1.3.

upright.png is what all of orientation/* show when they are turned as their EXIF says (ImageOps.exif_transpose, checked below). kinds/* are
whole files of each way to write pixels, for cutting. alpha/* have a column of each of four opacities. comment.exif is what piexif makes of
a text, as AUTOMATIC1111 writes parameters (modules/images.py, save_image_with_geninfo).
"""

import io
import pathlib

import piexif
import piexif.helper
from PIL import Image, ImageOps

here = pathlib.Path(__file__).parent
for folder in ["orientation", "kinds", "alpha"]:
    (here / folder).mkdir(exist_ok=True)

# Colours that change slowly, so that a JPEG keeps them, and differ in each corner.
upright = Image.new("RGB", (24, 16))
upright.putdata([(x * 10, y * 15, 255 - x * 5 - y * 7) for y in range(16) for x in range(24)])
upright.save(here / "upright.png")

# What brings the upright picture to where it lies in the file, for each orientation.
T = Image.Transpose
lies = {1: None, 2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90, 7: T.TRANSVERSE, 8: T.ROTATE_270}
for orientation, way in lies.items():
    picture = upright if way is None else upright.transpose(way)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name, options in [("jpg", {"quality": 95, "subsampling": 0}), ("png", {}), ("webp", {"lossless": True})]:
        path = here / "orientation" / f"{orientation}.{name}"
        picture.save(path, exif=exif, **options)
        turned = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        assert turned.size == upright.size
        if name != "jpg":
            assert turned.tobytes() == upright.tobytes(), path

noise = Image.effect_noise((48, 40), 80).convert("RGB")
for name, options in {
    "baseline.jpg": {},
    "progressive.jpg": {"progressive": True},
    "restarts.jpg": {"restart_marker_rows": 1},
    "plain.png": {},
    "lossy.webp": {"quality": 60},
    "lossless.webp": {"lossless": True},
}.items():
    noise.save(here / "kinds" / name, **options)
alpha = Image.new("L", (48, 40))
alpha.putdata([x * 5 for y in range(40) for x in range(48)])
noise.putalpha(alpha)
noise.save(here / "kinds" / "lossy_alpha.webp", quality=60)
exif = Image.Exif()
exif[0x0110] = "odd"
noise.convert("RGB").save(here / "kinds" / "exif.webp", quality=60, exif=exif)
grey = Image.effect_noise((20, 16), 60)
grey.save(here / "kinds" / "grey.jpg")
grey.convert("RGB").convert("CMYK").save(here / "kinds" / "cmyk.jpg")

# Red with a column of each opacity.
rgba = Image.new("RGBA", (4, 2))
rgba.putdata([(200, 10, 20, a) for _ in range(2) for a in (0, 100, 200, 255)])
rgba.save(here / "alpha" / "rgba.png")
rgba.save(here / "alpha" / "rgba.webp", lossless=True, exact=True)
rgba.convert("LA").save(here / "alpha" / "la.png")
palette = Image.new("P", (4, 2))
palette.putpalette([200, 10, 20] * 4)
palette.putdata([0, 1, 2, 3] * 2)
palette.save(here / "alpha" / "palette.png", transparency=bytes([0, 100, 200, 255]))
opaque = rgba.copy()
opaque.putalpha(255)
opaque.save(here / "alpha" / "opaque.png")

text = "a red circle, 红色 é\nNegative prompt: blue\nSteps: 2, Sampler: Euler a"
(here / "comment.txt").write_text(text, encoding="utf-8")
comment = piexif.helper.UserComment.dump(text, encoding="unicode")
(here / "comment.exif").write_bytes(piexif.dump({"Exif": {piexif.ExifIFD.UserComment: comment}}))
