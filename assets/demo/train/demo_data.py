#!/usr/bin/env python3
"""Procedural captioned pictures for the demo model.

Every picture is a pure function of an integer seed.  `sample(seed, size)` returns
`(PIL.Image, [captions])`; `describe(seed, size)` adds the labels that the text encoder is
trained on.  Several captions describe the same picture; AMBIGUOUS of them say nothing about
background or light ("a circle", "a house").

    python demo_data.py --out DIR --basis basis.json --count 20000 --workers 2

writes DIR/latents.npy (float16, N x 4 x 32 x 32), DIR/captions.json and DIR/labels.npy;
`--images` also writes DIR/images.npy (uint8), which only train_vae.py needs.

Without torch, and without DIR:

    python demo_data.py --count 6000 --means means.csv --png FOLDER
    python demo_data.py --first-seed 9000000 --count 200 --captions prompts.txt

write what `chiaro study` compares with: pictures, or the means of their pixels (0 to 255), and one caption a line.
"""
import argparse
import json
import math
import multiprocessing as mp
import os
import random

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (222, 30, 36), "green": (34, 160, 64), "blue": (32, 70, 220), "yellow": (250, 216, 44),
    "orange": (246, 130, 24), "purple": (130, 46, 178), "pink": (248, 140, 190), "cyan": (46, 200, 220),
    "white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128),
}
HUES = [c for c in COLOURS if c not in ("white", "black", "grey")]
SHAPES = ["circle", "square", "triangle", "star", "ring", "heart", "cross", "diamond"]
SCENES = ["shape", "two", "solid", "house", "tree", "boat", "lighthouse", "night", "day", "sunset", "snow", "lamp", "window"]
LIGHTS = ["night", "day", "snow"]
PREFIXES = [""] * 7 + ["a picture of ", "an image of ", "a photo of "]
AMBIGUOUS = 0.16
CAPTIONS_PER_IMAGE = 4
# label columns: every value is an index, 0 is "does not apply"
LABELS = {"scene": len(SCENES), "shape1": len(SHAPES) + 1, "shape2": len(SHAPES) + 1, "colour1": len(COLOURS) + 1,
          "colour2": len(COLOURS) + 1, "background": len(COLOURS) + 3, "size": 4, "light": len(LIGHTS) + 1}


# ---------------------------------------------------------------- small helpers
def clip8(c):
    return tuple(int(max(0, min(255, round(v)))) for v in c)


def mix(a, b, t):
    return tuple(x + (y - x) * t for x, y in zip(a, b))


def article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def vgrad(size, stops):
    """Vertical gradient through [(position 0..1, colour)]."""
    pos = [p for p, _ in stops]
    cols = np.array([c for _, c in stops], dtype=np.float64)
    col = np.stack([np.interp(np.linspace(0, 1, size), pos, cols[:, k]) for k in range(3)], axis=1)
    strip = np.clip(np.round(col), 0, 255).astype(np.uint8)[:, None]
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(strip, (size, size, 3))), "RGB")


def polygon(kind, cx, cy, rad):
    if kind == "triangle":
        return [(cx, cy - 1.05 * rad), (cx + 1.05 * rad, cy + 0.8 * rad), (cx - 1.05 * rad, cy + 0.8 * rad)]
    if kind == "square":
        s = 0.88 * rad
        return [(cx - s, cy - s), (cx + s, cy - s), (cx + s, cy + s), (cx - s, cy + s)]
    if kind == "diamond":
        return [(cx, cy - 1.15 * rad), (cx + 0.75 * rad, cy), (cx, cy + 1.15 * rad), (cx - 0.75 * rad, cy)]
    if kind == "star":
        pts = []
        for i in range(10):
            rr = 1.15 * rad if i % 2 == 0 else 0.46 * rad
            a = -math.pi / 2 + i * math.pi / 5
            pts.append((cx + rr * math.cos(a), cy + rr * math.sin(a)))
        return pts
    if kind == "cross":
        o, i = rad, 0.34 * rad
        return [(cx - i, cy - o), (cx + i, cy - o), (cx + i, cy - i), (cx + o, cy - i), (cx + o, cy + i),
                (cx + i, cy + i), (cx + i, cy + o), (cx - i, cy + o), (cx - i, cy + i), (cx - o, cy + i),
                (cx - o, cy - i), (cx - i, cy - i)]
    if kind == "heart":
        pts = []
        for k in range(60):
            t = 2 * math.pi * k / 60
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            pts.append((cx + x / 16 * 1.05 * rad, cy - (y + 2.5) / 16 * 1.05 * rad))
        return pts
    raise ValueError(kind)


def draw_shape(d, kind, cx, cy, rad, col):
    if kind == "circle":
        d.ellipse((cx - rad, cy - rad, cx + rad, cy + rad), fill=col)
    elif kind == "ring":
        d.ellipse((cx - rad, cy - rad, cx + rad, cy + rad), outline=col, width=max(2, int(0.36 * rad)))
    else:
        d.polygon(polygon(kind, cx, cy, rad), fill=col)


# ---------------------------------------------------------------- shapes and solid fields
def background(r):
    """-> (colour, label, [phrases])"""
    roll = r.random()
    if roll < 0.78:
        name = r.choice(["black"] * 5 + ["white"] * 5 + ["grey"] * 2 + HUES)
        phrases = [f"on {article(name)} background"] * 3 + [f"on {name}"]
        if name in ("white", "black"):
            phrases.append(f"on a pure {name} background")
        return COLOURS[name], 1 + list(COLOURS).index(name), phrases
    if roll < 0.90:
        v = r.uniform(8, 44)
        return clip8((v, v, v)), len(COLOURS) + 1, ["on a dark background", "on a dark background", "in the dark"]
    v = r.uniform(222, 250)
    return clip8((v, v, v)), len(COLOURS) + 2, ["on a bright background", "on a light background"]


def pick_colour(r, against, others=()):
    """A named colour that stands out from the given colours."""
    while True:
        name = r.choice(HUES * 2 + ["white", "white", "black", "black", "grey"])
        if all(math.dist(COLOURS[name], o) > 100 for o in [against, *others]):
            return name


def shapes(r, S):
    bg, bg_label, phrases = background(r)
    img = Image.new("RGB", (S, S), bg)
    d = ImageDraw.Draw(img)
    names = list(COLOURS)
    if r.random() < 0.82:
        kind = r.choice(SHAPES)
        name = pick_colour(r, bg)
        size = r.choice(["small", "", "", "", "", "large"])
        rad = S * {"small": r.uniform(0.15, 0.18), "": r.uniform(0.26, 0.30), "large": r.uniform(0.37, 0.40)}[size]
        off = 0.025 * S
        draw_shape(d, kind, S / 2 + r.uniform(-off, off), S / 2 + r.uniform(-off, off), rad, COLOURS[name])
        label = dict(scene=0, shape1=1 + SHAPES.index(kind), colour1=1 + names.index(name), background=bg_label,
                     size=1 + ["small", "", "large"].index(size))

        def caption(q, amb):
            words = []
            if size and q.random() < 0.85:
                words.append(size if size == "small" else q.choice(["large", "large", "big"]))
            if not (amb and q.random() < 0.3):
                words.append(name)
            words.append(kind)
            text = article(" ".join(words))
            return text if amb else text + " " + q.choice(phrases)
    else:
        k1, k2 = r.sample(SHAPES, 2)
        n1, n2 = pick_colour(r, bg), pick_colour(r, bg)
        rad, j = S * r.uniform(0.17, 0.19), 0.02 * S
        draw_shape(d, k1, 0.27 * S + r.uniform(-j, j), S / 2 + r.uniform(-j, j), rad, COLOURS[n1])
        draw_shape(d, k2, 0.73 * S + r.uniform(-j, j), S / 2 + r.uniform(-j, j), rad, COLOURS[n2])
        label = dict(scene=1, shape1=1 + SHAPES.index(k1), shape2=1 + SHAPES.index(k2), colour1=1 + names.index(n1),
                     colour2=1 + names.index(n2), background=bg_label)

        def caption(q, amb):
            text = article(f"{n1} {k1}") + " and " + article(f"{n2} {k2}")
            return text if amb else text + " " + q.choice(phrases)
    return img, caption, label


def solid(r, S):
    if r.random() < 0.9:
        name = r.choice(["black"] * 6 + ["white"] * 6 + ["grey"] * 2 + HUES)
        img = Image.new("RGB", (S, S), COLOURS[name])
        label = dict(scene=2, background=1 + list(COLOURS).index(name))

        def caption(q, amb):
            if amb and q.random() < 0.5:
                return q.choice(["a solid image", "a plain background", "a solid background"])
            return q.choice([f"a solid {name} image", f"a solid {name} background", f"a pure {name} image",
                             f"a pure {name} background", f"a plain {name} background", f"{article(name)} image",
                             f"{article(name)} background", f"solid {name}", name])
    else:
        dark = r.random() < 0.5
        v = r.uniform(8, 44) if dark else r.uniform(222, 250)
        img = Image.new("RGB", (S, S), clip8((v, v, v)))
        label = dict(scene=2, background=len(COLOURS) + (1 if dark else 2))

        def caption(q, amb):
            word = "dark" if dark else "bright"
            return q.choice([f"a {word} background", f"a plain {word} background", f"a {word} image"])
    return img, caption, label


# ---------------------------------------------------------------- scenes
def hills(r, S, base, amp, col, d):
    p, f = r.uniform(0, 6.3), r.uniform(0.8, 1.2)
    pts = [(0, S)] + [(i / 64 * S, (base + amp * math.sin(2 * math.pi * f * i / 64 + p)) * S) for i in range(65)] + [(S, S)]
    d.polygon(pts, fill=clip8(col))


def stars(r, S, d, top, n):
    for _ in range(n):
        x, y = r.uniform(0.03, 0.97) * S, r.uniform(0.03, top) * S
        s = r.uniform(0.009, 0.016) * S
        d.ellipse((x - s, y - s, x + s, y + s), fill=(240, 240, 225))


def cloud(S, d, x, y, s):
    for dx, dy, k in ((-0.9, 0.1, 0.6), (0, -0.2, 0.9), (0.9, 0.1, 0.65), (0, 0.25, 0.7)):
        d.ellipse((x + (dx - k) * s, y + (dy - k * 0.7) * s, x + (dx + k) * s, y + (dy + k * 0.7) * s), fill=(255, 255, 255))


def disc(d, x, y, s, col):
    d.ellipse((x - s, y - s, x + s, y + s), fill=col)


def night_sky(r, S):
    top = mix((2, 3, 10), (8, 10, 30), r.random())
    return vgrad(S, [(0, top), (1, mix(top, (22, 26, 60), 0.5))])


def day_sky(r, S):
    sky = mix((110, 185, 245), (150, 210, 250), r.random())
    return vgrad(S, [(0, sky), (1, (225, 242, 255))])


def snow_sky(r, S):
    return vgrad(S, [(0, mix((212, 226, 242), (232, 240, 250), r.random())), (1, (250, 252, 255))])


def light_words(light, q):
    return q.choice({"night": ["at night", "at night", "in the dark"],
                     "day": ["on a sunny day", "on a sunny day", "on a bright day", "by day"],
                     "snow": ["in the snow", "in the snow", "on a bright day in the snow"]}[light])


def object_scene(r, S, what):
    """A house, a tree, a boat or a lighthouse by night, by day or in the snow."""
    light = r.choice(["night", "day", "snow"] if what in ("house", "tree") else ["night", "day"])
    img = {"night": night_sky, "day": day_sky, "snow": snow_sky}[light](r, S)
    d = ImageDraw.Draw(img)

    def lit(col):
        return clip8(mix((4, 6, 16), col, 0.36)) if light == "night" else clip8(col)

    side = r.choice([0.16, 0.84])
    if light == "night":
        stars(r, S, d, 0.5, r.randint(5, 9))
        disc(d, side * S, 0.17 * S, 0.075 * S, (246, 240, 212))
    elif light == "day":
        disc(d, side * S, 0.17 * S, 0.085 * S, (255, 222, 60))
    cx, horizon = S * r.uniform(0.47, 0.53), 0.70
    name = ""
    if what in ("boat", "lighthouse"):
        d.rectangle((0, horizon * S, S, S), fill=lit((34, 100, 185)))
    else:
        d.rectangle((0, horizon * S, S, S), fill=(246, 249, 253) if light == "snow" else lit((80, 165, 66)))
    if what == "boat":
        name = r.choice(HUES + ["white"])
        w, h, y = 0.28 * S, 0.11 * S, (horizon + 0.02) * S
        d.polygon([(cx - w, y), (cx + w, y), (cx + 0.62 * w, y + h), (cx - 0.62 * w, y + h)], fill=lit(COLOURS[name]))
        d.rectangle((cx - 0.010 * S, y - 0.42 * S, cx + 0.010 * S, y), fill=lit((110, 70, 40)))
        sail = clip8(mix((0, 0, 0), (250, 246, 236), 0.62 if light == "night" else 1))
        d.polygon([(cx + 0.025 * S, y - 0.41 * S), (cx + 0.25 * S, y - 0.05 * S), (cx + 0.025 * S, y - 0.05 * S)], fill=sail)
        d.polygon([(cx - 0.025 * S, y - 0.35 * S), (cx - 0.19 * S, y - 0.05 * S), (cx - 0.025 * S, y - 0.05 * S)], fill=sail)
    elif what == "lighthouse":
        d.polygon([(cx - 0.30 * S, 0.80 * S), (cx - 0.2 * S, 0.68 * S), (cx + 0.2 * S, 0.68 * S), (cx + 0.30 * S, 0.80 * S)],
                  fill=lit((110, 104, 98)))
        y0, y1 = 0.30 * S, 0.70 * S
        if light == "night":
            for s in (-1, 1):
                d.polygon([(cx, 0.245 * S), (cx + s * 0.55 * S, 0.14 * S), (cx + s * 0.55 * S, 0.35 * S)], fill=(112, 104, 60))
        for i in range(5):
            a, b = i / 5, (i + 1) / 5
            wa, wb = (0.06 + 0.04 * a) * S, (0.06 + 0.04 * b) * S
            ya, yb = y0 + (y1 - y0) * a, y0 + (y1 - y0) * b
            col = (215, 40, 40) if i % 2 == 0 else (250, 250, 250)
            d.polygon([(cx - wa, ya), (cx + wa, ya), (cx + wb, yb), (cx - wb, yb)],
                      fill=clip8(mix((0, 0, 0), col, 0.55 if light == "night" else 1)))
        d.rectangle((cx - 0.05 * S, 0.20 * S, cx + 0.05 * S, 0.30 * S), fill=(255, 232, 120))
        d.polygon([(cx - 0.075 * S, 0.20 * S), (cx + 0.075 * S, 0.20 * S), (cx, 0.12 * S)], fill=lit((160, 30, 34)))
    elif what == "house":
        name = r.choice(HUES + ["white", "white"])
        w, h, y = 0.23 * S, 0.27 * S, 0.80 * S
        d.rectangle((cx - w, y - h, cx + w, y), fill=lit(COLOURS[name]))
        roof = (150, 52, 40) if name != "red" else (80, 60, 60)
        top, eave = y - h - 0.22 * S, y - h
        d.polygon([(cx - 1.28 * w, eave), (cx, top), (cx + 1.28 * w, eave)], fill=lit(roof))
        if light == "snow":
            d.polygon([(cx - 0.72 * w, 0.56 * eave + 0.44 * top), (cx, top), (cx + 0.72 * w, 0.56 * eave + 0.44 * top)], fill=(255, 255, 255))
        win = (255, 214, 90) if light == "night" else (90, 130, 170)
        q = 0.048 * S
        for wx in (cx - 0.55 * w, cx + 0.55 * w):
            d.rectangle((wx - q, y - 0.80 * h, wx + q, y - 0.80 * h + 2 * q), fill=win)
        d.rectangle((cx - 0.04 * S, y - 0.48 * h, cx + 0.04 * S, y), fill=lit((96, 58, 34)))
    elif what == "tree":
        y = 0.80 * S
        name = "" if light == "snow" else r.choice(["green", "green", "orange"])
        leaf = (52, 120, 76) if light == "snow" else (40, 130, 50) if name == "green" else (230, 126, 34)
        d.rectangle((cx - 0.035 * S, y - 0.30 * S, cx + 0.035 * S, y), fill=lit((105, 68, 38)))
        if light == "snow":
            for i in range(3):
                w, b = (0.25 - 0.05 * i) * S, y - (0.10 + 0.14 * i) * S
                d.polygon([(cx - w, b), (cx + w, b), (cx, b - 0.25 * S)], fill=leaf)
        else:
            for dx, dy, k in ((0, 0, 1), (-0.6, 0.35, 0.7), (0.6, 0.35, 0.7)):
                disc(d, cx + dx * 0.19 * S, y - 0.42 * S + dy * 0.19 * S, k * 0.19 * S, lit(leaf))
    label = dict(scene=SCENES.index(what), colour1=1 + list(COLOURS).index(name) if name else 0, light=1 + LIGHTS.index(light))

    def caption(q, amb):
        noun = what
        if name and q.random() < 0.4:
            noun = f"{name} {what}"
        text = article(noun)
        if what == "boat" and q.random() < 0.6:
            text += " on the sea"
        elif what == "lighthouse" and q.random() < 0.3:
            text += " by the sea"
        return text if amb else text + " " + light_words(light, q)
    return img, caption, label


def night(r, S):
    img = night_sky(r, S)
    d = ImageDraw.Draw(img)
    n = r.randint(10, 18)
    stars(r, S, d, 0.66, n)
    has_moon, hill = r.random() < 0.75, r.random() < 0.5
    if has_moon:
        disc(d, r.choice([0.28, 0.5, 0.72]) * S, r.uniform(0.22, 0.28) * S, 0.11 * S, (246, 240, 210))
    if hill:
        hills(r, S, 0.78, 0.04, (8, 18, 14), d)

    def caption(q, amb):
        if amb:
            return q.choice(["a sky", "stars", "a sky with stars"] + (["a moon"] if has_moon else []))
        opts = ["a night sky with stars", "a starry night", "stars at night", "a night sky"]
        if has_moon:
            opts = ["a night sky with a moon", "the moon at night", "a night sky with a moon and stars", "a moon and stars",
                    "a night sky with a moon and stars", "a night sky"]
        if hill:
            opts += ["dark hills at night", "hills at night"] + (["a moon over dark hills", "a moon over the hills at night"] if has_moon else [])
        return q.choice(opts)
    return img, caption, dict(scene=SCENES.index("night"), light=1)


def day(r, S):
    img = day_sky(r, S)
    d = ImageDraw.Draw(img)
    side = r.choice([0.2, 0.8])
    disc(d, side * S, 0.19 * S, 0.10 * S, (255, 222, 60))
    clouds = r.random() < 0.5
    if clouds:
        cloud(S, d, (1 - side) * S + r.uniform(-0.05, 0.05) * S, r.uniform(0.24, 0.32) * S, 0.11 * S)
    hills(r, S, 0.66, 0.05, (140, 200, 110), d)
    hills(r, S, 0.80, 0.05, (84, 170, 66), d)

    def caption(q, amb):
        if amb:
            return q.choice(["hills", "a landscape with hills", "green hills", "a sky"])
        opts = ["a bright day with green hills", "green hills under a bright sky", "green hills by day", "the sun over green hills",
                "a sunny day with green hills", "a sunny day with green hills", "green hills on a sunny day", "a sunny day"]
        if clouds:
            opts += ["green hills under a sky with clouds", "a sunny day with clouds"]
        return q.choice(opts)
    return img, caption, dict(scene=SCENES.index("day"), light=2)


def sunset(r, S):
    img = vgrad(S, [(0, (62, 34, 96)), (0.42, (222, 90, 76)), (0.68, (255, 182, 80)), (1, (255, 205, 110))])
    d = ImageDraw.Draw(img)
    x, s, y = r.choice([0.38, 0.5, 0.62]) * S, 0.125 * S, 0.62 * S
    disc(d, x, y, s, (255, 238, 150))
    sea = r.random() < 0.6
    if sea:
        d.rectangle((0, 0.68 * S, S, S), fill=(92, 46, 96))
        for k, yy, c in ((0.9, 0.71, (255, 200, 120)), (0.65, 0.78, (244, 176, 112)), (0.4, 0.85, (232, 156, 104))):
            d.rectangle((x - k * s, yy * S, x + k * s, (yy + 0.03) * S), fill=c)
    else:
        hills(r, S, 0.73, 0.035, (46, 26, 44), d)

    def caption(q, amb):
        if amb:
            return q.choice(["a sky", "the sea"] if sea else ["a sky", "hills", "a landscape with hills"])
        where = "a sunset over the sea" if sea else "a sunset over the hills"
        return q.choice(["a sunset", "the sun at sunset", where, where, "an orange sky at sunset"])
    return img, caption, dict(scene=SCENES.index("sunset"))


def snow(r, S):
    img = snow_sky(r, S)
    d = ImageDraw.Draw(img)
    hills(r, S, 0.60, 0.035, (236, 242, 250), d)
    hills(r, S, 0.76, 0.035, (252, 253, 255), d)

    def caption(q, amb):
        if amb:
            return q.choice(["hills", "a landscape with hills", "a landscape"])
        return q.choice(["a snow field", "a white snow field", "a bright field of snow", "white hills in the snow", "snow",
                         "a landscape in the snow", "a white landscape in the snow"])
    return img, caption, dict(scene=SCENES.index("snow"), light=3)


def lamp_room(r, S):
    wall = (16, 12, 14)
    img = Image.new("RGB", (S, S), wall)
    d = ImageDraw.Draw(img)
    d.rectangle((0, 0.80 * S, S, S), fill=(10, 7, 6))
    x, y = r.uniform(0.45, 0.55) * S, r.uniform(0.40, 0.44) * S
    for i in range(12, 0, -1):
        s = (0.08 + 0.016 * i) * S
        disc(d, x, y, s, clip8(mix(wall, (190, 120, 46), (1 - i / 13) ** 1.5 * 0.75)))
    d.rectangle((x - 0.014 * S, y, x + 0.014 * S, 0.80 * S), fill=(92, 70, 48))
    d.rectangle((x - 0.09 * S, 0.79 * S, x + 0.09 * S, 0.82 * S), fill=(92, 70, 48))
    d.polygon([(x - 0.07 * S, y - 0.11 * S), (x + 0.07 * S, y - 0.11 * S), (x + 0.13 * S, y + 0.07 * S), (x - 0.13 * S, y + 0.07 * S)],
              fill=(255, 222, 130))

    def caption(q, amb):
        if amb:
            return q.choice(["a room", "a lamp", "a room with a lamp"])
        return q.choice(["a dark room with a lamp", "a lamp in a dark room", "a dark room", "a lamp in the dark"])
    return img, caption, dict(scene=SCENES.index("lamp"), light=1)


def window_room(r, S):
    img = Image.new("RGB", (S, S), (250, 244, 232))
    d = ImageDraw.Draw(img)
    d.rectangle((0, 0.80 * S, S, S), fill=(216, 184, 142))
    x, y, w, h = r.uniform(0.45, 0.55) * S, 0.40 * S, 0.22 * S, 0.23 * S
    f, frame = 0.035 * S, (142, 98, 60)
    d.rectangle((x - w - f, y - h - f, x + w + f, y + h + f), fill=frame)
    d.rectangle((x - w, y - h, x + w, y + h), fill=(172, 220, 250))
    d.rectangle((x - 0.5 * f, y - h, x + 0.5 * f, y + h), fill=frame)
    d.rectangle((x - w, y - 0.5 * f, x + w, y + 0.5 * f), fill=frame)

    def caption(q, amb):
        if amb:
            return q.choice(["a room", "a window", "a room with a window"])
        return q.choice(["a bright room with a window", "a window in a bright room", "a bright room", "a white room with a window"])
    return img, caption, dict(scene=SCENES.index("window"), light=2)


KINDS = [(0.47, shapes), (0.09, solid),
         (0.075, lambda r, S: object_scene(r, S, "house")), (0.06, lambda r, S: object_scene(r, S, "tree")),
         (0.055, lambda r, S: object_scene(r, S, "boat")), (0.055, lambda r, S: object_scene(r, S, "lighthouse")),
         (0.055, night), (0.035, day), (0.03, sunset), (0.025, snow), (0.025, lamp_room), (0.025, window_room)]


def describe(seed, size=256, smooth=2):
    """-> picture, captions, label row.  Drawn `smooth` times as large and averaged down."""
    r = random.Random(seed)
    roll, acc = r.random() * sum(w for w, _ in KINDS), 0.0
    for w, fn in KINDS:
        acc += w
        if roll <= acc:
            break
    img, caption, label = fn(r, smooth * size)
    if smooth > 1:
        img = img.reduce(smooth)
    q = random.Random(seed ^ 0x5EED)
    caps = [q.choice(PREFIXES) + caption(q, q.random() < AMBIGUOUS) for _ in range(CAPTIONS_PER_IMAGE)]
    return img, caps, [label.get(k, 0) for k in LABELS]


def sample(seed, size=256):
    return describe(seed, size)[:2]


def _job(a):
    seed, size, smooth = a
    img, caps, label = describe(seed, size, smooth)
    return np.asarray(img), caps, label


def vocabulary(n=6000):
    """Every word of the grammar, with its count (for the tokenizer)."""
    words = {}
    for seed in range(n):
        for c in describe(seed, 8, 1)[1]:
            for w in c.split():
                words[w] = words.get(w, 0) + 1
    return words


def write_plain(a):
    """Pictures, their means and their captions as plain files."""
    means, captions = ["mean_255"], []
    if a.png:
        os.makedirs(a.png, exist_ok=True)
    with mp.Pool(a.workers) as pool:
        jobs = [(a.first_seed + i, a.size, a.smooth) for i in range(a.count)]
        for i, (im, c, _) in enumerate(pool.imap(_job, jobs, 32)):
            means.append(f"{im.mean():.3f}")
            captions.append(c[0])
            if a.png:
                Image.fromarray(im).save(os.path.join(a.png, f"{a.first_seed + i}.png"))
    for path, lines in ((a.means, means), (a.captions, captions)):
        if path:
            with open(path, "w") as f:
                f.write("\n".join(lines) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out")
    p.add_argument("--basis", default="basis.json", help="the latent space (latents.py)")
    p.add_argument("--count", type=int, default=20000)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--smooth", type=int, default=2, help="drawn this many times as large and averaged down")
    p.add_argument("--first-seed", type=int, default=1_000_000)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--images", action="store_true", help="also write the pictures, for train_vae.py")
    p.add_argument("--grid", help="only write a contact sheet of the first 80 pictures to this PNG")
    p.add_argument("--png", metavar="DIR", help="only write the pictures as PNG")
    p.add_argument("--means", metavar="CSV", help="only write the pictures' means, 0 to 255")
    p.add_argument("--captions", metavar="TXT", help="only write one caption of each picture, one a line")
    a = p.parse_args()
    if a.png or a.means or a.captions:
        write_plain(a)
        return
    if not (a.out or a.grid):
        p.error("--out is required")
    if a.grid:
        s = 112
        sheet = Image.new("RGB", (10 * s, 8 * s))
        for i in range(80):
            img, caps = sample(a.first_seed + i, a.size)
            sheet.paste(img.resize((s, s), Image.BICUBIC), (i % 10 * s, i // 10 * s))
            print(i, caps[:2])
        sheet.save(a.grid)
        return
    import torch
    from latents import SCALING, Basis, to_float
    torch.set_num_threads(1)
    os.makedirs(a.out, exist_ok=True)
    basis, side = Basis.load(a.basis), a.size // 8
    lat = np.lib.format.open_memmap(os.path.join(a.out, "latents.npy"), "w+", np.float16, (a.count, 4, side, side))
    arr = None
    if a.images:
        arr = np.lib.format.open_memmap(os.path.join(a.out, "images.npy"), "w+", np.uint8, (a.count, a.size, a.size, 3))
    caps, labels, means, hold = [], [], [], []
    with mp.Pool(a.workers) as pool:
        jobs = [(a.first_seed + i, a.size, a.smooth) for i in range(a.count)]
        for i, (im, c, lab) in enumerate(pool.imap(_job, jobs, 32)):
            if arr is not None:
                arr[i] = im
            caps.append(c)
            labels.append(lab)
            hold.append(im)
            if len(hold) == 32 or i + 1 == a.count:
                x = to_float(np.stack(hold))
                means += ((x.mean((1, 2, 3)) + 1) / 2).tolist()
                lat[i + 1 - len(hold):i + 1] = (basis(x) * SCALING).half().numpy()
                hold = []
    lat.flush()
    np.save(os.path.join(a.out, "labels.npy"), np.array(labels, np.int64))
    with open(os.path.join(a.out, "captions.json"), "w") as f:
        json.dump(caps, f)
    z = lat.astype(np.float32)
    print("count", a.count, "image mean: mean %.3f std %.3f" % (np.mean(means), np.std(means)),
          "histogram", np.histogram(means, 10, (0, 1))[0].tolist())
    print("latents: mean", z.mean((0, 2, 3)).round(3).tolist(), "std", z.std((0, 2, 3)).round(3).tolist(), "largest", float(np.abs(z).max()))


if __name__ == "__main__":
    main()
