"""Reptile on 5-way Omniglot (Table 3) as a plain eager PyTorch loop: what training on a GPU is held against.

    python tests/eager_pytorch.py [outer iterations]

It needs PyTorch, which the project does not. Images are random bytes on the device, since timing does not depend on
what they show. Prints outer iterations a second of one seed, after a warm-up.
"""

import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

WAYS, SHOTS, BATCH, META_BATCH = 5, 10, 10, 5


class Block(nn.Module):
    """A 3×3 convolution of stride 2 with SAME padding, batch norm with the batch's own statistics, ReLU."""

    def __init__(self, channels, filters=64):
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, 3, stride=2)
        self.norm = nn.BatchNorm2d(filters, eps=1e-3, track_running_stats=False)

    def forward(self, x):
        pad = (0, 1, 0, 1) if x.shape[-1] % 2 == 0 else (1, 1, 1, 1)
        return F.relu(self.norm(self.conv(F.pad(x, pad))))


def task(images):
    """50 images of five classes, each turned by a multiple of 90°, and their labels."""
    classes = torch.randperm(images.shape[0] * 4, device=images.device)[:WAYS]
    x = []
    for one in classes:
        drawings = torch.randperm(images.shape[1], device=images.device)[:SHOTS]
        x.append(torch.rot90(images[one % images.shape[0], drawings], int(one) // images.shape[0], (1, 2)))
    labels = torch.arange(WAYS, device=images.device).repeat_interleave(SHOTS)
    return torch.cat(x)[:, None].float() / 255, labels


def main(iterations):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    images = torch.randint(0, 256, (1200, 20, 28, 28), dtype=torch.uint8, device=device)
    model = nn.Sequential(Block(1), Block(64), Block(64), Block(64), nn.Flatten(), nn.Linear(256, WAYS)).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.0, 0.999))

    def outer_iteration(epsilon):
        old = [p.detach().clone() for p in model.parameters()]
        total = [torch.zeros_like(p) for p in old]
        for _ in range(META_BATCH):
            with torch.no_grad():
                for p, o in zip(model.parameters(), old, strict=True):
                    p.copy_(o)
            x, labels = task(images)
            for batch in torch.randperm(len(x), device=device).split(BATCH):
                optimiser.zero_grad()
                F.cross_entropy(model(x[batch]), labels[batch], reduction="sum").backward()
                optimiser.step()
            for t, p in zip(total, model.parameters(), strict=True):
                t += p.detach()
        with torch.no_grad():
            for p, o, t in zip(model.parameters(), old, total, strict=True):
                p.copy_(o + epsilon * (t / META_BATCH - o))

    for _ in range(3):
        outer_iteration(1.0)
    rates = []
    for _ in range(5):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(iterations):
            outer_iteration(1 - i / iterations)
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(iterations / (time.perf_counter() - began))
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"eager PyTorch {torch.__version__} on {name}: {sorted(rates)[2]:.2f} outer iterations a second (median of 5)"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
