#!/usr/bin/env python3
"""Textual inversion embeddings for the sd15 and sdxl goldens: ids, states and runs of diffusers.

    python make.py ..            # the folder of all goldens; writes beside this script

`easyneg.safetensors` is in AUTOMATIC1111's form (emb_params, 3 vectors), `learned_embeds.safetensors` in diffusers' (one vector,
its token is the tensor's name), `zzpair.safetensors` in that of SDXL (clip_l, clip_g). transformers takes the pooled row of a text encoder
whose config says eos_token_id 2 at the largest id, which an added token would be; the reference is told the true id.
"""
import hashlib, json, sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import diffusers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
import transformers.models.clip.modeling_clip as clip

torch.set_num_threads(1)
diffusers.utils.logging.set_verbosity_error()
F32, F64 = torch.float32, torch.float64
# The causal mask goes through float32 constants that overflow in float64.
mask32 = clip._create_4d_causal_attention_mask
clip._create_4d_causal_attention_mask = lambda shape, dtype, device=None, **k: (
    torch.full((shape[0], 1, shape[1], shape[1]), -1e38, dtype=dtype).triu(1) if dtype == F64 else mask32(shape, dtype, device=device, **k))
HERE, ROOT = Path(__file__).parent, Path(sys.argv[1]).resolve()
EOS = 49407


def randn(shape, *key):
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:6], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F32)


def write_files():
    # Three times as large as the tables' own rows, so that they matter.
    save_file({"emb_params": 0.03 * randn((3, 16), "easyneg")}, HERE / "easyneg.safetensors")
    # The same vectors in the program's own format of before safetensors.
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": load_file(HERE / "easyneg.safetensors")["emb_params"]}, "name": "easyneg", "step": 7},
               HERE / "easyneg.pt")
    save_file({"<cat-toy>": 0.03 * randn((16,), "cat")}, HERE / "learned_embeds.safetensors")
    save_file({"clip_l": 0.03 * randn((2, 16), "l"), "clip_g": 0.03 * randn((2, 16), "g")}, HERE / "zzpair.safetensors")


def pipeline(family, dt):
    at = ROOT / family
    load = lambda cls, sub: cls.from_pretrained(at / sub, torch_dtype=F32).to(dt).eval()
    parts = dict(vae=load(AutoencoderKL, "vae"), unet=load(UNet2DConditionModel, "unet"), text_encoder=load(CLIPTextModel, "text_encoder"),
                 tokenizer=CLIPTokenizer.from_pretrained(ROOT / "sd15/tokenizer"), scheduler=DDIMScheduler.from_config(DDIMScheduler.load_config(at / "scheduler")))
    if family == "sd15":
        pipe = StableDiffusionPipeline(safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
        pipe.load_textual_inversion(load_file(HERE / "easyneg.safetensors")["emb_params"].to(dt), token="easyneg")
        pipe.load_textual_inversion({k: v.to(dt) for k, v in load_file(HERE / "learned_embeds.safetensors").items()})
    else:
        pipe = StableDiffusionXLPipeline(text_encoder_2=load(CLIPTextModelWithProjection, "text_encoder_2"), tokenizer_2=CLIPTokenizer.from_pretrained(ROOT / "sd21/tokenizer"), add_watermarker=False, **parts)
        pair = load_file(HERE / "zzpair.safetensors")
        pipe.load_textual_inversion(pair["clip_l"].to(dt), token="zzpair", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(pair["clip_g"].to(dt), token="zzpair", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
        pipe.text_encoder_2.text_model.eos_token_id = EOS
    pipe.text_encoder.text_model.eos_token_id = EOS
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Golden:
    def __init__(self):
        self.tensors, self.meta, self.runs = OrderedDict(), OrderedDict(), OrderedDict()

    def both(self, fn, how):
        a, b = fn(F32), fn(F64)
        for name, x in a.items():
            self.tensors[name] = x.detach().contiguous().clone()
            self.meta[name] = dict(shape=list(x.shape), how=how, **(dict(f64_max_abs_diff=float((x.double() - b[name].double()).abs().max())) if x.is_floating_point() else {}))


PROMPTS = ["a photo of easyneg, at night", "easyneg", "a <cat-toy> backpack, easyneg and easyneg again", "no name at all", "red " * 73 + "easyneg"]


@torch.no_grad()
def states(g):
    def fn(dt):
        pipe = pipeline("sd15", dt)
        text = [pipe.maybe_convert_prompt(p, pipe.tokenizer) for p in PROMPTS]
        ids = pipe.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        return {"sd15/ids": ids.int(), "sd15/states": pipe.text_encoder(ids).last_hidden_state}
    g.both(fn, "prompts: " + json.dumps(PROMPTS))


@torch.no_grad()
def run(g, name, family, steps, seed, **kw):
    info = {}

    def fn(dt):
        pipe, lat = pipeline(family, dt), []
        noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=F32).to(dt)
        back = lambda p, i, t, d: (lat.append(d["latents"].detach().clone()), {})[1]
        result = pipe(num_inference_steps=steps, latents=noise, callback_on_step_end=back, output_type="np", width=64, height=64, **kw)
        config = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
        info.update(family=family, seed=seed, steps=steps, scheduler=dict(cls="DDIMScheduler", config=config), args=dict(width=64, height=64, **kw))
        return {f"run/{name}/step_latents": torch.stack(lat), f"run/{name}/image_u8": torch.from_numpy((result.images * 255).round().astype(np.uint8))}
    g.both(fn, "diffusers pipeline")
    g.runs[name] = info


write_files()
g = Golden()
states(g)
run(g, "sd15", "sd15", 3, 0, prompt="a <cat-toy> backpack by easyneg", negative_prompt="easyneg, blurry", guidance_scale=4.0)
run(g, "sdxl", "sdxl", 3, 1, prompt="a house, zzpair", negative_prompt="zzpair", guidance_scale=4.0)
save_file(g.tensors, HERE / "golden.safetensors")
doc = dict(family="embeddings", made_with=dict(torch=torch.__version__.split("+")[0], diffusers=diffusers.__version__), prompts=PROMPTS, runs=g.runs, tensors=g.meta)
(HERE / "golden.json").write_text(json.dumps(doc, indent=1) + "\n")
