#!/usr/bin/env python3
"""Train the small AutoencoderKL: the encoder to the linear analysis of latents.py, the decoder to invert it.

Training uses random crops that favour edges.  The decoder sees slightly noisy latents, so that
it forgives the small errors of the diffusion model.

    python train_vae.py --data DIR --ckpt DIR/vae.pt --minutes 14 --batch 12
    python train_vae.py --data DIR --ckpt DIR/vae.pt --export MODEL/vae
"""
import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from latents import SCALING, Basis, to_float


def make_vae(channels, layers, size):
    n = len(channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=tuple(channels), layers_per_block=layers,
        down_block_types=("DownEncoderBlock2D",) * n, up_block_types=("UpDecoderBlock2D",) * n, norm_num_groups=2,
        sample_size=size, scaling_factor=SCALING)


@torch.no_grad()
def block_average_init(vae, basis):
    """Start as an autoencoder of 8x8 block averages, so that training only has to learn the detail.

    Channels 0..7 carry RGB, -RGB and the constants +-4 through shortcuts and resampling; residual
    branches start at zero.  silu(x) - silu(-x) = x then makes both output layers linear in RGB, and
    the constants keep the group norm from removing the absolute level.
    """
    keep = 8

    def carry(conv, taps):
        conv.weight[:keep] = 0
        conv.bias[:keep] = 0
        for c in range(keep):
            for (y, x), v in taps.items():
                conv.weight[c, c, y, x] = v

    def enter(conv):
        conv.weight[:keep] = 0
        conv.bias[:keep] = 0
        for c in range(3):
            conv.weight[c, c, 1, 1], conv.weight[3 + c, c, 1, 1] = 1.0, -1.0
        conv.bias[6], conv.bias[7] = 4.0, -4.0

    def leave(conv, gain):
        conv.weight *= 0.05
        conv.weight[:3, :keep] = 0
        conv.bias[:] = 0
        for c in range(3):
            conv.weight[c, c, 1, 1], conv.weight[c, 3 + c, 1, 1] = gain, -gain

    for part, gain in ((vae.encoder, 1.05), (vae.decoder, 2.1)):
        for name, m in part.named_modules():
            if name.endswith(("conv2", "to_out.0")):
                m.weight.zero_()
                m.bias.zero_()
            elif name.endswith("conv_shortcut"):
                carry(m, {(0, 0): 1.0})
            elif name.endswith("downsamplers.0.conv"):
                carry(m, {(0, 0): 0.25, (0, 1): 0.25, (1, 0): 0.25, (1, 1): 0.25})
            elif name.endswith("upsamplers.0.conv"):
                carry(m, {(1, 1): 1.0})
        enter(part.conv_in)
        leave(part.conv_out, gain)
    # the encoder's (r, g, b, gradient) -> latents, and back
    q, p = vae.quant_conv, vae.post_quant_conv
    q.weight.zero_()
    q.weight[:4, :4, 0, 0] = basis.matrix
    q.bias[:4] = basis.shift
    q.bias[4:] = -10.0
    inv = torch.linalg.inv(basis.matrix.double())
    p.weight[:, :, 0, 0] = inv.float()
    p.bias[:] = (-inv @ basis.shift.double()).float()


def crops(images, rng, batch, crop, tries=3):
    n, s = images.shape[0], images.shape[1]
    out = np.empty((batch, crop, crop, 3), np.uint8)
    for b in range(batch):
        best, score = None, -1.0
        for _ in range(tries if rng.random() < 0.8 else 1):
            i, y, x = rng.integers(n), rng.integers(s - crop + 1), rng.integers(s - crop + 1)
            c = images[i, y:y + crop, x:x + crop]
            if rng.random() < 0.5:
                c = c[:, ::-1]
            v = float(np.abs(np.diff(c[::3, ::3, 1].astype(np.int16), axis=1)).mean())
            if v > score:
                best, score = c, v
        out[b] = best
    return to_float(out)


def loss_fn(vae, basis, x, noise):
    """-> total, image L1, MSE, encoder error in units of the scaled latents"""
    z = basis(x)
    y = vae.decode(z + noise / SCALING * torch.randn_like(z)).sample
    l1, mse = (y - x).abs().mean(), F.mse_loss(y, x)
    edge = ((y[..., 1:] - y[..., :-1]) - (x[..., 1:] - x[..., :-1])).abs().mean() + \
           ((y[..., 1:, :] - y[..., :-1, :]) - (x[..., 1:, :] - x[..., :-1, :])).abs().mean()
    enc = F.mse_loss(vae.encode(x).latent_dist.mean * SCALING, z * SCALING)
    return l1 + mse + edge + enc, l1, mse, enc


def train(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    dev = torch.device(a.device)
    basis = Basis.load(a.basis)
    state = torch.load(a.ckpt, map_location=dev) if os.path.exists(a.ckpt) else None
    vae = make_vae(state["channels"] if state else a.channels, a.layers, a.size).to(dev)
    step, spent = 0, 0.0
    if state:
        vae.load_state_dict(state["model"])
        step, spent = state["step"], state["spent"]
    else:
        block_average_init(vae, basis)
    vae = vae.to(memory_format=torch.channels_last)
    params = [p for n, p in vae.named_parameters() if not n.startswith("quant_conv")]
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.999), weight_decay=0.0)
    if state and "opt" in state:
        opt.load_state_dict(state["opt"])
    print("parameters", sum(p.numel() for p in vae.parameters()), flush=True)
    images = np.load(os.path.join(a.data, "images.npy"), mmap_mode="r")
    rng = np.random.default_rng([a.seed, step])
    torch.manual_seed(a.seed + step)
    begin, t_log, run, used = time.time(), time.time(), [], spent

    def save():
        torch.save({"model": vae.state_dict(), "opt": opt.state_dict(), "step": step, "spent": used,
                    "channels": a.channels, "layers": a.layers, "size": a.size}, a.ckpt + ".tmp")
        os.replace(a.ckpt + ".tmp", a.ckpt)

    while True:
        used = spent + time.time() - begin
        frac = used / (60 * a.minutes)
        if frac >= 1:
            break
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (step + 1) / 100) * (0.03 + 0.97 * (1 - max(0, frac - 0.4) / 0.6))
        big = frac > 0.85  # the last part on larger crops, for the attention in the middle
        x = crops(images, rng, max(1, a.batch // 4) if big else a.batch, 2 * a.crop if big else a.crop).to(dev)
        x = x.contiguous(memory_format=torch.channels_last)
        loss, l1, mse, enc = loss_fn(vae, basis, x, a.noise)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        run.append([float(l1.detach()), float(mse.detach()), float(enc.detach())])
        if step % a.log_every == 0:
            m = np.mean(run, 0)
            print(f"step {step} min {used / 60:.2f} l1 {m[0]:.4f} mse {m[1]:.5f} encoder {m[2]:.4f} "
                  f"{(time.time() - t_log) / len(run):.3f} s/step", flush=True)
            run, t_log = [], time.time()
        if step % 100 == 0:
            save()
    save()


@torch.no_grad()
def export(a):
    c = torch.load(a.ckpt, map_location="cpu")
    vae = make_vae(c["channels"], c["layers"], c["size"])
    vae.load_state_dict(c["model"])
    vae.half().save_pretrained(a.export, safe_serialization=True)
    vae = AutoencoderKL.from_pretrained(a.export).float().eval()
    basis = Basis.load(a.basis)
    images = np.load(os.path.join(a.data, "images.npy"), mmap_mode="r")[-a.check:]
    x = to_float(images)
    z, e = basis(x), vae.encode(x).latent_dist.mean
    y, w = vae.decode(z).sample.clamp(-1, 1), vae.decode(e).sample.clamp(-1, 1)
    print(f"exported step {c['step']}; fp16 weights, {a.check} pictures, 0..255: decoder L1 {float((y - x).abs().mean()) * 127.5:.2f}, "
          f"encoder and decoder L1 {float((w - x).abs().mean()) * 127.5:.2f}; encoder error (scaled latents, rms) "
          f"{float((e - z).square().mean().sqrt()) * SCALING:.4f}")
    k, s = 6, a.size
    sheet = torch.cat([torch.cat(list(t[:k]), 2) for t in (x, y, w)], 1)
    Image.fromarray(((sheet.permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)).save(
        os.path.splitext(a.ckpt)[0] + "_recon.png")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--ckpt", required=True)
    p.add_argument("--basis", default="basis.json")
    p.add_argument("--export")
    p.add_argument("--check", type=int, default=24, help="pictures measured by --export")
    p.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 64])
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--size", type=int, default=256)
    p.add_argument("--crop", type=int, default=64)
    p.add_argument("--batch", type=int, default=8, help="crops in a step")
    p.add_argument("--lr", type=float, default=2e-4)
    p.add_argument("--noise", type=float, default=0.04, help="noise on the decoder's latents (scaled units)")
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--log-every", type=int, default=20)
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    export(a) if a.export else train(a)


if __name__ == "__main__":
    main()
