#!/usr/bin/env python3
"""Reference results of distilled UNets, in the same way as the goldens beside them.

    python distilled.py --reference make_goldens.py     # rewrites the folders below, beside this script

    bk_small    BK-SDM-Small's and segmind small-sd's form: one residual block a level, nothing in the middle
    bk_tiny     BK-SDM-Tiny's and segmind tiny-sd's form: three levels, nothing in the middle
    heads       a UNet whose configuration counts heads under `num_attention_heads`; in the middle one residual block alone

--reference is the script that wrote the other goldens: weights, inputs, block outputs and runs are made by its functions.
The text encoder, tokenizer, autoencoder and scheduler are those of sd15.
"""
import argparse, importlib.util, json
from pathlib import Path

HERE = Path(__file__).resolve().parent
# A public configuration names its levels so (nota-ai/bk-sdm-small, nota-ai/bk-sdm-tiny: unet/config.json).
CROSS, PLAIN = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"), ("DownBlock2D", "UpBlock2D")
FORMS = dict(
    bk_small=dict(down=[CROSS, CROSS, CROSS, PLAIN], ch=[16, 16, 24, 24], mid=None, seed=71),
    bk_tiny=dict(down=[CROSS, CROSS, CROSS], ch=[16, 16, 24], mid=None, seed=72),
    heads=dict(down=[CROSS, PLAIN], ch=[16, 32], mid="UNetMidBlock2D", seed=73),
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reference", type=Path, required=True)
    spec = importlib.util.spec_from_file_location("make_goldens", parser.parse_args().reference)
    ref = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ref)
    import torch
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_num_threads(1)
    variant = dict(ref.V["public"])
    cross = json.loads((HERE / "sd15/text_encoder/config.json").read_text())["hidden_size"]

    class Context:
        v = variant

    for family, form in FORMS.items():
        folder = HERE / family
        unet = UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, block_out_channels=form["ch"],
            down_block_types=[down for down, _ in form["down"]], up_block_types=[up for _, up in reversed(form["down"])],
            mid_block_type=form["mid"], layers_per_block=1, attention_head_dim=4, cross_attention_dim=cross,
            norm_num_groups=8)
        seed = variant["seed"] + form["seed"]
        ref.reinit(unet, seed, "unet", shrink=ref.SHRINK["unet"])
        x, c = ref.randn((1, 4, 16, 16), seed, "cal-x"), ref.randn((1, 77, cross), seed, "cal-c")
        ref.calibrate(unet.conv_out, lambda: unet(x, 500, c).sample, 1.0)
        ref.save_model(unet, folder / "unet", "diffusion_pytorch_model.safetensors")
        golden = ref.Golden(family, folder)
        names = ref.unet_block_names
        ref.unet_block_names = lambda m: [n for n in names(m) if n != "mid_block" or m.mid_block is not None]
        ref.unet_part(golden, Context)
        ref.unet_block_names = names
        base = ref.Cache(StableDiffusionPipeline, HERE / "sd15")

        def pipe(dtype):
            own = base(dtype)
            made = StableDiffusionPipeline(
                **{**own.components, "unet": ref.load(UNet2DConditionModel, folder / "unet", dtype)},
                requires_safety_checker=False)
            made.scheduler = own._base_sched
            return made

        h, w = variant["sizes"][0]
        common = dict(prompt=variant["p"][0], height=8 * h, width=8 * w, guidance_scale=4.0)
        for name, cls in (("txt2img_ddim", DDIMScheduler), ("txt2img_euler", EulerDiscreteScheduler)):
            ref.run_part(golden, name, pipe, (cls, {}), 4, variant["seeds"][0], image=False, **common)
        golden.save(dict(uses="text_encoder, tokenizer, vae and scheduler of ../sd15"))
        if family == "heads":
            # diffusers counts heads under either name alike, but makes no UNet of the second one yet: the file is
            # rewritten as ControlNets' are, with the width of a head under the first name.
            path = folder / "unet/config.json"
            config = json.loads(path.read_text())
            config["num_attention_heads"], config["attention_head_dim"] = [4, 4], 8
            path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
