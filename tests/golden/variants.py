#!/usr/bin/env python3
"""Reference results of model variants that take their other parts from the goldens beside them.

    python variants.py            # rewrites the folders below, beside this script

    pix2pix    StableDiffusionInstructPix2PixPipeline: a UNet of 8 channels on the parts of sd15
    refiner    StableDiffusionXLImg2ImgPipeline with an aesthetic score: a UNet on the second text encoder and the
               autoencoder of sdxl, alone on a picture and behind sdxl's own UNet (ensemble of experts)
    tiny_vae   StableDiffusionPipeline and its image-to-image with the AutoencoderTiny of taesd on the parts of sd15

Weights are random, in f16; results are those of diffusers on a CPU in f32, and `f64_max_abs_diff` is their distance to
the same run in f64.
"""
import hashlib, json, math
from collections import OrderedDict
from pathlib import Path

import diffusers, torch
from diffusers import (AutoencoderKL, AutoencoderTiny, DDIMScheduler, EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       StableDiffusionImg2ImgPipeline, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline,
                       StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
import transformers.models.clip.modeling_clip as clip

HERE = Path(__file__).resolve().parent
F32, F64 = torch.float32, torch.float64

# transformers builds its causal mask through an f32 constant that overflows in f64.
own_mask = clip._create_4d_causal_attention_mask
clip._create_4d_causal_attention_mask = lambda shape, dtype, device=None, **k: (
    torch.full((shape[0], 1, shape[1], shape[1]), -1e38, dtype=F64).triu(1) if dtype == F64
    else own_mask(shape, dtype, device=device, **k))


def randn(shape, *key):
    seed = int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:6], "little")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F32)


@torch.no_grad()
def random_unet(family, folder, cond, **config):
    """Matrices that keep the variance, norms and biases that matter, an output of deviation 1; all rounded to f16."""
    unet = UNet2DConditionModel(sample_size=16, out_channels=4, **config).eval()
    for name, p in unet.named_parameters():
        z = randn(p.shape, family, name)
        if p.ndim > 1:
            p.copy_(z / math.sqrt(p[0].numel()))
        elif "norm" in name:
            p.copy_(1 + 0.25 * z if name.endswith("weight") else 0.2 * z)
        else:
            p.copy_(0.15 * z)
    x = randn((1, config["in_channels"], 16, 16), family, "x")
    out = unet(x, 500, randn((1, 77, config["cross_attention_dim"]), family, "c"), added_cond_kwargs=cond).sample
    for p in unet.conv_out.parameters():
        p.div_(out.std())
    for p in unet.parameters():
        p.copy_(p.half().float())
    folder.mkdir(parents=True, exist_ok=True)
    save_file(OrderedDict((k, v.half().contiguous()) for k, v in unet.state_dict().items()),
              folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    unet.save_config(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def part(cls, path, dtype):
    kw = {"torch_dtype": F32} if cls in (CLIPTextModel, CLIPTextModelWithProjection) else {}
    return cls.from_pretrained(HERE / path, **kw).to(dtype).eval()


def smooth(h, w, *key):
    z = torch.nn.functional.interpolate(randn((1, 3, h // 8, w // 8), *key), size=(h, w), mode="bicubic")
    return (0.5 + 0.25 * z).clamp(0, 1)


def scheduler(cls, family, **over):
    base = json.loads((HERE / family / "scheduler/scheduler_config.json").read_text())
    return cls.from_config(base, **over)


class Golden:
    def __init__(self, name, uses):
        self.folder, self.uses = HERE / name, uses
        self.tensors, self.meta, self.runs = OrderedDict(), OrderedDict(), OrderedDict()
        self.folder.mkdir(exist_ok=True)

    def add(self, name, value, meaning, twin=None):
        self.tensors[name] = value.contiguous()
        self.meta[name] = dict(shape=list(value.shape), meaning=meaning)
        if twin is not None:
            self.meta[name]["f64_max_abs_diff"] = float((value.double() - twin.double()).abs().max())

    def run(self, name, make, steps, seed, scheduler, note, args):
        """make(dtype, on_step) -> decoded picture in 0..1, [1, 3, h, w]."""
        results = []
        for dtype in (F32, F64):
            latents = []
            def on_step(pipe, i, t, d):
                latents.append(d["latents"].detach().clone())
                return {}
            with torch.no_grad():
                image = make(dtype, on_step)
            results.append((torch.stack(latents), image))
        (a, image), (b, _) = results
        self.add(f"run/{name}/step_latents", a, "latents after every step of the scheduler", b)
        self.add(f"run/{name}/image_u8", (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8), "the picture, [1, h, w, 3]")
        config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
        self.runs[name] = dict(seed=seed, steps=steps, note=note, args=args,
                               scheduler=dict(cls=type(scheduler).__name__, config=json.loads(json.dumps(config, default=str))))

    def save(self):
        assert all(torch.isfinite(t).all() for t in self.tensors.values() if t.is_floating_point())
        save_file(self.tensors, self.folder / "golden.safetensors")
        doc = dict(family=self.folder.name, made_with=dict(torch=torch.__version__.split("+")[0], diffusers=diffusers.__version__),
                   uses=self.uses, runs=self.runs, tensors=self.meta)
        (self.folder / "golden.json").write_text(json.dumps(doc, indent=1) + "\n")


def f32_noise():
    """Draws of diffusers are f32 in both runs."""
    import sys
    def draw(shape, generator=None, device=None, dtype=None, layout=None):
        return torch.randn(tuple(shape), generator=generator, dtype=F32).to(dtype or F32)
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.") and module is not None and "randn_tensor" in module.__dict__:
            module.randn_tensor = draw


def pix2pix():
    g = Golden("pix2pix", "text_encoder, tokenizer, vae and scheduler of ../sd15")
    width = json.loads((HERE / "sd15/text_encoder/config.json").read_text())["hidden_size"]
    cross = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    random_unet("pix2pix", g.folder / "unet", None, in_channels=8, block_out_channels=(16, 16, 16, 16), layers_per_block=1, norm_num_groups=8,
                attention_head_dim=2, cross_attention_dim=width, down_block_types=cross)
    image = smooth(112, 128, "pix2pix", "image")
    g.add("run/init_image", image, "[0, 1]")
    cases = {
        "euler_a": (EulerAncestralDiscreteScheduler, dict(guidance_scale=7.5, image_guidance_scale=1.5), None),
        "negative": (DDIMScheduler, dict(guidance_scale=5.0, image_guidance_scale=1.2), "blurry, low quality"),
        "no_guidance": (DDIMScheduler, dict(guidance_scale=1.0, image_guidance_scale=1.5), None),
    }
    for name, (cls, scales, negative) in cases.items():
        def make(dtype, on_step, cls=cls, scales=scales, negative=negative):
            pipe = StableDiffusionInstructPix2PixPipeline(
                vae=part(AutoencoderKL, "sd15/vae", dtype), text_encoder=part(CLIPTextModel, "sd15/text_encoder", dtype),
                tokenizer=CLIPTokenizer.from_pretrained(HERE / "sd15/tokenizer"), unet=part(UNet2DConditionModel, "pix2pix/unet", dtype),
                scheduler=scheduler(cls, "sd15"), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
            pipe.set_progress_bar_config(disable=True)
            return pipe("make it snow", image=image.to(dtype), num_inference_steps=4, negative_prompt=negative, generator=torch.Generator().manual_seed(42),
                        output_type="pt", callback_on_step_end=on_step, **scales).images
        args = dict(prompt="make it snow", negative_prompt=negative, height=112, width=128, **scales)
        g.run(name, make, 4, 42, scheduler(cls, "sd15"), "UNet input = latents(4) + mode of the picture's posterior, not scaled (4)", args)
    g.save()


def refiner():
    g = Golden("refiner", "text_encoder_2, tokenizer_2, vae and scheduler of ../sdxl; for runs with refiner_start its UNet and text_encoder too")
    pooled = json.loads((HERE / "sdxl/text_encoder_2/config.json").read_text())
    ids = dict(text_embeds=randn((1, pooled["projection_dim"]), "refiner", "pooled"), time_ids=torch.tensor([[128., 128, 0, 0, 6]]))
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    random_unet("refiner", g.folder / "unet", ids, in_channels=4, block_out_channels=(16, 24, 32, 32), layers_per_block=1, norm_num_groups=8,
                attention_head_dim=[2, 2, 4, 4], transformer_layers_per_block=2, use_linear_projection=True, cross_attention_dim=pooled["hidden_size"],
                down_block_types=down, up_block_types=up, addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=pooled["projection_dim"] + 5 * 8)
    image = smooth(96, 128, "refiner", "image")
    g.add("run/init_image", image, "[0, 1]")

    def refining(dtype, cls):
        pipe = StableDiffusionXLImg2ImgPipeline(
            vae=part(AutoencoderKL, "sdxl/vae", dtype), text_encoder=None, tokenizer=None,
            text_encoder_2=part(CLIPTextModelWithProjection, "sdxl/text_encoder_2", dtype), tokenizer_2=CLIPTokenizer.from_pretrained(HERE / "sd21/tokenizer"),
            unet=part(UNet2DConditionModel, "refiner/unet", dtype), scheduler=scheduler(cls, "sdxl"), requires_aesthetics_score=True,
            force_zeros_for_empty_prompt=False, add_watermarker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    prompt = "a photo of an astronaut riding a horse on mars"
    for name, cls, negative in (("alone", EulerDiscreteScheduler, None), ("alone_negative", DDIMScheduler, "blurry, low quality")):
        def make(dtype, on_step, cls=cls, negative=negative):
            return refining(dtype, cls)(prompt, image=image.to(dtype), strength=0.5, num_inference_steps=8, negative_prompt=negative, guidance_scale=5.0,
                                        generator=torch.Generator().manual_seed(7), output_type="pt", callback_on_step_end=on_step).images
        args = dict(prompt=prompt, negative_prompt=negative, guidance_scale=5.0, height=96, width=128, strength=0.5)
        g.run(name, make, 8, 7, scheduler(cls, "sdxl"), "the refiner alone on a picture; aesthetic scores 6 and 2.5", args)

    def behind(dtype, on_step, cls, start):
        base = StableDiffusionXLPipeline(
            vae=part(AutoencoderKL, "sdxl/vae", dtype), text_encoder=part(CLIPTextModel, "sdxl/text_encoder", dtype),
            tokenizer=CLIPTokenizer.from_pretrained(HERE / "sd15/tokenizer"), text_encoder_2=part(CLIPTextModelWithProjection, "sdxl/text_encoder_2", dtype),
            tokenizer_2=CLIPTokenizer.from_pretrained(HERE / "sd21/tokenizer"), unet=part(UNet2DConditionModel, "sdxl/unet", dtype),
            scheduler=scheduler(cls, "sdxl"), force_zeros_for_empty_prompt=True, add_watermarker=False)
        base.set_progress_bar_config(disable=True)
        both = dict(num_inference_steps=8, negative_prompt="blurry, low quality", guidance_scale=5.0)
        latents = base(prompt, height=96, width=128, denoising_end=start, output_type="latent", generator=torch.Generator().manual_seed(3),
                       callback_on_step_end=on_step, **both).images
        return refining(dtype, cls)(prompt, image=latents, denoising_start=start, output_type="pt", generator=torch.Generator().manual_seed(3),
                                    callback_on_step_end=on_step, **both).images
        args = dict(prompt=prompt, negative_prompt="blurry, low quality", guidance_scale=5.0, height=96, width=128, refiner_start=start)
        g.run(name, lambda dtype, on_step: behind(dtype, on_step, cls, start), 8, 3, scheduler(cls, "sdxl"), "sdxl up to refiner_start, then the refiner", args)
    g.save()


def tiny_vae():
    g = Golden("tiny_vae", "text_encoder, tokenizer, unet and scheduler of ../sd15, the autoencoder of ../taesd")
    image = smooth(96, 64, "tiny_vae", "image")
    g.add("run/init_image", image, "[0, 1]")
    for name, cls, extra in (("txt2img", StableDiffusionPipeline, dict(height=96, width=64)), ("img2img", StableDiffusionImg2ImgPipeline, dict(strength=0.6))):
        def make(dtype, on_step, cls=cls, extra=extra):
            pipe = cls(vae=part(AutoencoderTiny, "taesd", dtype), text_encoder=part(CLIPTextModel, "sd15/text_encoder", dtype),
                       tokenizer=CLIPTokenizer.from_pretrained(HERE / "sd15/tokenizer"), unet=part(UNet2DConditionModel, "sd15/unet", dtype),
                       scheduler=scheduler(EulerDiscreteScheduler, "sd15"), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
            pipe.set_progress_bar_config(disable=True)
            given = {**extra, "image": image.to(dtype)} if "strength" in extra else extra
            return pipe("a lighthouse at night", num_inference_steps=5, guidance_scale=5.0, generator=torch.Generator().manual_seed(11), output_type="pt",
                        callback_on_step_end=on_step, **given).images
        args = dict(prompt="a lighthouse at night", negative_prompt=None, guidance_scale=5.0, height=96, width=64, **{k: v for k, v in extra.items() if k == "strength"})
        g.run(name, make, 5, 11, scheduler(EulerDiscreteScheduler, "sd15"), "latents of the encoder are taken as they are", args)
    g.save()


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    f32_noise()
    pix2pix()
    refiner()
    tiny_vae()
