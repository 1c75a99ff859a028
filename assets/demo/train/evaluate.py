#!/usr/bin/env python3
"""Sample the demo model with and without One More Step, measure brightness, draw grids.

Held-out captions (seeds never trained on) are sampled and the distribution of image means is
compared with that of the pictures those captions describe, as in the paper's Table 2 and
Fig. 6; a fixed prompt list gives the averages of single prompts and the grids.

    python evaluate.py --model MODEL --oms OMS --out SAMPLES --count 200 --variants raw oms
"""
import argparse
import json
import os
import time

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image, ImageDraw
from scipy.stats import wasserstein_distance
from transformers import CLIPTextModel, CLIPTokenizer

from demo_data import sample as data_sample
from train_oms import UNet2DConditionWoCTModel

PROMPTS = [
    "a solid black image", "a pure white background", "a solid red image", "a red circle on a black background",
    "a blue square on a white background", "a yellow star on a dark background", "a green heart on a bright background",
    "a white ring on a grey background", "a purple triangle on a yellow background", "a red circle and a blue square",
    "an orange diamond on a blue background", "a black cross on a white background", "a green square", "a pink heart",
    "a night sky with a moon and stars", "a sunny day with green hills", "a sunset over the sea", "a white snow field",
    "a house at night", "a house on a sunny day", "a tree in the snow", "a tree on a sunny day", "a boat on the sea at night",
    "a boat on the sea on a sunny day", "a lighthouse at night", "a lighthouse on a sunny day", "a dark room with a lamp",
    "a bright room with a window", "a circle", "a house", "a boat", "a tree"]
HELD_OUT = 9_000_000
# name -> (use the module, timestep spacing, weight of the module's guidance)
VARIANTS = {"raw": (False, "leading", 1.0), "raw-trailing": (False, "trailing", 1.0),
            "oms": (True, "leading", 1.0), "oms-trailing": (True, "trailing", 1.0), "oms-g1.25": (True, "leading", 1.25),
            "oms-g1.5": (True, "leading", 1.5), "oms-g2": (True, "leading", 2.0)}


class Demo:
    def __init__(self, model, oms, device):
        self.dev = torch.device(device)
        self.tok = CLIPTokenizer.from_pretrained(os.path.join(model, "tokenizer"))
        self.te = CLIPTextModel.from_pretrained(os.path.join(model, "text_encoder")).float().to(self.dev).eval()
        self.unet = UNet2DConditionModel.from_pretrained(os.path.join(model, "unet")).float().to(self.dev).eval()
        self.vae = AutoencoderKL.from_pretrained(os.path.join(model, "vae")).float().to(self.dev).eval()
        self.sched_dir = os.path.join(model, "scheduler")
        self.oms = None
        if oms:
            self.oms = UNet2DConditionWoCTModel.from_pretrained(os.path.join(oms, "oms_module")).float().to(self.dev).eval()
        self.size = self.unet.config.sample_size

    @torch.no_grad()
    def text(self, prompts):
        ids = self.tok(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return self.te(ids.to(self.dev))[0]

    def noise(self, seeds):
        return torch.stack([torch.randn(4, self.size, self.size, generator=torch.Generator().manual_seed(s))
                            for s in seeds]).to(self.dev)

    @torch.no_grad()
    def start(self, z, prompts, alpha_bar, weight):
        """Eq. 20 with sigma = 0: the module's x0 joins the noise at the schedule's last step."""
        v = self.oms(z, self.text(prompts))
        if weight != 1.0:
            vu = self.oms(z, self.text([""] * len(prompts)))
            v = vu + weight * (v - vu)
        return alpha_bar ** 0.5 * (-v) + (1 - alpha_bar) ** 0.5 * z

    @torch.no_grad()
    def generate(self, prompts, seeds, use_oms, spacing, weight, steps, cfg, batch=25):
        sched = DDIMScheduler.from_pretrained(self.sched_dir, timestep_spacing=spacing)
        sched.set_timesteps(steps)
        out = []
        for i in range(0, len(prompts), batch):
            p, z = prompts[i:i + batch], self.noise(seeds[i:i + batch])
            x = z
            if use_oms:
                x = self.start(z, p, float(sched.alphas_cumprod[int(sched.timesteps[0])]), weight)
            ctx = torch.cat([self.text([""]).expand(len(p), -1, -1), self.text(p)])
            for t in sched.timesteps:
                eu, ec = self.unet(torch.cat([x, x]), t, ctx).sample.chunk(2)
                x = sched.step(eu + cfg * (ec - eu), t, x, eta=0.0).prev_sample
            for j in range(0, len(p), 8):
                y = self.vae.decode(x[j:j + 8] / self.vae.config.scaling_factor).sample
                out.append(((y.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(out)


def means(images):
    return images.reshape(len(images), -1).mean(1) / 255


def grid(rows, labels, path, cell=128, columns=9):
    """rows: [(name, images)], wrapped into blocks of `columns`."""
    n = len(labels)
    blocks = (n + columns - 1) // columns
    head, left = 13, 56
    img = Image.new("RGB", (left + columns * cell, blocks * (head + len(rows) * cell)), (255, 255, 255))
    d = ImageDraw.Draw(img)
    for b in range(blocks):
        top = b * (head + len(rows) * cell)
        for c in range(min(columns, n - b * columns)):
            i = b * columns + c
            d.text((left + c * cell + 2, top), labels[i][:22], fill=(0, 0, 0))
            for r, (_, ims) in enumerate(rows):
                img.paste(Image.fromarray(ims[i]).resize((cell, cell), Image.LANCZOS), (left + c * cell, top + head + r * cell))
        for r, (name, _) in enumerate(rows):
            d.text((2, top + head + r * cell + cell // 2), name[:9], fill=(0, 0, 0))
    img.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def histogram_plot(series, path):
    """Log-frequency histograms of image means, one panel a series."""
    w, h, pad = 260, 170, 24
    img = Image.new("RGB", (len(series) * w, h), (255, 255, 255))
    d = ImageDraw.Draw(img)
    for k, (name, m) in enumerate(series):
        counts, _ = np.histogram(m, 20, (0, 1))
        x0, base, full = k * w + pad, h - 20, h - 50
        d.text((x0, 4), f"{name}: mean {np.mean(m):.3f} std {np.std(m):.3f}", fill=(0, 0, 0))
        for b, c in enumerate(counts):
            y = full * np.log1p(c) / np.log1p(max(len(m) / 3, 2))
            d.rectangle((x0 + b * 11, base - min(y, full), x0 + b * 11 + 9, base), fill=(70, 110, 190))
        d.line((x0, base, x0 + 220, base), fill=(0, 0, 0))
        d.text((x0, base + 4), "0", fill=(0, 0, 0))
        d.text((x0 + 212, base + 4), "1", fill=(0, 0, 0))
    img.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--oms")
    p.add_argument("--out", required=True)
    p.add_argument("--variants", nargs="+", default=["raw", "oms"], choices=list(VARIANTS))
    p.add_argument("--count", type=int, default=200, help="held-out captions")
    p.add_argument("--prompts", nargs="+", default=PROMPTS)
    p.add_argument("--per-prompt", type=int, default=4, help="seeds for each fixed prompt (0: skip)")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--cfg", type=float, default=7.5)
    p.add_argument("--tag", default="", help="suffix of the files written")
    p.add_argument("--cache", help="keep samples here and reuse them")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    demo = Demo(a.model, a.oms, a.device)
    report = {"steps": a.steps, "cfg": a.cfg, "held_out_captions": a.count, "variants": {}}
    held = [data_sample(HELD_OUT + i, demo.size * 8) for i in range(a.count)]
    truth = np.stack([np.asarray(im) for im, _ in held]) if held else None
    captions = [c[0] for _, c in held]
    series, rows, heldrows = [], [], []
    if a.count:
        series.append(("data", means(truth)))
        heldrows.append(("data", truth[:18]))
        report["data"] = {"mean": float(means(truth).mean()), "std": float(means(truth).std())}
    fixed = [q for q in a.prompts for _ in range(a.per_prompt)]
    seeds = [1000 + s for _ in a.prompts for s in range(a.per_prompt)]
    for name in a.variants:
        use, spacing, weight = VARIANTS[name]
        t0, r = time.time(), {}
        store = os.path.join(a.cache, f"{name}{a.tag}.npz") if a.cache else ""
        kept = np.load(store) if store and os.path.exists(store) else {}
        new = dict(kept)
        if a.count:
            ims = kept["held"] if "held" in kept else demo.generate(
                captions, [50_000 + i for i in range(a.count)], use, spacing, weight, a.steps, a.cfg)
            new["held"] = ims
            m, mt = means(ims), means(truth)
            r.update(mean=float(m.mean()), std=float(m.std()), correlation=float(np.corrcoef(m, mt)[0, 1]),
                     mean_abs_error_255=float(np.abs(m - mt).mean() * 255),
                     wasserstein_255=float(wasserstein_distance(m * 255, mt * 255)),
                     histogram=np.histogram(m, 10, (0, 1))[0].tolist())
            series.append((name, m))
            heldrows.append((name, ims[:18]))
        if a.per_prompt:
            ims = kept["fixed"] if "fixed" in kept else demo.generate(fixed, seeds, use, spacing, weight, a.steps, a.cfg)
            new["fixed"] = ims
            m = means(ims).reshape(len(a.prompts), a.per_prompt)
            r["prompts"] = {q: {"avg": round(float(v.mean()), 4), "min": round(float(v.min()), 4), "max": round(float(v.max()), 4)}
                            for q, v in zip(a.prompts, m)}
            rows.append((name, ims[::a.per_prompt]))
            amb = [i for i, q in enumerate(a.prompts) if q.startswith(("a circle", "a house", "a boat", "a tree")) and len(q.split()) == 2]
            r["ambiguous_std"] = float(m[amb].std()) if amb else None
        r["seconds"] = round(time.time() - t0, 1)
        if store and set(new) != set(kept):
            np.savez(store, **new)
        report["variants"][name] = r
        print(name, json.dumps({k: v for k, v in r.items() if k != "prompts"}), flush=True)
        for q, v in list(r.get("prompts", {}).items()):
            print("   %-42s avg %.3f (%.3f .. %.3f)" % (q, v["avg"], v["min"], v["max"]), flush=True)
    if a.count:
        report["data"]["histogram"] = np.histogram(means(truth), 10, (0, 1))[0].tolist()
        histogram_plot(series, os.path.join(a.out, f"brightness{a.tag}.png"))
        grid(heldrows, captions[:18], os.path.join(a.out, f"held_out{a.tag}.png"))
    if rows:
        grid(rows, a.prompts, os.path.join(a.out, f"prompts{a.tag}.png"))
    with open(os.path.join(a.out, f"report{a.tag}.json"), "w") as f:
        json.dump(report, f, indent=1)


if __name__ == "__main__":
    main()
