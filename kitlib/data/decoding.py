"""One picture file of any kind, from people one need not trust, to pixels."""
from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kitlib.base.settings import KitError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
KERAS_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF")     # an MPO is a camera's JPEG with a preview behind it
MAX_BYTES = 2**28
MAX_PIXELS = 2**26
MIN_SIDE = 4
MAX_RATIO = 16
ORIENTATION = 0x0112        # what a camera says of how it was held
PNG_DEPTH = 24              # the byte that says of how many bits a colour is
DICOM_HEAD = 132            # bytes, of which the last four are "DICM"
HOW_TO_STATE = "with --intensity LOW,HIGH (in an experiment: data: {window: [LOW, HIGH]})"

Window = tuple[float, float]


class Unreadable(Exception):
    """Why one picture cannot be used; collected, so that all are named at once."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """pixels: H x W (grey) or H x W x C, from 0 to 255, uint8, or float32 where a window was applied.
    windowed: whether a window that the caller stated was applied. deepest: the largest value of 16 bits that were
    shown in their whole range, as nobody stated another; else None. sha256: of the file, hexadecimal."""

    pixels: np.ndarray
    windowed: bool
    deepest: int | None
    sha256: str


def printable(name: str | Path) -> str:
    """A file name as it can be printed and stored: control characters and invalid bytes escaped."""
    text = os.fsencode(str(name)).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def decode(path: Path, channels: int, upright: bool, window: Window | None = None) -> Decoded:
    """Decode a file.

    channels: that are wanted, 1 or 3 (what comes may still have others). upright: turn a picture as its camera says,
    and lay transparent ones over black; where False, decode as Keras does (TensorFlow's decoder for what it can read,
    no turning, colours as if nothing were transparent, the first frame of an animation). window: the values that are
    shown as black and white, for DICOM (after its rescale) and pictures of more than 8 bits.
    Raises Unreadable; KitError where pydicom is missing; whatever a decoder raises on damaged files.
    """
    data = _bytes_of(path)
    digest = hashlib.sha256(data).hexdigest()
    if _is_dicom(data):
        return Decoded(_from_dicom(data, window), window is not None, None, digest)
    picture = _open(data)
    as_keras = not upright and picture.format in KERAS_FORMATS
    if not as_keras:
        _refuse_frames(picture)
    deep = _sixteen_bits(picture, data, upright)
    if window and (deep is not None or picture.mode in ("I", "F")):
        values = np.asarray(picture if deep is None else deep, np.float32)
        return Decoded(windowed(values, window), True, None, digest)
    pixels = _with_tensorflow(data, channels) if as_keras else None
    if pixels is None and deep is not None and deep.ndim == 2:
        pixels = ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels is None:
        turned = ImageOps.exif_transpose(picture) if upright else picture
        pixels = np.asarray(_eight_bits(turned, over_black=upright))
    return Decoded(pixels, False, None if deep is None else int(deep.max()), digest)


def size_of(path: Path, upright: bool) -> tuple[int, int] | None:
    """Height and width of a picture as it is stored, or `upright` as it is to be seen; None where it does not tell
    (reading it will say why)."""
    try:
        if is_dicom_file(path):
            head = _pydicom().dcmread(path, stop_before_pixels=True)
            return int(head.Rows), int(head.Columns)
        with Image.open(path) as picture:
            turned = upright and picture.getexif().get(ORIENTATION, 1) >= 5
            return picture.size if turned else picture.size[::-1]
    except (OSError, ValueError, AttributeError, Image.DecompressionBombError):
        return None


def is_dicom_file(path: Path) -> bool:
    """Whether a regular file is marked as DICOM, whatever its name."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with open(path, "rb") as file:
            return _is_dicom(file.read(DICOM_HEAD))
    except OSError:
        return False


def windowed(values: np.ndarray, window: Window) -> np.ndarray:
    """`low` and what is below it as 0, `high` and what is above it as 255, linear between, as float32."""
    low, high = window
    if not np.isfinite(values).all():
        raise Unreadable("it holds values that are no finite numbers")
    return np.clip((values - low) * (255 / max(high - low, 1e-6)), 0, 255).astype(np.float32)


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
        raise Unreadable(f"it is none of {', '.join(FORMATS)} and DICOM, or its head is damaged") from None
    _refuse_odd_shapes(picture.width, picture.height)
    return picture


def _refuse_odd_shapes(width: int, height: int) -> None:
    short, long = sorted((width, height))
    if short * long > MAX_PIXELS:
        raise Unreadable(f"it has {width} x {height} pixels, more than {MAX_PIXELS} in all")
    if short < MIN_SIDE or long > MAX_RATIO * short:
        raise Unreadable(f"{width} x {height} pixels are too small or too narrow for a picture")


def _refuse_frames(picture) -> None:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise Unreadable(f"it holds {frames} frames: save each as a file of its own")


def _sixteen_bits(picture: Image.Image, data: bytes, upright: bool) -> np.ndarray | None:
    """The values of 16-bit grey, and of a PNG of 16 bits a colour, or of grey with transparency, which is left out;
    else None.

    Pillow has room for 32 bits (mode I) where a PNG or PGM file has 16, and scales a PGM's to the whole of these; of
    colours it keeps the upper 8 bits alone.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return np.asarray(ImageOps.exif_transpose(picture) if upright else picture)
    if picture.format != "PNG" or picture.mode not in ("RGB", "RGBA", "LA") or data[PNG_DEPTH] != 16:
        return None
    import tensorflow as tf  # slow to import

    return tf.io.decode_png(data, channels=1 if picture.mode == "LA" else 3, dtype=tf.uint16).numpy()


def _eight_bits(picture: Image.Image, over_black: bool) -> Image.Image:
    """Grey or RGB with 8 bits; transparency laid over black, or left out."""
    if picture.mode in ("I", "F"):
        raise Unreadable(f"its pixels are 32-bit numbers (mode {picture.mode}) of unknown range: save it with 8 bits, "
                         f"or state which values are black and white {HOW_TO_STATE}")
    if over_black and ("A" in picture.getbands() or "transparency" in picture.info):
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode in ("1", "LA") else "RGB")


def _with_tensorflow(data: bytes, channels: int) -> np.ndarray | None:
    """Decoded as `keras.utils.image_dataset_from_directory` does, uint8; None where TensorFlow cannot."""
    import tensorflow as tf  # slow to import

    try:
        return tf.io.decode_image(data, channels=channels, expand_animations=False).numpy()
    except tf.errors.InvalidArgumentError:
        return None


# --- DICOM

def _is_dicom(data: bytes) -> bool:
    return data[DICOM_HEAD - 4:DICOM_HEAD] == b"DICM"


def _pydicom():
    try:
        import pydicom
    except ImportError:
        raise KitError("pictures in DICOM need pydicom: pip install 'kitlib[dicom]', or pip install pydicom") from None
    return pydicom


def _from_dicom(data: bytes, window: Window | None) -> np.ndarray:
    """Float32 grey, or uint8 RGB. Grey goes through the rescale (slope and intercept, or table) of the file, then
    through `window` or the file's own; MONOCHROME1 is inverted (DICOM PS3.3, C.7.6.3.1.2 and C.11)."""
    pydicom = _pydicom()
    found = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in found:
        raise Unreadable("it is DICOM without a picture")
    _refuse_odd_shapes(int(found.Columns), int(found.Rows))
    if int(found.get("NumberOfFrames") or 1) > 1:
        raise Unreadable(f"it holds {found.NumberOfFrames} frames: save each as a file of its own")
    if ("RescaleSlope" in found) != ("RescaleIntercept" in found):
        raise Unreadable("it states half of a rescale: a slope without an intercept, or an intercept without a slope")
    syntax = found.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and not pydicom.pixels.get_decoder(syntax).is_available:
        raise Unreadable(f"it is compressed as {syntax.name}, which pydicom cannot read alone: pip install "
                         "'pylibjpeg[all]'")
    values, kind = found.pixel_array, found.PhotometricInterpretation
    if values.ndim == 3 and values.dtype == np.uint8:
        return values
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable(f"its pixels are {kind} of {found.BitsStored} bits; grey or 8-bit RGB is read")
    values = np.asarray(pydicom.pixels.apply_modality_lut(values, found), np.float32)
    pixels = windowed(values, window or _own_window(found))
    return 255 - pixels if kind == "MONOCHROME1" else pixels


def _own_window(found) -> Window:
    """The values that the file itself shows as black and white: its first window, or the whole range of 8 bits.

    The two linear functions are those of DICOM PS3.3, C.11.2.1.2.1 and C.11.2.1.3.2.
    """
    centre, width = (_first(found.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = found.get("VOILUTFunction") or "LINEAR"
    if centre is None or not width or width < 0 or function not in ("LINEAR", "LINEAR_EXACT"):
        stored_as_seen = not any(name in found for name in ("RescaleSlope", "ModalityLUTSequence", "VOILUTSequence"))
        if found.BitsStored <= 8 and stored_as_seen and not found.PixelRepresentation:
            return 0.0, float(2**found.BitsStored - 1)
        raise Unreadable(f"it is DICOM of {found.BitsStored} bits without a linear window of its own: state which "
                         f"values are black and white {HOW_TO_STATE}")
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return centre - width / 2, centre + width / 2


def _first(value) -> float | None:
    """Of a DICOM value that may be missing, or several."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else next(iter(value), 0))
