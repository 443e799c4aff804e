"""What an attack refuses, said clearly."""
from __future__ import annotations

import numpy as np

from kitlib.attacks.base import Attack
from kitlib.attacks.limits import is_8_bit
from kitlib.base.settings import KitError
from kitlib.models import pixels_to_logits
from kitlib.models.reading import looks_like_probabilities, outputs_for
from kitlib.models.wiring import LOGITS_NEEDED

ROUNDING = 1e-6     # beyond black and white, as of floats that a mean and std were taken off and put back to


def check_run(attack, batch_size, seed) -> None:
    """Raises KitError for what is no attack, such as settings that were never read, and for numbers of no use."""
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    if not isinstance(attack, Attack):
        raise KitError(f"an attack is what attacks.read makes of settings, not {attack!r:.80}")


def check_whole(name: str, number, least: int) -> None:
    """Raises KitError for what is no whole number, or too small."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise KitError(f"{name} must be a whole number, at least {least}, not {number!r}")


def as_array(images, where: str) -> np.ndarray:
    """Raises KitError for what is no array of numbers, such as images of several sizes."""
    try:
        array = np.asarray(images)
    except ValueError:
        raise KitError(f"{where}: the images are not all of one shape") from None
    if not array.ndim:
        raise KitError(f"{where}: images must be an array, N x H x W x C, not {type(images).__name__}")
    return array


def check_images(images: np.ndarray, where: str) -> np.ndarray:
    """`images` as float32, N x H x W x C with at least one image and values in [0, 1] (`in_the_box`).

    Raises KitError otherwise.
    """
    images = as_array(images, where)
    if images.ndim != 4:
        raise KitError(f"{where}: images must be N x H x W x C, but their shape is {images.shape}")
    if 0 in images.shape:
        raise KitError(f"{where}: there is no pixel in images of shape {images.shape}")
    if not np.issubdtype(images.dtype, np.floating):
        raise KitError(f"{where}: images must be floats in [0, 1], not {images.dtype}; divide by 255")
    if (boxed := in_the_box(images)) is None:
        raise KitError(f"{where}: pixels must lie in [0, 1], but they reach from {images.min():.7g} to "
                       f"{images.max():.7g}")
    return boxed


def in_the_box(images: np.ndarray) -> np.ndarray | None:
    """Floats as float32 in [0, 1], with what rounding has put beyond put back; None where they reach further."""
    low, high = images.min(), images.max()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        return None
    boxed = images if low >= 0 and high <= 1 else images.clip(0, 1)
    return boxed.astype(np.float32, copy=False)


def check_labels(labels, count: int, classes: int, targeted: bool, where: str) -> np.ndarray:
    """`labels` as int32 of shape (count,), each one of the model's `classes`. Raises KitError otherwise."""
    what = "targets" if targeted else "labels"
    if labels is None:
        purpose = "a targeted attack needs them" if targeted else "accuracy is judged against them"
        raise KitError(f"{where}: {what} are missing, and {purpose}")
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise KitError(f"{where}: {what} must have the shape ({count},), one an image, not {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise KitError(f"{where}: {what} must be integers, but they are {labels.dtype}")
    if labels.min() < 0 or labels.max() >= classes:
        raise KitError(f"{where}: {what} reach from {labels.min()} to {labels.max()}, but the model has "
                       f"{classes} classes (0 to {classes - 1})")
    return labels.astype(np.int32)


def check_mask(attack: Attack, mask, images: np.ndarray, first: int) -> np.ndarray | None:
    """The mask of these images, bool N x H x W, or None: `mask`, else the attack's own.

    images: those from number `first` on. Raises KitError for a mask that does not fit them, and for a rounded attack
    within an L2 distance of images that are not in whole n/255: what is nearest to them in 8 bits may lie outside.
    """
    if attack.round and getattr(attack, "norm", "") == "l2" and hasattr(attack, "eps") and not is_8_bit(images):
        raise KitError(f"{attack}: in L2, 'round' needs images in whole n/255: round them first")
    if mask is None:
        mask = None if attack.mask is None else attack.mask.mask(*images.shape[1:3])
    elif (mask := np.asarray(mask)).dtype != bool or mask.shape[-2:] != images.shape[1:3] or mask.ndim not in (2, 3):
        raise KitError(f"a mask must be bool, {images.shape[1]} x {images.shape[2]} or one such an image, not "
                       f"{mask.dtype} of shape {mask.shape}")
    if mask is None or mask.ndim == 2:
        return None if mask is None else np.broadcast_to(mask, images.shape[:3])
    if len(mask := mask[first : first + len(images)]) != len(images):
        raise KitError(f"there are masks for {first + len(mask)} images only, and there are more images")
    return mask


def check_model(model, images: np.ndarray, labels=None, input_range=None):
    """A model from `images` (pixels, of which a few are looked at) to logits, and its number of classes.

    labels, input_range: as for `models.pixels_to_logits`, which reads what the model takes and returns.
    Raises KitError when the model does not take such images, does not return one row of at least two
    numbers an image, or is code that returns probabilities (rows that sum to one).
    """
    if np.shape(labels) != (len(images),) or not np.issubdtype(np.asarray(labels).dtype, np.integer) or min(labels) < 0:
        labels = None       # `check_labels` will say why
    ready = pixels_to_logits(model, images, labels, input_range)
    logits = outputs_for(ready, images[:8])
    if logits.shape[1] < 2:
        raise KitError("the model is code that returns one number an image: it must return a logit for each class")
    if looks_like_probabilities(logits):
        raise KitError(f"the model's outputs are not negative and sum to one: probabilities; {LOGITS_NEEDED}")
    return ready, logits.shape[1]
