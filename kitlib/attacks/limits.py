"""What an attack may leave behind: whole n/255, and changes in a region alone."""
from __future__ import annotations

from typing import Annotated

import numpy as np
import pydantic
import tensorflow as tf

from kitlib.base.settings import KitError, Settings

LEVELS = 255.0    # of a file of 8 bits
ROUNDED = 1e-3    # of a level: what float32 may miss of a whole one
Pixel = Annotated[int, pydantic.Field(ge=0)]


class Region(Settings):
    """A rectangle of pixels, counted from the upper left corner; outside: all pixels but those, such as a border."""

    top: Pixel
    left: Pixel
    height: Annotated[int, pydantic.Field(ge=1)]
    width: Annotated[int, pydantic.Field(ge=1)]
    outside: bool = False

    def mask(self, height: int, width: int) -> np.ndarray:
        """bool height x width, true in the region. Raises KitError where it does not fit into such an image."""
        if self.top + self.height > height or self.left + self.width > width:
            raise KitError(f"mask: {self} does not fit into images of {height} x {width} pixels")
        inside = np.zeros((height, width), bool)
        inside[self.top : self.top + self.height, self.left : self.left + self.width] = True
        return inside != self.outside

    def __str__(self) -> str:
        return f"{self.height} x {self.width} pixels from row {self.top}, column {self.left}"


def is_8_bit(images: np.ndarray) -> bool:
    """Whether all pixels are whole n/255."""
    return bool(np.abs(LEVELS * images - np.round(LEVELS * images)).max() <= ROUNDED)


def round_to_8_bits(pixels: tf.Tensor) -> tf.Tensor:
    """The nearest pixels of whole n/255."""
    return tf.round(LEVELS * tf.clip_by_value(pixels, 0.0, 1.0)) / LEVELS


def round_within(pixels: tf.Tensor, images: tf.Tensor, eps, norm: str) -> tf.Tensor:
    """The nearest pixels of whole n/255 in the ball. In L2 they are rounded towards the image where the nearest lie
    outside, which stays inside for images that are in whole n/255 themselves."""
    nearest = round_to_8_bits(pixels)
    if norm == "linf":
        low = tf.math.ceil(LEVELS * (images - eps) - ROUNDED) / LEVELS
        high = tf.floor(LEVELS * (images + eps) + ROUNDED) / LEVELS
        return tf.where(low <= high, tf.clip_by_value(nearest, low, high), round_to_8_bits(images))
    levels = LEVELS * pixels
    towards = tf.where(pixels > images, tf.floor(levels + ROUNDED), tf.math.ceil(levels - ROUNDED)) / LEVELS
    far = tf.reduce_sum((nearest - images) ** 2, axis=(1, 2, 3), keepdims=True) > eps**2
    return tf.where(far, towards, nearest)
