#!/usr/bin/env python3
"""Train the text encoder on its own: its features must tell what the picture shows.

Light heads on the features at the end of the sentence (and on the padding behind it, which
cross-attention also sees) predict the picture's labels (scene, shapes, colours, background,
size, light) and its latents pooled to 8x8.  The heads are thrown away.  The UNet and the One
More Step module then train on the frozen encoder.

    python train_text.py --data DIR --tokenizer MODEL/tokenizer --ckpt DIR/text.pt --minutes 4
    python train_text.py --data DIR --tokenizer MODEL/tokenizer --ckpt DIR/text.pt --export MODEL
"""
import argparse
import json
import os
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from demo_data import LABELS

SHORT = 24  # tokens in most training batches; captions are at most 20 long


def make_text_encoder(tok, hidden, layers, heads):
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tok), hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=hidden,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id))


def dirty(text, r, dirt=0.08):
    """Now and then unknown words or a mark, so that they do little harm."""
    if r.random() < dirt:
        words = text.split()
        for _ in range(r.randint(1, 2)):
            junk = "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(2, 4)))
            words.insert(r.randint(0, len(words)), junk)
        text = " ".join(words)
    if r.random() < 0.04:
        text += r.choice([".", "!", ","])
    return text


class Heads(nn.Module):
    def __init__(self, hidden, grid):
        super().__init__()
        self.labels = nn.Linear(hidden, sum(LABELS.values()))
        self.grid = nn.Sequential(nn.Linear(hidden, 256), nn.GELU(), nn.Linear(256, grid))

    def forward(self, x):
        return self.labels(x), self.grid(x)


def label_loss(logits, labels):
    """-> cross-entropy summed over the label columns, right answers by column"""
    loss, right, at = 0.0, [], 0
    for k, n in enumerate(LABELS.values()):
        part = logits[:, at:at + n]
        loss = loss + F.cross_entropy(part, labels[:, k])
        right.append((part.argmax(1) == labels[:, k]).float().mean().item())
        at += n
    return loss, right


def train(a):
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    dev = torch.device(a.device)
    tok = CLIPTokenizer.from_pretrained(a.tokenizer)
    lat = torch.from_numpy(np.load(os.path.join(a.data, "latents.npy"))).float()
    grid = F.avg_pool2d(lat, lat.shape[-1] // 8).flatten(1).to(dev)
    labels = torch.from_numpy(np.load(os.path.join(a.data, "labels.npy"))).to(dev)
    with open(os.path.join(a.data, "captions.json")) as f:
        caps = json.load(f)
    te = make_text_encoder(tok, a.hidden, a.layers, a.heads).to(dev)
    heads = Heads(a.hidden, grid.shape[1]).to(dev)
    params = list(te.parameters()) + list(heads.parameters())
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=1e-2)
    step, spent = 0, 0.0
    if os.path.exists(a.ckpt):
        s = torch.load(a.ckpt, map_location=dev)
        te.load_state_dict(s["te"])
        heads.load_state_dict(s["heads"])
        opt.load_state_dict(s["opt"])
        step, spent = s["step"], s["spent"]
    r, rng, cache = random.Random(a.seed + step), np.random.default_rng([a.seed, step]), {}

    def encode(text):
        if text not in cache:
            cache[text] = tok(text, padding="max_length", max_length=77, truncation=True).input_ids
        return cache[text]

    begin, t_log, run, used = time.time(), time.time(), [], spent
    while True:
        used = spent + time.time() - begin
        frac = used / (60 * a.minutes)
        if frac >= 1:
            break
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * (1 - max(0.0, frac - 0.3) / 0.7))
        whole = r.random() < (0.4 if frac > 0.8 else 0.06)  # all 77 positions, in a smaller batch
        idx = rng.integers(len(caps), size=a.batch // 3 if whole else a.batch)
        length = 77 if whole else SHORT
        ids = torch.tensor([encode(dirty(r.choice(caps[i]), r))[:length] for i in idx]).to(dev)
        rows = torch.arange(len(idx), device=dev)
        end = (ids == tok.eos_token_id).int().argmax(1)  # the first end mark; padding is the same token
        h = te(ids)[0]
        pad = end + (torch.rand(len(idx), device=dev) * (length - end)).long()
        loss = 0.0
        for at in (end, pad.clamp(max=length - 1)):
            logits, field = heads(h[rows, at])
            ce, right = label_loss(logits, labels[idx])
            mse = (field - grid[idx]).square().mean()
            loss = loss + ce + 3 * mse
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        run.append([float(loss.detach()), float(mse.detach())] + right)
        if step % a.log_every == 0:
            m = np.mean(run, 0)
            print(f"step {step} min {used / 60:.2f} loss {m[0]:.3f} grid {m[1]:.4f} right "
                  + " ".join(f"{k} {v:.3f}" for k, v in zip(LABELS, m[2:])) + f" {(time.time() - t_log) / len(run):.3f} s/step", flush=True)
            run, t_log = [], time.time()
    torch.save({"te": te.state_dict(), "heads": heads.state_dict(), "opt": opt.state_dict(), "step": step, "spent": used,
                "cfg": [a.hidden, a.layers, a.heads]}, a.ckpt)


def export(a):
    c = torch.load(a.ckpt, map_location="cpu")
    te = make_text_encoder(CLIPTokenizer.from_pretrained(a.tokenizer), *c["cfg"])
    te.load_state_dict(c["te"])
    te.half().save_pretrained(os.path.join(a.export, "text_encoder"), safe_serialization=True)
    print("exported step", c["step"], "minutes", c["spent"] / 60)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--ckpt", required=True)
    p.add_argument("--export")
    p.add_argument("--minutes", type=float, default=4)
    p.add_argument("--batch", type=int, default=96)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--hidden", type=int, default=128)
    p.add_argument("--layers", type=int, default=2)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--seed", type=int, default=5)
    p.add_argument("--log-every", type=int, default=100)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    export(a) if a.export else train(a)


if __name__ == "__main__":
    main()
