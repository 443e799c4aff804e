"""Picture files of all kinds, from people one need not trust, to arrays."""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kitlib.base import files
from kitlib.base.settings import KitError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_BYTES = 2**28
MAX_PIXELS = 2**26
MIN_SIDE = 4
MAX_RATIO = 16
THUMBNAIL = 64
CACHE_FORMAT = 3


class Unreadable(Exception):
    """Why one picture cannot be used; collected, so that all are named at once."""


def printable(name: str | Path) -> str:
    """A file name as it can be printed and stored: control characters and invalid bytes escaped."""
    text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def list_pictures(folder: Path) -> tuple[list[Path], int]:
    """Picture files directly in `folder`, in the order of the numbers in their names, and how many
    other files lie there. Hidden files do not count.

    Raises KitError for a folder that cannot be listed or that holds further folders.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
        inner = [entry for entry in entries if entry.is_dir()]
    except OSError as error:
        raise KitError(f"folder {printable(folder)} cannot be read ({error.strerror})") from None
    if inner:
        raise KitError(f"{printable(folder)} holds a folder '{printable(inner[0].name)}': "
                       "a class's images must lie directly in the folder of the class")
    pictures = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    return sorted(pictures, key=_number_order), len(entries) - len(pictures)


def inner_folders(place: Path) -> list[Path]:
    """Folders directly in `place` in alphabetical order, hidden ones left out; none where it is no folder.

    Raises KitError where it may not be read.
    """
    try:
        return sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except PermissionError:
        raise KitError(f"folder {printable(place)} cannot be read: you lack the permission") from None
    except OSError:
        return []


def _number_order(path: Path) -> list:
    """Sort key by which 'case (2)' comes before 'case (10)'."""
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"([0-9]+)", path.name) if piece]


@dataclasses.dataclass(frozen=True)
class Form:
    """What every picture is brought to: height x width in pixels, with 1 (grey) or 3 channels.

    shorter_side: to which the shorter side is resized before the centre is cut out, as torchvision's
    Resize(shorter_side), CenterCrop((height, width)) do, bilinear with antialiasing. None resizes the whole picture to
    height x width, whatever its proportions, as Keras's image_dataset_from_directory does, bilinear without.
    upright: turn a picture as its camera says, and lay transparent ones over black. Where False, colours stand as if
    nothing were transparent and nothing is turned, which is what Keras does.
    """

    height: int
    width: int
    channels: int
    shorter_side: int | None
    upright: bool = True


def read_pictures(paths: list[Path], form: Form, cache: Path | None) -> dict[str, np.ndarray]:
    """Decode files to `images` (uint8, N x height x width x channels), `thumbnails` (uint8, N x 64 x 64, grey,
    the whole picture), `digests` (sha256 of each file, hexadecimal) and `shapes` (text, width x height of each file).

    Sixteen-bit grey is scaled to eight. A decoded copy is kept in the folder `cache` where that can be written, named
    by the state of the files and `form`.
    Raises KitError that names the files which cannot be read, and why.
    """
    refuse_beyond_memory(len(paths), form.height, form.width, form.channels)
    kept = cache / f"{_state(paths, form)}.npz" if cache else None
    if kept and kept.exists():
        with contextlib.suppress(KitError):  # a damaged copy is made anew
            return files.read_arrays(kept)
    arrays = _decode_all(paths, form)
    if kept:
        with contextlib.suppress(KitError):  # a folder that cannot be written only costs the time to decode again
            files.write_arrays(kept, **arrays)
    return arrays


def refuse_beyond_memory(count: int, height: int, width: int, channels: int) -> None:
    """Raises KitError where so many images as uint8 would fill more than half of the machine's memory."""
    needed, memory = count * height * width * channels, memory_of_machine()
    if needed > memory / 2:
        raise KitError(f"{count:,} images of {height} x {width} x {channels} need {needed / 2**30:.1f} GiB, more "
                       f"than half of this machine's {memory / 2**30:.1f}: choose a smaller size or fewer images")


def memory_of_machine() -> int:
    """In bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _state(paths, form: Form) -> str:
    stats = [_stat(path) for path in paths]
    entries = [[printable(path), entry.st_size, entry.st_mtime_ns] for path, entry in zip(paths, stats, strict=True)
               if entry]
    key = [CACHE_FORMAT, dataclasses.astuple(form), len(paths), entries]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _stat(path):
    try:
        return path.stat()
    except OSError:
        return None


def _decode_all(paths, form: Form):
    def decode(path):
        try:
            return _decode(path, form)
        except Unreadable as reason:
            return str(reason)
        except Exception as error:  # decoders raise anything on damaged files
            return f"it is damaged or cut short ({error})"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of (size, odd metadata) is checked here or harmless
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            decoded = list(pool.map(decode, paths))
    _refuse_unreadable(paths, decoded)
    images, thumbnails, digests, shapes = zip(*decoded, strict=True)
    return {"images": np.stack(images), "thumbnails": np.stack(thumbnails), "digests": np.array(digests),
            "shapes": np.array(shapes)}


def _refuse_unreadable(paths, decoded):
    bad = [(path, reason) for path, reason in zip(paths, decoded, strict=True) if isinstance(reason, str)]
    if bad:
        named = "; ".join(f"{printable(path)}: {reason}" for path, reason in bad[:5])
        more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise KitError(f"{len(bad)} of {len(paths)} images cannot be used: {named}{more}. "
                       "Repair, replace or remove them")


def _decode(path, form: Form):
    data = _bytes_of(path)
    opened = _open(data)
    picture = _eight_bits(ImageOps.exif_transpose(opened) if form.upright else opened, opened.format, form.upright)
    grey = picture.convert("L")
    image = np.asarray(_brought_to(form, grey if form.channels == 1 else picture.convert("RGB")))
    thumbnail = np.asarray(grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    shape = f"{picture.width} x {picture.height}"
    return image.reshape(form.height, form.width, form.channels), thumbnail, hashlib.sha256(data).hexdigest(), shape


def _bytes_of(path: Path) -> bytes:
    try:
        entry = path.stat()
        if not stat.S_ISREG(entry.st_mode):
            raise Unreadable("it is no regular file")
        if entry.st_size == 0:
            raise Unreadable("the file is empty")
        if entry.st_size > MAX_BYTES:
            raise Unreadable(f"the file has {entry.st_size / 2**20:.0f} MiB, more than {MAX_BYTES // 2**20}")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"it cannot be opened ({error.strerror})") from None


def _open(data: bytes) -> Image.Image:
    """The picture, not yet decoded; refuses what would be too large then."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise Unreadable(f"it has more than {MAX_PIXELS} pixels (a decompression bomb?)") from None
    except UnidentifiedImageError:
        raise Unreadable(f"it is none of {', '.join(FORMATS)}, or its head is damaged") from None
    _refuse_odd_shapes(picture)
    return picture


def _refuse_odd_shapes(picture):
    short, long = sorted(picture.size)
    if short * long > MAX_PIXELS:
        raise Unreadable(f"it has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS} in all")
    if short < MIN_SIDE or long > MAX_RATIO * short:
        raise Unreadable(f"{picture.width} x {picture.height} pixels are too small or too narrow for a picture")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # an MPO is a camera's JPEG with a preview behind it
        raise Unreadable(f"it holds {frames} frames: save each as a file of its own")


def _eight_bits(picture: Image.Image, format: str, over_black: bool) -> Image.Image:
    """Grey or RGB with 8 bits; transparency laid over black, or left out. Pillow has room for 32 bits (mode I) where a
    PNG or PGM file has 16, and scales a PGM's to the whole of these."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(picture).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise Unreadable(f"its pixels are 32-bit numbers (mode {picture.mode}) of unknown range: save it with 8 bits")
    if over_black and ("A" in picture.getbands() or "transparency" in picture.info):
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode in ("1", "LA") else "RGB")


def _brought_to(form: Form, picture: Image.Image) -> Image.Image:
    if form.shorter_side is None:
        return _as_keras_does(form, picture)
    width, height = picture.size
    short = min(width, height)
    to = tuple(form.shorter_side if side == short else int(form.shorter_side * side / short)
               for side in (width, height))
    picture = picture.resize(to, Image.Resampling.BILINEAR)
    left, top = (round((side - wanted) / 2) for side, wanted in zip(to, (form.width, form.height), strict=True))
    return picture.crop((left, top, left + form.width, top + form.height))


def _as_keras_does(form: Form, picture: Image.Image) -> Image.Image:
    import tensorflow as tf  # slow to import

    pixels = np.atleast_3d(np.asarray(picture))
    resized = tf.image.resize(pixels, (form.height, form.width), method="bilinear", antialias=False).numpy()
    pixels = np.rint(resized).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if form.channels == 1 else pixels)


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
