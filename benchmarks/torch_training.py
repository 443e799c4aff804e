"""The training steps of `benchmarks.training` in PyTorch: run in an environment with torch, without kitlib.

As a PyTorch user would write them for speed on a CPU: channels-last memory, fused Adam, bfloat16 by autocast. The
networks have the kit's layers and sizes.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def step_case(network: str, method: str, precision: str, size: int, batch: int, classes: int) -> Callable:
    """One training step on a fixed batch: "plain", or "fgsm" (clean and FGSM at 8/255, half of the loss each)."""
    torch.manual_seed(0)
    model = NETWORKS[network](size, classes).to(memory_format=torch.channels_last).train()
    images = torch.rand(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    cast = torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()

    def loss_of(pixels):
        with cast:
            logits = model(pixels)
        return F.cross_entropy(logits.float(), labels)

    def plain():
        optimizer.zero_grad()
        loss = loss_of(images)
        loss.backward()
        optimizer.step()
        return loss.item()

    def fgsm():
        optimizer.zero_grad()
        pixels = images.detach().requires_grad_()
        clean = loss_of(pixels)
        (0.5 * clean).backward()      # one pass backward serves the weights and the pixels
        moved = (images + 8 / 255 * pixels.grad.sign()).clamp(0, 1)
        loss = 0.5 * loss_of(moved)
        loss.backward()
        optimizer.step()
        return loss.item()

    return {"plain": plain, "fgsm": fgsm}[method]


class Normalised(nn.Sequential):
    def forward(self, x):
        return super().forward((x - 0.5) / 0.5)


def even_deeper_cnn(size: int, classes: int, widths=(32, 32, 64, 64, 128, 128), dense=(512, 128), dropout=0.3):
    body, channels = [], 3
    for number, width in enumerate(widths):
        body += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] + [nn.MaxPool2d(2)] * (number % 2)
        channels = width
    body.append(nn.Flatten())
    features = channels * (size // 8) ** 2
    for width in dense:
        body += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
        features = width
    return Normalised(*body, nn.Linear(features, classes))


class PreActivation(nn.Module):
    """A block of the kit's small residual network (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, taken: int, width: int, stride: int):
        super().__init__()
        self.ready = nn.Sequential(nn.BatchNorm2d(taken), nn.ReLU())
        self.around = nn.Conv2d(taken, width, 1, stride, bias=False) if stride > 1 or taken != width else None
        self.body = nn.Sequential(
            nn.Conv2d(taken, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, x):
        ready = self.ready(x)
        return (x if self.around is None else self.around(ready)) + self.body(ready)


def small_resnet(_size: int, classes: int, widths=(16, 32, 64), blocks=2):
    body, channels = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False)], widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            body.append(PreActivation(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = width
    return Normalised(*body, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(channels, classes))


class Bottleneck(nn.Module):
    """A block of ResNet-50 (He et al. 2016, arXiv:1512.03385); the stride in the first convolution, as in Keras."""

    def __init__(self, taken: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(taken, width, 1, stride), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width))
        self.around = nn.Identity()
        if stride > 1 or taken != 4 * width:
            self.around = nn.Sequential(nn.Conv2d(taken, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        return F.relu(self.around(x) + self.body(x))


def resnet50(_size: int, classes: int):
    body, channels = [nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, count in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(count):
            body.append(Bottleneck(channels, width, 2 if stage > 0 and block == 0 else 1))
            channels = 4 * width
    return Normalised(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


NETWORKS = {"even_deeper_cnn": even_deeper_cnn, "small_resnet": small_resnet, "resnet50": resnet50}
