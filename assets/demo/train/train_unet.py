#!/usr/bin/env python3
"""Train the epsilon-predicting UNet on cached latents and the frozen text encoder.

    python train_unet.py --data DIR --model MODEL --ckpt DIR/unet.pt --minutes 60 --procs 2
    python train_unet.py --data DIR --model MODEL --ckpt DIR/unet.pt --export MODEL

The schedule is Stable Diffusion's (scaled linear 0.00085 .. 0.012, 1000 steps), so its last
step keeps sqrt(alpha_bar) = 0.068265 of the data.  Resumes from --ckpt when it exists.

Near the noisy end some captions belong to another picture (`--mismatch`).  A network that knows
this trusts the brightness that leaks into x_t more than the caption, as a large model does that
never learned the caption's part in it: the flaw that One More Step mends.
"""
import argparse
import copy
import json
import math
import os
import random
import time

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from demo_data import SCENES
from parallel import launch
from train_text import dirty


def scheduler():
    return DDIMScheduler(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
                         timestep_spacing="leading")


def make_unet(channels, layers, hidden, size, heads, attention):
    down = ["CrossAttnDownBlock2D" if k else "DownBlock2D" for k in attention]
    return UNet2DConditionModel(
        sample_size=size, in_channels=4, out_channels=4, block_out_channels=tuple(channels), layers_per_block=layers,
        down_block_types=tuple(down), up_block_types=tuple(d.replace("Down", "Up") for d in reversed(down)),
        cross_attention_dim=hidden, attention_head_dim=heads, norm_num_groups=4)


class Captions:
    """Every caption, and a dirty variant of some, encoded once by the frozen text encoder."""

    def __init__(self, captions, model, device, seed=0, cache=None):
        self.captions = captions
        r = random.Random(seed)
        unique = sorted({c for cs in captions for c in cs})
        self.soil = {c: d for c, d in ((c, dirty(c, r, 0.15)) for c in unique) if c != d}
        texts = [""] + unique + sorted(set(self.soil.values()) - set(unique))
        self.row = {t: i for i, t in enumerate(texts)}
        if cache and os.path.exists(cache):
            self.text = torch.load(cache, map_location=device)
            assert len(self.text) == len(texts), "delete " + cache
            return
        tok = CLIPTokenizer.from_pretrained(os.path.join(model, "tokenizer"))
        te = CLIPTextModel.from_pretrained(os.path.join(model, "text_encoder")).float().to(device).eval()
        ids = tok(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            self.text = torch.cat([te(ids[i:i + 100].to(device))[0].half() for i in range(0, len(ids), 100)])
        if cache:
            torch.save(self.text, cache)

    def rows(self, index, r, drop=0.1, mismatch=None):
        """Rows of `text` for these pictures; mismatch: by picture, the chance of a wrong caption."""
        out = []
        for k, i in enumerate(index):
            if r.random() < drop:
                out.append(0)
                continue
            wrong = mismatch is not None and r.random() < mismatch[k]
            text = r.choice(self.captions[r.randrange(len(self.captions)) if wrong else i])
            out.append(self.row[self.soil[text] if text in self.soil and r.random() < 0.3 else text])
        return out


def load_data(a):
    lat = torch.from_numpy(np.load(os.path.join(a.data, "latents.npy")))
    with open(os.path.join(a.data, "captions.json")) as f:
        return lat, json.load(f)


def train(rank, a, shared):
    torch.set_num_threads(a.threads)
    dev = torch.device(a.device)
    unet = shared[0]
    ema = copy.deepcopy(unet).eval() if rank == 0 else None
    opt = torch.optim.AdamW(unet.parameters(), lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True)
    state = torch.load(a.ckpt, map_location=dev) if os.path.exists(a.ckpt) else None
    step, spent = (state["step"], state["spent"]) if state else (0, 0.0)
    if state and "opt" in state:
        opt.load_state_dict(state["opt"])
    if state and rank == 0:
        ema.load_state_dict(state["ema"])
    del state
    lat, caps = load_data(a)
    text = Captions(caps, a.model, dev, cache=a.text_cache)
    if rank == 0:
        print("unet", sum(p.numel() for p in unet.parameters()), "pictures", len(lat), "texts", len(text.text), flush=True)
        ema_params = list(ema.parameters())
    params = list(unet.parameters())
    abar = scheduler().alphas_cumprod.to(dev)
    snr = abar / (1 - abar)
    # min-SNR against the nearly clean end, and more weight for the noisy end, where the caption decides the
    # layout but the epsilon error is tiny
    weight = torch.clamp(snr, max=5.0) / snr * torch.clamp(1 / abar, max=16.0) ** a.noisy_weight
    weight = weight / weight.mean()
    seed = a.seed + step * 31 + 7919 * rank
    r, rng = random.Random(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)
    fn = torch.compile(unet) if a.compile else unet
    pool = np.arange(len(lat))
    if a.twice:  # pictures of this scene are drawn twice as often
        labels = np.load(os.path.join(a.data, "labels.npy"))
        pool = np.concatenate([pool, np.flatnonzero(labels[:, 0] == SCENES.index(a.twice))])

    def save():
        torch.save({"unet": unet.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict(), "step": step, "spent": used,
                    "cfg": a.cfg}, a.ckpt + ".tmp")
        os.replace(a.ckpt + ".tmp", a.ckpt)

    begin, t_log, t_save, run, used, first = time.time(), time.time(), time.time(), [], spent, step
    while True:
        used = spent + time.time() - begin
        frac = used / (60 * a.minutes)
        if frac >= 1:
            break
        decay = 1.0 if frac < a.hold else 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (frac - a.hold) / (1 - a.hold)))
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1.0, (step - first + 1) / 100) * decay
        idx = pool[rng.integers(len(pool), size=a.batch)]
        x0 = lat[idx].float().to(dev)
        # stratified timesteps: one from each of `batch` equal slices
        tn = np.clip((np.arange(a.batch) + rng.random(a.batch)) * 1000 / a.batch, 0, 999).astype(np.int64)
        t = torch.from_numpy(tn).to(dev)
        rows = text.rows(idx, r, mismatch=a.mismatch * np.clip((tn - 650) / 300, 0, 1))
        eps = torch.randn_like(x0)
        ab = abar[t].view(-1, 1, 1, 1)
        xt = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
        with torch.autocast(dev.type, torch.bfloat16, enabled=a.bf16):
            pred = fn(xt, t, text.text[rows].float()).sample
        per = (pred.float() - eps).square().mean((1, 2, 3))
        loss = (per * weight[t]).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        if rank:
            continue
        with torch.no_grad():
            torch._foreach_lerp_(ema_params, params, 1 - min(a.ema, (1 + step) / (20 + step)))
        p = per.detach().cpu().numpy()
        k = len(p) // 4
        run.append([float(loss.detach()), p.mean(), p[:k].mean(), p[k:2 * k].mean(), p[2 * k:3 * k].mean(), p[3 * k:].mean()])
        if step % a.log_every == 0:
            m = np.mean(run, 0)
            print(f"step {step} min {used / 60:.2f} loss {m[0]:.4f} eps-mse {m[1]:.4f} by quarter of t "
                  f"{m[2]:.4f} {m[3]:.4f} {m[4]:.5f} {m[5]:.5f} {(time.time() - t_log) / len(run):.3f} s/step", flush=True)
            run, t_log = [], time.time()
        if time.time() - t_save > 60 * a.save_every:
            save()
            t_save = time.time()
    if rank == 0:
        save()


def export(a):
    c = torch.load(a.ckpt, map_location="cpu")
    unet = make_unet(**c["cfg"])
    unet.load_state_dict(c["ema"])
    unet.half().save_pretrained(os.path.join(a.export, "unet"), safe_serialization=True)
    scheduler().save_pretrained(os.path.join(a.export, "scheduler"))
    with open(os.path.join(a.export, "model_index.json"), "w") as f:
        json.dump({"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35.2",
                   "feature_extractor": [None, None], "image_encoder": [None, None],
                   "requires_safety_checker": False, "safety_checker": [None, None],
                   "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
                   "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
                   "vae": ["diffusers", "AutoencoderKL"]}, f, indent=2)
    print("exported step", c["step"], "minutes", c["spent"] / 60)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--model", required=True, help="folder with tokenizer/ and text_encoder/")
    p.add_argument("--ckpt", required=True)
    p.add_argument("--init", help="start from the averaged weights of this checkpoint where names and shapes agree")
    p.add_argument("--export")
    p.add_argument("--text-cache", help="keep the encoded captions here (delete it when captions or text encoder change)")
    p.add_argument("--minutes", type=float, default=60)
    p.add_argument("--hold", type=float, default=0.35, help="fraction of the time before the rate starts to fall")
    p.add_argument("--batch", type=int, default=12, help="per process")
    p.add_argument("--lr", type=float, default=6e-4)
    p.add_argument("--ema", type=float, default=0.998)
    p.add_argument("--noisy-weight", type=float, default=0.75, help="0: plain min-SNR weights")
    p.add_argument("--mismatch", type=float, default=0.1, help="chance of a wrong caption at the noisy end")
    p.add_argument("--twice", choices=SCENES, help="draw the pictures of this scene twice as often")
    p.add_argument("--channels", type=int, nargs="+", default=[24, 48, 96, 128])
    p.add_argument("--attention", type=int, nargs="+", default=[0, 0, 1, 1], help="1: cross-attention at this level")
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--hidden", type=int, default=128, help="width of the text encoder")
    p.add_argument("--seed", type=int, default=2)
    p.add_argument("--log-every", type=int, default=100)
    p.add_argument("--save-every", type=float, default=3, help="minutes")
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--procs", type=int, default=1)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--compile", action="store_true")
    a = p.parse_args()
    if a.export:
        return export(a)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    lat, caps = load_data(a)
    a.cfg = dict(channels=a.channels, layers=a.layers, hidden=a.hidden, size=lat.shape[-1], heads=a.heads, attention=a.attention)
    state = torch.load(a.ckpt, map_location="cpu") if os.path.exists(a.ckpt) else None
    if state:
        a.cfg = state["cfg"]
    unet = make_unet(**a.cfg)
    if state:
        unet.load_state_dict(state["unet"])
    elif a.init:
        old, own = torch.load(a.init, map_location="cpu"), unet.state_dict()
        old = old["ema"] if "ema" in old else old["ema_unet"]
        fit = {k: v for k, v in old.items() if k in own and own[k].shape == v.shape}
        own.update(fit)
        unet.load_state_dict(own)
        print("taken over", len(fit), "of", len(own), "tensors")
    if a.text_cache:
        Captions(caps, a.model, torch.device(a.device), cache=a.text_cache)  # before the processes start
    del state, lat, caps
    launch(train, a, [unet.to(a.device)])


if __name__ == "__main__":
    main()
