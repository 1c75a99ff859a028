#!/usr/bin/env python3
"""Tiny ControlNets for the sd15, sd21 and sdxl goldens, and what diffusers computes with them.

    python make.py ..            # the folder of all goldens; writes beside this script

A net is the encoder of its family's UNet (`ControlNetModel.from_unet`) with other vectors, another first convolution, a small
random embedding of the picture and random zero convolutions. `NET/extra.safetensors` holds the tensors that differ from the UNet's; the
rest is read from the UNet's file. Everything is float16 on disk; results are float32, `f64_max_abs_diff` is their distance to a
float64 run.
"""
import hashlib, json, math, sys, zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

import diffusers
from diffusers import (AutoencoderKL, ControlNetModel, DDIMScheduler, EulerDiscreteScheduler, StableDiffusionControlNetImg2ImgPipeline,
                       StableDiffusionControlNetInpaintPipeline,                       StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline, UNet2DConditionModel)
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
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
# Repainted where it is white.
MASK = np.zeros((64, 96), np.uint8)
MASK[16:48, 24:80] = 255
NETS = dict(sd15_a="sd15", sd15_b="sd15", sd21="sd21", sdxl="sdxl", inpaint9="inpaint9")


def randn(shape, *key):
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:6], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F32)


def picture(width, height, *key):
    x = torch.nn.functional.interpolate(randn((1, 3, 4, 4), *key), size=(height, width), mode="bicubic", align_corners=False)
    x = (0.5 + 0.35 * x + 0.08 * randn((1, 3, height, width), *key, "fine")).clamp(0, 1)
    return Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy())


def make_net(name, family):
    unet = UNet2DConditionModel.from_pretrained(ROOT / family / "unet", torch_dtype=F32)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8, 8, 16))
    own = unet.state_dict()
    if unet.config.in_channels != 4:
        # An inpainting UNet's net sees the latents alone.
        net = ControlNetModel.from_config({**net.config, "in_channels": 4})
        own.pop("conv_in.weight")
        net.load_state_dict({k: v for k, v in own.items() if k in net.state_dict()}, strict=False)
    with torch.no_grad():
        for key, p in net.named_parameters():
            z = randn(p.shape, name, key)
            if key not in own or key == "conv_in.weight":
                p.copy_(z * (0.1 if p.ndim == 1 else (0.7 if "controlnet_" in key and "cond" not in key else 1.2) / math.sqrt(p[0].numel())))
            elif p.ndim == 1:
                p.add_(0.1 * z)
            p.copy_(p.half().float())
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    extra = {k: v.half().contiguous() for k, v in net.state_dict().items() if k not in own or not torch.equal(own[k], v)}
    save_file(extra, folder / "extra.safetensors", metadata={"format": "pt"})
    net.save_config(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return net.eval()


class Golden:
    def __init__(self):
        self.tensors, self.meta, self.runs = OrderedDict(), OrderedDict(), OrderedDict()

    def add(self, name, x, how, f64=None):
        x = torch.as_tensor(x).detach()
        x = (x.float() if x.dtype == F64 else x).contiguous().clone()
        self.tensors[name] = x
        meta = dict(shape=list(x.shape), how=how)
        if f64 is not None:
            meta["f64_max_abs_diff"] = float((x.double() - f64.double()).abs().max())
        self.meta[name] = meta

    def both(self, fn, how):
        a, b = fn(F32), fn(F64)
        for k in a:
            self.add(k, a[k], how, b[k] if a[k].is_floating_point() else None)


@torch.no_grad()
def forward(g, name, net):
    config, at = net.config, f"net/{name}"
    h, w = 8, 12
    I = dict(sample=randn((2, 4, h, w), name, "x"), context=randn((2, 77, config.cross_attention_dim), name, "c"))
    cond = np.stack([np.asarray(picture(8 * w, 8 * h, name, "picture"))])
    added = None
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = dict(text_embeds=randn((2, pooled), name, "p"), time_ids=torch.tensor([[64., 96, 0, 0, 64, 96], [128., 100, 8, 4, 64, 96]]))
    for k, x in {**I, **(added or {})}.items():
        g.add(f"{at}/{k}", x, "input")
    times = torch.tensor([7, 981])
    g.add(f"{at}/timesteps", times.int(), "one per row")
    g.add(f"{at}/picture_u8", cond, "(1, H, W, 3); values / 255 go in")

    def fn(dt):
        net.to(dt)
        kw = dict(added_cond_kwargs={k: v.to(dt) for k, v in added.items()}) if added else {}
        image = torch.from_numpy(cond).to(dt).permute(0, 3, 1, 2) / 255
        down, mid = net(I["sample"].to(dt), times, I["context"].to(dt), controlnet_cond=image.repeat(2, 1, 1, 1), return_dict=False, **kw)
        return {f"{at}/embedding": net.controlnet_cond_embedding(image), **{f"{at}/down.{i}": x for i, x in enumerate(down)}, f"{at}/mid": mid}
    g.both(fn, "ControlNetModel at conditioning_scale 1")
    net.to(F32)


class NoiseTap:
    """Draws are float32 whatever the run computes in."""
    def __enter__(self):
        draw = lambda shape, generator=None, device=None, dtype=None, layout=None: torch.randn(tuple(shape), generator=generator, dtype=F32).to(dtype or F32)
        self.saved = [(m, m.__dict__["randn_tensor"]) for n, m in list(sys.modules.items()) if n.startswith("diffusers.") and m is not None and "randn_tensor" in m.__dict__]
        for m, _ in self.saved:
            m.randn_tensor = draw

    def __exit__(self, *a):
        for m, f in self.saved:
            m.randn_tensor = f


def pipeline(family, nets, scheduler, dt, img2img):
    at, inpaints = ROOT / (family if family != "inpaint9" else "sd15"), family == "inpaint9"
    load = lambda cls, sub: cls.from_pretrained(at / sub, torch_dtype=F32).to(dt).eval()
    parts = dict(vae=load(AutoencoderKL, "vae"), unet=UNet2DConditionModel.from_pretrained(ROOT / family / "unet", torch_dtype=F32).to(dt).eval(), text_encoder=load(CLIPTextModel, "text_encoder"),
                 tokenizer=CLIPTokenizer.from_pretrained(ROOT / ("sd21" if family == "sd21" else "sd15") / "tokenizer"),
                 controlnet=[n.to(dt) for n in nets] if len(nets) > 1 else nets[0].to(dt),
                 scheduler=scheduler.from_config(scheduler.load_config(at / "scheduler")))
    if family == "sdxl":
        return StableDiffusionXLControlNetPipeline(text_encoder_2=load(CLIPTextModelWithProjection, "text_encoder_2"),
                                                   tokenizer_2=CLIPTokenizer.from_pretrained(ROOT / "sd21/tokenizer"), add_watermarker=False, **parts)
    cls = StableDiffusionControlNetInpaintPipeline if inpaints else StableDiffusionControlNetImg2ImgPipeline if img2img else StableDiffusionControlNetPipeline
    return cls(safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)


def run(g, nets, name, family, scheduler, steps, seed, controls, guess=False, strength=None, **kw):
    width, height = 96, 64
    pictures = [picture(width, height, "run", c["picture"]) for c in controls]
    start = picture(width, height, "run", "start") if strength else None
    info = {}

    @torch.no_grad()
    def fn(dt):
        pipe = pipeline(family, [nets[c["net"]] for c in controls], scheduler, dt, strength is not None)
        pipe.set_progress_bar_config(disable=True)
        lat, one = [], len(controls) == 1
        back = lambda p, i, t, d: (lat.append(d["latents"].detach().clone()), {})[1]
        pick = lambda key: [c[key] for c in controls][0] if one else [c[key] for c in controls]
        images = pictures[0] if one else pictures
        more = dict(image=start, control_image=images, strength=strength) if strength else dict(image=images)
        if family == "inpaint9":
            more["mask_image"] = Image.fromarray(MASK)
        with NoiseTap():
            result = pipe(num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), callback_on_step_end=back, output_type="np", width=width, height=height,
                          controlnet_conditioning_scale=pick("weight"), control_guidance_start=pick("start"), control_guidance_end=pick("end"), guess_mode=guess, **more, **kw)
        config = {k: v for k, v in pipe.scheduler.config.items() if not k.startswith("_")}
        info.update(family=family, seed=seed, steps=steps, scheduler=dict(cls=scheduler.__name__, config=config), controls=controls, guess_mode=guess,
                    args=dict(width=width, height=height, strength=strength, **kw))
        return {f"run/{name}/step_latents": torch.stack(lat), f"run/{name}/image_u8": torch.from_numpy((result.images * 255).round().astype(np.uint8))}
    g.both(fn, "diffusers pipeline")
    for c, p in zip(controls, pictures):
        g.add(f"run/picture/{c['picture']}", np.asarray(p), "(H, W, 3)")
    if start is not None:
        g.add("run/picture/start", np.asarray(start), "(H, W, 3)")
    g.runs[name] = info


def key_table():
    """Every name of the full-size nets in the original layout, by what diffusers' own converter makes of it."""
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    lines = []
    families = dict(
        sd15=dict(cross_attention_dim=768),
        sd21=dict(cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True),
        sdxl=dict(cross_attention_dim=2048, attention_head_dim=[5, 10, 20], use_linear_projection=True, block_out_channels=(320, 640, 1280), transformer_layers_per_block=[1, 2, 10],
                  down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816))
    for family, config in families.items():
        with torch.device("meta"):
            net = ControlNetModel(**config)
        original = {}
        for key, value in net.state_dict().items():
            p = key.split(".")
            if p[0] == "down_blocks":
                level, kind, index, rest = int(p[1]), p[2], int(p[3]), p[4:]
                block = 1 + 3 * level + (2 if kind == "downsamplers" else index)
                inside = {"resnets": lambda: "0." + resnet[rest[0]], "attentions": lambda: "1." + ".".join(rest[:-1]), "downsamplers": lambda: "0.op"}[kind]()
                old = f"input_blocks.{block}.{inside}.{rest[-1]}"
            elif p[0] == "mid_block":
                old = (f"middle_block.{2 * int(p[2])}.{resnet[p[3]]}.{p[-1]}" if p[1] == "resnets" else f"middle_block.1.{'.'.join(p[3:])}")
            elif p[0] == "controlnet_cond_embedding":
                at = {"conv_in": 0, "conv_out": 14}.get(p[1], 2 * int(p[2]) + 2 if p[1] == "blocks" else 0)
                old = f"input_hint_block.{at}.{p[-1]}"
            elif p[0] == "controlnet_down_blocks":
                old = f"zero_convs.{p[1]}.0.{p[2]}"
            else:
                heads = {"conv_in": "input_blocks.0.0", "controlnet_mid_block": "middle_block_out.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
                         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
                old = f"{heads['.'.join(p[:-1])]}.{p[-1]}"
            original[f"control_model.{old}"] = value
        # The converter leaves SDXL's size embedding out, for it was never published in this layout; its names are the UNet's.
        converted = convert_controlnet_checkpoint(dict(original), dict(layers_per_block=2))
        by_id = {id(v): k for k, v in converted.items() if v is not None}
        own = {id(v): k for k, v in net.state_dict(keep_vars=True).items()}
        for old, value in original.items():
            new = by_id.get(id(value))
            assert new is not None or "label_emb" in old, old
            if new is not None:
                assert net.state_dict()[new].shape == value.shape, (old, new)
                lines.append(f"{family} {new} {old} {','.join(map(str, value.shape))}")
    (HERE / "keys.zlib").write_bytes(zlib.compress(("\n".join(lines) + "\n").encode(), 9))


def main():
    g = Golden()
    nets = {}
    for name, family in NETS.items():
        nets[name] = make_net(name, family)
        forward(g, name, nets[name])
    c = lambda net, picture, weight=1.0, start=0.0, end=1.0: dict(net=net, picture=picture, weight=weight, start=start, end=end)
    A, B = "a photo of an astronaut riding a horse on mars", "A Starry Night, oil painting, by Vincent van Gogh"
    run(g, nets, "sd15_one", "sd15", DDIMScheduler, 4, 0, [c("sd15_a", "one", 0.8)], prompt=A, guidance_scale=7.5)
    run(g, nets, "sd15_two", "sd15", DDIMScheduler, 5, 1, [c("sd15_a", "one", 0.7, 0.0, 0.6), c("sd15_b", "two", 1.3, 0.2, 0.8)], prompt=B, negative_prompt="blurry", guidance_scale=5.0)
    run(g, nets, "sd15_guess", "sd15", DDIMScheduler, 3, 2, [c("sd15_a", "one", 0.9)], guess=True, prompt=A, guidance_scale=3.0)
    run(g, nets, "sd15_unguided", "sd15", DDIMScheduler, 3, 3, [c("sd15_b", "two", 1.0)], prompt=A, guidance_scale=1.0)
    run(g, nets, "sd15_img2img", "sd15", DDIMScheduler, 6, 9, [c("sd15_b", "two", 0.9, 0.0, 0.7)], strength=0.7, prompt=B, guidance_scale=2.0)
    run(g, nets, "sd21_one", "sd21", DDIMScheduler, 4, 5, [c("sd21", "one", 1.0, 0.0, 0.75)], prompt=A, guidance_scale=5.0)
    run(g, nets, "sdxl_one", "sdxl", EulerDiscreteScheduler, 4, 6, [c("sdxl", "two", 0.9)], prompt=B, guidance_scale=5.0)
    run(g, nets, "inpaint9_one", "inpaint9", DDIMScheduler, 2, 7, [c("inpaint9", "one", 0.8)], strength=1.0, prompt=A, guidance_scale=1.5)
    g.add("run/mask", MASK, "(H, W)")
    key_table()
    save_file(g.tensors, HERE / "golden.safetensors")
    doc = dict(family="control", made_with=dict(torch=torch.__version__.split("+")[0], diffusers=diffusers.__version__), runs=g.runs, tensors=g.meta)
    (HERE / "golden.json").write_text(json.dumps(doc, indent=1) + "\n")


main()
