"""Normalisation: z = (pixels - mean) / std, a model's own first layer."""
from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from kitlib.base.settings import KitError, Settings


class Normalisation(Settings):
    """z = (pixels - mean) / std, per channel or with one number for all channels.

    `to_normalised` and `to_pixels` take images (N x H x W x C), or one number for all channels.
    """

    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5

    def model_post_init(self, _context: Any) -> None:
        if np.any(np.asarray(self.std) <= 0):
            raise ValueError("std must be positive")

    def to_normalised(self, pixels):
        self.check_channels(pixels)
        return (pixels - np.float32(self.mean)) / np.float32(self.std)

    def to_pixels(self, normalised):
        self.check_channels(normalised)
        return normalised * np.float32(self.std) + np.float32(self.mean)

    def check_channels(self, images) -> None:
        """Raises KitError where the numbers are not one a channel: they would be broadcast silently."""
        channels = images.shape[-1] if len(getattr(images, "shape", ())) else None
        for numbers in (self.mean, self.std):
            if isinstance(numbers, tuple) and channels is not None and len(numbers) not in (1, channels):
                raise KitError(f"the normalisation has {len(numbers)} channels, but images of {channels} are "
                               "given; it takes one number, or one a channel")

    def same(self, other: Normalisation) -> bool:
        """Whether `other` does the same to every image."""
        return bool(np.all(np.equal(self.mean, other.mean)) and np.all(np.equal(self.std, other.std)))

    def layer(self) -> layers.Layer:
        """The same as a Keras layer that any Keras 3 can load."""
        scale, offset = 1 / np.asarray(self.std), -np.asarray(self.mean) / np.asarray(self.std)
        return layers.Rescaling(scale.tolist(), offset.tolist(), name="normalisation")


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Of the first weights on ImageNet (ResNet-50, VGG-16): BGR less its mean; here in the order RGB.
CAFFE = Normalisation(mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=1 / 255)
