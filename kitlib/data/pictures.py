"""Picture files brought to one size: as Keras loads them, or as the papers prepare them."""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image

from kitlib.base import files
from kitlib.base.settings import KitError
from kitlib.data.decoding import HOW_TO_STATE, Unreadable, Window, decode, printable

Way = Literal["keras", "keras-crop", "keras-pad", "resize-and-crop"]
Interpolation = Literal["bilinear", "nearest", "bicubic", "area", "lanczos3", "lanczos5", "gaussian", "mitchellcubic"]
WAYS = get_args(Way)
THUMBNAIL = 64
CACHE_FORMAT = 5
DARKEST = 2**14         # 16 bits whose largest value lies below must say what is white: most likely 4095
KERAS_OPTIONS = {"keras": "", "keras-crop": ", crop_to_aspect_ratio=True", "keras-pad": ", pad_to_aspect_ratio=True"}


@dataclasses.dataclass(frozen=True)
class Loading:
    """How pictures are brought to a size.

    way: `keras`, `keras-crop`, `keras-pad` are keras.utils.image_dataset_from_directory with its defaults, with
    crop_to_aspect_ratio and with pad_to_aspect_ratio (its decoder; resized in floating point, not rounded; not turned
    as a camera says; transparency left out). `resize-and-crop` is torchvision's Resize(resize), CenterCrop(size) on
    the upright picture over black, bilinear with antialiasing, rounded to 8 bits.
    interpolation: of the ways of Keras, by its name there. resize: of `resize-and-crop`, to which the shorter side is
    resized, in pixels (None: the size). window: values shown as black and white, see `decoding.decode`.
    """

    way: Way = "keras"
    interpolation: Interpolation = "bilinear"
    resize: int | None = None
    window: Window | None = None

    def __post_init__(self):
        if self.resize is not None and self.way != "resize-and-crop":
            raise KitError(f"a shorter side to resize to goes with resize-and-crop, not with {self.way}")
        if self.interpolation != "bilinear" and self.way == "resize-and-crop":
            raise KitError(f"the interpolation {self.interpolation} goes with the ways of Keras, not with {self.way}, "
                           "which is bilinear")
        if self.way == "keras-crop" and self.interpolation in ("gaussian", "mitchellcubic"):
            raise KitError(f"the interpolation {self.interpolation} does not go with keras-crop, in Keras neither")
        if self.window and not self.window[0] < self.window[1]:
            raise KitError(f"a window goes from the value of black up to that of white, not from {self.window[0]:g} to "
                           f"{self.window[1]:g}")

    @property
    def upright(self) -> bool:
        return self.way == "resize-and-crop"

    def __str__(self) -> str:
        if self.way == "resize-and-crop":
            return "the shorter side resized" + (f" to {self.resize}" if self.resize else "") + ", the centre cut out"
        return f"as keras.utils.image_dataset_from_directory does ({self.interpolation}{KERAS_OPTIONS[self.way]})"


@dataclasses.dataclass(frozen=True)
class Form:
    """What every picture is brought to: height x width in pixels, with 1 (grey) or 3 channels, and how.

    Raises KitError for a size to which `resize-and-crop` cannot bring a picture.
    """

    height: int
    width: int
    channels: int
    loading: Loading = Loading()

    def __post_init__(self):
        if self.loading.way == "resize-and-crop" and (self.height != self.width or self.shorter_side < self.height):
            raise KitError(f"resize-and-crop gives square pictures no larger than the shorter side that is resized to, "
                           f"not {self.height} x {self.width}: keras-crop cuts out any size")

    @property
    def shorter_side(self) -> int:
        return self.loading.resize or self.height


def read_pictures(paths: list[Path], form: Form, cache: Path | None = None,
                  rounded: bool = True) -> dict[str, np.ndarray]:
    """Decode files to `images` (N x height x width x channels: uint8; or, not `rounded`, float32 pixels in [0, 1]),
    `thumbnails` (uint8, N x 64 x 64, grey, the whole picture), `digests` (sha256 of each file, hexadecimal) and
    `shapes` (text, width x height of each file).

    Not rounded, images loaded in a way of Keras are Keras's own divided by 255, but for values beyond black and white
    that some interpolations make, which are clipped. 16-bit grey is scaled to 8 bits by the window, or by 65,535.
    A decoded copy is kept in the folder `cache` where that can be written, named by the state of the files and `form`.
    Raises KitError that names the files which cannot be read, and why; for 16 bits that use so little of their range
    that a window must be stated; for a window that no picture needs.
    """
    refuse_beyond_memory(len(paths), form.height, form.width, form.channels, 1 if rounded else 4)
    kept = cache / f"{_state(paths, form, rounded)}.npz" if cache else None
    if kept and kept.exists():
        with contextlib.suppress(KitError):  # a damaged copy is made anew
            return files.read_arrays(kept)
    arrays = _read_all(paths, form, rounded)
    if kept:
        with contextlib.suppress(KitError):  # a folder that cannot be written only costs the time to decode again
            files.write_arrays(kept, **arrays)
    return arrays


def refuse_beyond_memory(count: int, height: int, width: int, channels: int, bytes_each: int = 1) -> None:
    """Raises KitError where so many images would fill more than half of the machine's memory."""
    needed, memory = count * height * width * channels * bytes_each, memory_of_machine()
    if needed > memory / 2:
        raise KitError(f"{count:,} images of {height} x {width} x {channels} need {needed / 2**30:.1f} GiB, more "
                       f"than half of this machine's {memory / 2**30:.1f}: choose a smaller size or fewer images")


def memory_of_machine() -> int:
    """In bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _state(paths, form: Form, rounded: bool) -> str:
    stats = [_stat(path) for path in paths]
    entries = [[printable(path), entry.st_size, entry.st_mtime_ns] for path, entry in zip(paths, stats, strict=True)
               if entry]
    key = [CACHE_FORMAT, dataclasses.astuple(form), rounded, len(paths), entries]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _stat(path):
    try:
        return path.stat()
    except OSError:
        return None


@dataclasses.dataclass(frozen=True)
class _Picture:
    """One picture in its form, and what is known of its file."""

    image: np.ndarray
    thumbnail: np.ndarray
    digest: str
    shape: str
    windowed: bool
    deepest: int | None


def _read_all(paths, form: Form, rounded: bool) -> dict[str, np.ndarray]:
    def read(path):
        try:
            return _read(path, form, rounded)
        except Unreadable as reason:
            return str(reason)
        except KitError:
            raise
        except Exception as error:  # decoders raise anything on damaged files
            return f"it is damaged or cut short ({' '.join(str(error).split())})"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of (size, odd metadata) is checked here or harmless
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = list(pool.map(read, paths))
    _refuse_unreadable(paths, found)
    _refuse_unknown_range(paths, found, form)
    return {"images": np.stack([each.image for each in found]),
            "thumbnails": np.stack([each.thumbnail for each in found]),
            "digests": np.array([each.digest for each in found]), "shapes": np.array([each.shape for each in found])}


def _refuse_unreadable(paths, found) -> None:
    bad = [(path, reason) for path, reason in zip(paths, found, strict=True) if isinstance(reason, str)]
    if bad:
        named = "; ".join(f"{printable(path)}: {reason}" for path, reason in bad[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise KitError(f"{len(bad)} of {len(paths)} images cannot be used: {named}{more}. "
                       "Repair, replace or remove them")


def _refuse_unknown_range(paths, found: list[_Picture], form: Form) -> None:
    deep = {path: each.deepest for path, each in zip(paths, found, strict=True) if each.deepest is not None}
    if deep and max(deep.values()) < DARKEST:
        raise KitError(f"{len(deep)} of {len(paths)} images ({printable(next(iter(deep)))}) have 16 bits, and their "
                       f"largest value is {max(deep.values())} of 65535: state which values are black and white "
                       f"{HOW_TO_STATE}, such as 0,4095 for 12 bits; 0,65535 leaves them as dark as Keras shows them")
    if form.loading.window and found and not any(each.windowed for each in found):
        raise KitError("none of the images is DICOM or has more than 8 bits: there is nothing to apply a window to")


def _read(path: Path, form: Form, rounded: bool) -> _Picture:
    decoded = decode(path, form.channels, form.loading.upright, form.loading.window)
    whole = _as_picture(decoded.pixels)
    image = _with_torchvision(whole, form) if form.loading.upright else _with_keras(decoded.pixels, form)
    image = np.asarray(image).reshape(form.height, form.width, form.channels)
    if rounded:
        image = np.rint(image).astype(np.uint8)
    else:
        image = image.astype(np.float32) / np.float32(255)
    thumbnail = np.asarray(whole.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return _Picture(image, thumbnail, decoded.sha256, f"{whole.width} x {whole.height}", decoded.windowed,
                    decoded.deepest)


def _as_picture(pixels: np.ndarray) -> Image.Image:
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _with_torchvision(picture: Image.Image, form: Form) -> Image.Image:
    """torchvision's Resize(form.shorter_side), CenterCrop((form.height, form.width))."""
    picture = picture.convert("L" if form.channels == 1 else "RGB")
    short = min(picture.size)
    width, height = (form.shorter_side if side == short else int(form.shorter_side * side / short)
                     for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - form.width) / 2), round((height - form.height) / 2)
    return picture.crop((left, top, left + form.width, top + form.height))


def _with_keras(pixels: np.ndarray, form: Form) -> np.ndarray:
    """Resized by the functions that keras.utils.image_dataset_from_directory calls; float32 in [0, 255].

    Not in a tf.function: its optimiser reorders the divisions of resize_with_pad, and a picture of 60 x 90 gets another
    border than Keras's.
    """
    import keras  # slow to import
    import tensorflow as tf

    size, method = (form.height, form.width), form.loading.interpolation
    pixels = tf.constant(_in_channels(pixels, form.channels))
    if form.loading.way == "keras-crop":
        resized = keras.preprocessing.image.smart_resize(pixels, size, method, data_format="channels_last")
    elif form.loading.way == "keras-pad":
        resized = tf.image.resize_with_pad(pixels, *size, method=method)
    else:
        resized = tf.image.resize(pixels, size, method=method)
    return np.clip(np.asarray(resized, np.float32), 0, 255)


def _in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """H x W x channels, of grey or coloured pixels."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] == channels:
        return pixels
    return np.repeat(pixels, 3, axis=-1) if channels == 3 else np.asarray(_as_picture(pixels).convert("L"))[..., None]


def fit(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Square uint8 images (N x H x H x C) at another size (bilinear) and with 1 or 3 channels."""
    if images.shape[1] != size:
        flat = [np.asarray(Image.fromarray(image.squeeze()).resize((size, size), Image.Resampling.BILINEAR))
                for image in images]
        images = np.stack(flat).reshape(len(images), size, size, images.shape[-1])
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]
