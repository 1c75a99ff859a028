#!/usr/bin/env python3
"""Trajectories of diffusers' schedulers under configuration keys that change them.

    pip install torch==2.7.1 diffusers==0.35.2 safetensors scipy
    python make.py                # rewrites golden.json and golden.safetensors beside this script

The layout is that of ../schedulers: a closed-form model in place of a network, the sample after every step, the whole
configuration of each run. Where diffusers divides 0 by 0 in its last step, the step's limit stands for it ("limit").
"""
import json, sys
from collections import OrderedDict
from pathlib import Path

import diffusers, torch
from diffusers import (DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler,
                       EulerDiscreteScheduler, HeunDiscreteScheduler, LMSDiscreteScheduler, UniPCMultistepScheduler)
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
COSINE = dict(beta_schedule="squaredcos_cap_v2")
EULER, DPM, UNIPC, DEIS = (EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler,
                           DEISMultistepScheduler)
RANGE = dict(sigma_min=0.1, sigma_max=10.0)

CASES = OrderedDict(
    unipc_disable_corrector=(UNIPC, dict(disable_corrector=[0, 2]), 7),
    unipc_3=(UNIPC, dict(solver_order=3), 9),
    unipc_3_disable_corrector=(UNIPC, dict(solver_order=3, disable_corrector=[0, 1, 4]), 9),
    unipc_bh1=(UNIPC, dict(solver_type="bh1"), 16),
    unipc_bh1_3=(UNIPC, dict(solver_type="bh1", solver_order=3), 8),
    unipc_logrho=(UNIPC, dict(solver_type="logrho"), 6),
    unipc_karras_to_sigma_min=(UNIPC, dict(use_karras_sigmas=True, final_sigmas_type="sigma_min"), 7),
    unipc_cosine_karras=(UNIPC, dict(COSINE, use_karras_sigmas=True), 7),
    unipc_karras_range=(UNIPC, dict(RANGE, use_karras_sigmas=True), 7),
    deis=(DEIS, {}, 8),
    deis_1=(DEIS, dict(solver_order=1), 6),
    deis_3=(DEIS, dict(solver_order=3), 9),
    deis_3_n16=(DEIS, dict(solver_order=3), 16),
    deis_3_linspace_n16=(DEIS, dict(solver_order=3, timestep_spacing="linspace"), 16),
    deis_3_not_lower=(DEIS, dict(solver_order=3, lower_order_final=False), 9),
    deis_3_karras=(DEIS, dict(solver_order=3, use_karras_sigmas=True), 9),
    deis_exponential=(DEIS, dict(use_exponential_sigmas=True), 16),
    deis_thresholding=(DEIS, dict(thresholding=True, dynamic_thresholding_ratio=0.8), 6),
    euler_karras_range=(EULER, dict(RANGE, use_karras_sigmas=True), 16),
    euler_exponential_range=(EULER, dict(RANGE, use_exponential_sigmas=True), 6),
    euler_beta_range=(EULER, dict(RANGE, use_beta_sigmas=True), 6),
    euler_range_alone=(EULER, dict(RANGE), 6),
    euler_to_sigma_min=(EULER, dict(final_sigmas_type="sigma_min"), 6),
    euler_a_karras=(EulerAncestralDiscreteScheduler, dict(use_karras_sigmas=True), 6),
    heun_to_sigma_min=(HeunDiscreteScheduler, dict(final_sigmas_type="sigma_min"), 5),
    heun_karras_range=(HeunDiscreteScheduler, dict(RANGE, use_karras_sigmas=True), 5),
    lms_to_sigma_min=(LMSDiscreteScheduler, dict(final_sigmas_type="sigma_min", timestep_spacing="linspace"), 6),
    dpmpp_2m_karras_range=(DPM, dict(RANGE, use_karras_sigmas=True), 7),
    dpmpp_2m_karras_to_sigma_min=(DPM, dict(use_karras_sigmas=True, final_sigmas_type="sigma_min"), 16),
    dpmpp_2m_clipped=(DPM, dict(lambda_min_clipped=-1.5, timestep_spacing="linspace"), 7),
    dpmpp_2m_clipped_leading=(DPM, dict(lambda_min_clipped=-1.5), 7),
    dpmpp_2m_cosine_clipped=(DPM, dict(COSINE, lambda_min_clipped=-5.1, timestep_spacing="linspace"), 7),
    dpmpp_3m_not_lower=(DPM, dict(solver_order=3, lower_order_final=False), 8),
)


def jsonable(x):
    if isinstance(x, (list, tuple)):
        return [jsonable(y) for y in x]
    if isinstance(x, float) and x in (float("inf"), float("-inf")):
        return None
    return x if isinstance(x, (str, int, float, bool, type(None))) else str(x)


def main():
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(20241)
    tensors, meta, runs = OrderedDict(), OrderedDict(), OrderedDict()

    def add(name, tensor, meaning):
        tensors[name] = tensor.to(torch.float32).contiguous().clone()
        meta[name] = dict(shape=list(tensor.shape), dtype="float32", meaning=meaning, max_abs=float(tensor.abs().max()))

    x0 = torch.randn((1, 4, 4, 4), generator=g)
    add("traj/x0", x0, "unit gaussian; a run starts from x0 * init_noise_sigma")
    noises = torch.randn((40, 1, 4, 4, 4), generator=g)
    add("traj/noises", noises, "noise used at step i by stochastic schedulers")
    ramp = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    add("traj/ramp", ramp, "model(x,t) = 0.8*x/(1+0.3*|x|) + 0.4*cos(0.01*t + 3*ramp), x = scale_model_input(sample)")
    model = lambda x, t: 0.8 * x / (1 + 0.3 * x.abs()) + 0.4 * torch.cos(0.01 * float(t) + 3 * ramp)

    for name, (cls, over, steps) in CASES.items():
        for kind in ("epsilon", "v_prediction"):
            config = dict(SD, timestep_spacing="leading", steps_offset=1, prediction_type=kind, clip_sample=False)
            s = cls.from_config({**config, **over})
            s.set_timesteps(steps)
            s.set_begin_index(0)   # the first of equal timesteps is the first step, too
            x, samples, drawn, limit = x0 * s.init_noise_sigma, [], 0, False
            module = sys.modules[cls.__module__]
            own = module.__dict__.get("randn_tensor")

            def draw(shape, generator=None, device=None, dtype=None, layout=None):
                nonlocal drawn
                drawn += 1
                return noises[drawn - 1].to(dtype)

            if own:
                module.randn_tensor = draw
            try:
                for t in s.timesteps:
                    x = s.step(model(s.scale_model_input(x, t), t), t, x).prev_sample
                    if not torch.isfinite(x).all():
                        # B(h) is infinite at sigma 0 and multiplies no difference at all: x_0 is what is left.
                        assert cls is UNIPC and len(samples) + 1 == len(s.timesteps)
                        x, limit = s.model_outputs[-1], True
                    samples.append(x)
            finally:
                if own:
                    module.randn_tensor = own
            what = f"traj/{name}/{kind}"
            add(what, torch.cat(samples), f"sample after every step, {len(samples)} steps; noises used: {drawn}")
            runs[what] = dict(cls=cls.__name__, config={k: jsonable(v) for k, v in s.config.items() if not k.startswith("_")},
                              steps=steps, init_noise_sigma=float(s.init_noise_sigma),
                              timesteps=[float(t) for t in s.timesteps], noises=drawn, limit=limit)
    save_file(tensors, HERE / "golden.safetensors")
    doc = dict(family="scheduler_keys", made_with=dict(torch=torch.__version__.split("+")[0], diffusers=diffusers.__version__),
               note=__doc__.split("\n")[0], runs=runs, tensors=meta)
    (HERE / "golden.json").write_text(json.dumps(doc, indent=1) + "\n")
    print(len(runs), "runs")


if __name__ == "__main__":
    main()
