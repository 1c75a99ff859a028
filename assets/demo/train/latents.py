#!/usr/bin/env python3
"""The latent space: a fixed linear analysis of 8x8 blocks.

Each 8x8 block of the picture (range -1..1) gives four numbers: its mean red, green and blue and
a diagonal gradient of luma.  They are decorrelated in the order luma, red-green, blue-luma,
gradient, given the variances SPECTRUM (sum 4), and mixed by a Hadamard matrix, so that every
latent channel has mean 0 and variance 1 (after `scaling_factor`) and brightness is shared by all
four.  The autoencoder's encoder is trained to this analysis, its decoder to invert it.  Having
the analysis in closed form, demo_data.py writes latents without the autoencoder.

`basis.json` is the analysis that the published weights use.  This fits another one, which needs
another autoencoder and another UNet:

    python latents.py --data DIR --out other.json
"""
import argparse
import json
import os

import numpy as np
import torch
import torch.nn.functional as F

SCALING = 0.18215
SPECTRUM = (2.6, 0.7, 0.6, 0.1)
LUMA = (0.299, 0.587, 0.114)
BLOCK = 8
HADAMARD = torch.tensor([[1., 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]).T / 2
# (r, g, b, gradient) -> (luma, red-green, blue-luma, gradient)
TO_FEATURES = torch.tensor([[0.299, 0.587, 0.114, 0], [1, -1, 0, 0], [-0.299, -0.587, 0.886, 0], [0, 0, 0, 1.]])


def kernel():
    k = torch.zeros(4, 3, BLOCK, BLOCK)
    for c in range(3):
        k[c, c] = 1 / BLOCK ** 2
    r = torch.arange(BLOCK) - (BLOCK - 1) / 2
    g = (r[:, None] + r[None, :]) / (r[:, None] + r[None, :]).abs().sum()
    for c in range(3):
        k[3, c] = LUMA[c] * g
    return k


def blocks(x):
    """-1..1 images -> mean red, green, blue and the gradient of each block."""
    return F.conv2d(x, kernel().to(x), stride=BLOCK)


class Basis:
    """matrix @ (r, g, b, gradient) + shift = unscaled latent."""

    def __init__(self, matrix, shift):
        self.matrix, self.shift = matrix, shift

    @classmethod
    def fit(cls, f):
        flat = f.permute(0, 2, 3, 1).reshape(-1, 4).double()
        u = flat @ TO_FEATURES.double().T
        mu, cov = u.mean(0), torch.cov(u.T)
        white = torch.linalg.inv(torch.linalg.cholesky(cov))
        m = HADAMARD.double() @ torch.diag(torch.tensor(SPECTRUM).double().sqrt()) @ white / SCALING
        return cls((m @ TO_FEATURES.double()).float(), (-m @ mu).float())

    @classmethod
    def load(cls, path):
        with open(path) as f:
            d = json.load(f)
        return cls(torch.tensor(d["matrix"]), torch.tensor(d["shift"]))

    def save(self, path):
        with open(path, "w") as f:
            json.dump({"matrix": self.matrix.tolist(), "shift": self.shift.tolist()}, f, indent=1)

    def __call__(self, x):
        """-1..1 images -> unscaled latents."""
        f = blocks(x)
        return torch.einsum("ij,bjhw->bihw", self.matrix.to(f), f) + self.shift.to(f).view(1, 4, 1, 1)


def to_float(u8):
    return torch.from_numpy(np.ascontiguousarray(u8)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True, help="folder with images.npy (demo_data.py --images)")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    images = np.load(os.path.join(a.data, "images.npy"), mmap_mode="r")
    Basis.fit(torch.cat([blocks(to_float(images[i:i + 50])) for i in range(0, min(2000, len(images)), 50)])).save(a.out)


if __name__ == "__main__":
    main()
