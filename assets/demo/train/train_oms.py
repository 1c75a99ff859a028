#!/usr/bin/env python3
"""Train the One More Step module on the frozen text encoder.

The module is a UNet without time conditioning.  It sees pure Gaussian noise and the caption
and predicts v at zero signal-to-noise, that is v = -x0, with an L2 loss (Eq. 17-18 of the
paper).  10 % of the captions are dropped, so that the module supports its own guidance.

A first stage on pooled latents (`--pool 4`: 8x8 instead of 32x32) teaches the caption to level
mapping with many more samples for the same work; the second stage sees the real size.

    python train_oms.py --data DIR --model MODEL --ckpt DIR/oms1.pt --minutes 3 --pool 4 --batch 64
    python train_oms.py --data DIR --model MODEL --ckpt DIR/oms.pt --init DIR/oms1.pt --minutes 4
    python train_oms.py --data DIR --model MODEL --ckpt DIR/oms.pt --export OUT/oms
"""
import argparse
import copy
import json
import os
import random
import time

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn, get_down_block, get_up_block
from torch import nn

from parallel import launch
from train_unet import Captions, load_data


class UNet2DConditionWoCTModel(ModelMixin, ConfigMixin):
    """A conditional UNet without time embedding, made of the diffusers blocks.

    Only the options that this project trains with are implemented; the others are recorded
    in the configuration so that it has the fields other programs expect.
    """

    @register_to_config
    def __init__(self, sample_size=32, in_channels=4, out_channels=4, center_input_sample=False,
                 down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
                 mid_block_type="UNetMidBlock2DCrossAttn",
                 up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
                 only_cross_attention=False, block_out_channels=(16, 32, 64), layers_per_block=1, downsample_padding=1,
                 mid_block_scale_factor=1, act_fn="silu", norm_num_groups=4, norm_eps=1e-5, cross_attention_dim=128,
                 transformer_layers_per_block=1, encoder_hid_dim=None, encoder_hid_dim_type=None, attention_head_dim=4,
                 num_attention_heads=None, dual_cross_attention=False, use_linear_projection=False,
                 upcast_attention=False, resnet_out_scale_factor=1.0, conv_in_kernel=3, conv_out_kernel=3,
                 mid_block_only_cross_attention=None, cross_attention_norm=None):
        super().__init__()
        ch, last = list(block_out_channels), len(block_out_channels) - 1
        common = dict(temb_channels=None, resnet_eps=norm_eps, resnet_act_fn=act_fn, resnet_groups=norm_num_groups,
                      cross_attention_dim=cross_attention_dim, num_attention_heads=attention_head_dim,
                      attention_head_dim=attention_head_dim, transformer_layers_per_block=transformer_layers_per_block,
                      use_linear_projection=use_linear_projection)
        self.conv_in = nn.Conv2d(in_channels, ch[0], conv_in_kernel, padding=conv_in_kernel // 2)
        self.down_blocks = nn.ModuleList(
            get_down_block(kind, num_layers=layers_per_block, in_channels=ch[max(i - 1, 0)], out_channels=ch[i],
                           add_downsample=i < last, downsample_padding=downsample_padding, **common)
            for i, kind in enumerate(down_block_types))
        self.mid_block = UNetMidBlock2DCrossAttn(
            in_channels=ch[-1], temb_channels=None, resnet_eps=norm_eps, resnet_act_fn=act_fn,
            output_scale_factor=mid_block_scale_factor, cross_attention_dim=cross_attention_dim,
            num_attention_heads=attention_head_dim, resnet_groups=norm_num_groups,
            transformer_layers_per_block=transformer_layers_per_block, use_linear_projection=use_linear_projection)
        rev = ch[::-1]
        self.up_blocks = nn.ModuleList(
            get_up_block(kind, num_layers=layers_per_block + 1, in_channels=rev[min(i + 1, last)], out_channels=rev[i],
                         prev_output_channel=rev[max(i - 1, 0)], add_upsample=i < last, **common)
            for i, kind in enumerate(up_block_types))
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, ch[0], eps=norm_eps)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(ch[0], out_channels, conv_out_kernel, padding=conv_out_kernel // 2)

    def forward(self, sample, encoder_hidden_states):
        h = self.conv_in(sample)
        skips = [h]
        for block in self.down_blocks:
            extra = {"encoder_hidden_states": encoder_hidden_states} if getattr(block, "has_cross_attention", False) else {}
            h, res = block(hidden_states=h, temb=None, **extra)
            skips += list(res)
        h = self.mid_block(h, None, encoder_hidden_states=encoder_hidden_states)
        for block in self.up_blocks:
            k = len(block.resnets)
            res, skips = tuple(skips[-k:]), skips[:-k]
            extra = {"encoder_hidden_states": encoder_hidden_states} if getattr(block, "has_cross_attention", False) else {}
            h = block(hidden_states=h, temb=None, res_hidden_states_tuple=res, **extra)
        return self.conv_out(self.conv_act(self.conv_norm_out(h)))


def train(rank, a, shared):
    torch.set_num_threads(a.threads)
    dev = torch.device(a.device)
    oms = shared[0]
    ema = copy.deepcopy(oms).eval()
    opt = torch.optim.AdamW(oms.parameters(), lr=a.lr, betas=(0.9, 0.99), weight_decay=1e-3, foreach=True)
    step, spent = 0, 0.0
    if os.path.exists(a.ckpt):
        state = torch.load(a.ckpt, map_location=dev)
        ema.load_state_dict(state["ema"])
        opt.load_state_dict(state["opt"])
        step, spent = state["step"], state["spent"]
    lat, caps = load_data(a)
    text = Captions(caps, a.model, dev, cache=a.text_cache)
    rank or print("oms parameters", sum(p.numel() for p in oms.parameters()), flush=True)
    seed = a.seed + 31 * step + 7919 * rank
    pick, rng = random.Random(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)
    begin, t_log, run, used, first = time.time(), time.time(), [], spent, step
    while True:
        used = spent + time.time() - begin
        frac = used / (60 * a.minutes)
        if frac >= 1:
            break
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1.0, (step - first + 1) / 50) * (0.02 + 0.98 * (1 - max(0.0, frac - 0.3) / 0.7))
        idx = rng.integers(len(lat), size=a.batch)
        x0 = lat[idx].float().to(dev)
        if a.pool > 1:
            x0 = torch.nn.functional.avg_pool2d(x0, a.pool)
        ctx = text.text[text.rows(idx, pick)].float()
        with torch.autocast(dev.type, torch.bfloat16, enabled=a.bf16):
            v = oms(torch.randn_like(x0), ctx)
        loss = (v.float() + x0).square().mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(oms.parameters(), 1.0)
        opt.step()
        step += 1
        if rank:
            continue
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(oms.parameters()), 1 - min(a.ema, (1 + step) / (20 + step)))
        run.append([float(loss.detach()), float((v.mean((2, 3)) + x0.mean((2, 3))).square().mean())])
        if step % a.log_every == 0:
            m = np.mean(run, 0)
            print(f"step {step} min {used / 60:.2f} loss {m[0]:.4f} (of the channel means {m[1]:.4f}) "
                  f"{(time.time() - t_log) / len(run):.3f} s/step", flush=True)
            run, t_log = [], time.time()
    if rank == 0:
        torch.save({"oms": oms.state_dict(), "ema": ema.state_dict(), "opt": opt.state_dict(), "step": step, "spent": used,
                    "cfg": a.cfg}, a.ckpt)


def export(a):
    c = torch.load(a.ckpt, map_location="cpu")
    oms = UNet2DConditionWoCTModel(**c["cfg"])
    oms.load_state_dict(c["ema"])
    oms.half().save_pretrained(os.path.join(a.export, "oms_module"), safe_serialization=True)
    with open(os.path.join(a.export, "model_index.json"), "w") as f:
        json.dump({"_class_name": "OMSPipeline", "_diffusers_version": "0.35.2",
                   "oms_module": ["diffusers_patch.models.unet_2d_condition_woct", "UNet2DConditionWoCTModel"],
                   "oms_text_encoder": [None, None], "oms_tokenizer": [None, None], "sd_pipeline": [None, None]}, f, indent=2)
    print("exported step", c["step"], "minutes", c["spent"] / 60)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--ckpt", required=True)
    p.add_argument("--export")
    p.add_argument("--init", help="start from the averaged weights of this checkpoint")
    p.add_argument("--text-cache", help="keep the encoded captions here (delete it when the text encoder changes)")
    p.add_argument("--pool", type=int, default=1, help="average-pool the latents by this factor")
    p.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64])
    p.add_argument("--layers", type=int, default=1)
    p.add_argument("--minutes", type=float, default=6)
    p.add_argument("--batch", type=int, default=8, help="per process")
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--ema", type=float, default=0.99)
    p.add_argument("--seed", type=int, default=3)
    p.add_argument("--log-every", type=int, default=50)
    p.add_argument("--device", default="cpu")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--procs", type=int, default=1)
    p.add_argument("--bf16", action="store_true")
    a = p.parse_args()
    if a.export:
        return export(a)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    with open(os.path.join(a.model, "text_encoder", "config.json")) as f:
        hidden = json.load(f)["hidden_size"]
    lat, caps = load_data(a)
    a.cfg = dict(block_out_channels=tuple(a.channels), layers_per_block=a.layers, sample_size=lat.shape[-1], cross_attention_dim=hidden)
    state = torch.load(a.ckpt, map_location="cpu") if os.path.exists(a.ckpt) else None
    if state:
        a.cfg = state["cfg"]
    oms = UNet2DConditionWoCTModel(**a.cfg)
    if state:
        oms.load_state_dict(state["oms"])
    elif a.init:
        oms.load_state_dict(torch.load(a.init, map_location="cpu")["ema"])
    if a.text_cache:
        Captions(caps, a.model, torch.device(a.device), cache=a.text_cache)  # before the processes start
    del state, lat, caps
    launch(train, a, [oms.to(a.device)])


if __name__ == "__main__":
    main()
