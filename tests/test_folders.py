"""Folders of pictures of many kinds: each gives known pixels and a known accuracy, or one clear error."""
import io
import struct
import sys
import unicodedata
import zlib
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from kitlib.audit import judged_data
from kitlib.audit.judged_data import DataRequest
from kitlib.base.settings import KitError
from kitlib.data import DataSettings, folders, load
from kitlib.data.pictures import Form, Loading, read_pictures
from kitlib.models import predict_logits

LEVELS = {"dark": 50, "light": 200}     # of the pictures of the two classes
SIDE = 16


# Makers of one file each, of one grey level

def grey(level, dtype=np.uint8, scale=1):
    return Image.fromarray(np.full((SIDE, SIDE), level * scale, dtype))


def saved(path, picture, **options):
    picture.save(path, **options)


def simple(mode, suffix, **options):
    return lambda path, level: saved(path.with_suffix(suffix), grey(level).convert(mode), **options)


def transparent(path, level):
    picture = grey(level).convert("RGBA")
    picture.putalpha(100)
    saved(path.with_suffix(".png"), picture)


def palette(path, level):
    saved(path.with_suffix(".png"), grey(level).convert("RGB").quantize(4))


def deep(suffix, scale=257):
    return lambda path, level: saved(path.with_suffix(suffix), grey(level, np.uint16, scale))


def twelve_bit_pgm(path, level):
    pixels = np.full(SIDE * SIDE, round(level / 255 * 4095), ">u2").tobytes()
    path.with_suffix(".pgm").write_bytes(b"P5 16 16 4095\n" + pixels)


def animation(path, level):
    saved(path.with_suffix(".gif"), grey(level), save_all=True, append_images=[grey(255 - level)])


def pages(dtype=np.uint8):
    def make(path, level):
        saved(path.with_suffix(".tif"), grey(level, dtype), save_all=True, append_images=[grey(255 - level, dtype)])
    return make


def png_called(name):
    def make(path, level):
        picture = io.BytesIO()
        grey(level).save(picture, "PNG")
        path.with_suffix(name).write_bytes(picture.getvalue())
    return make


def hounsfield(path, level):
    """Floats from -1000 to 400."""
    saved(path.with_suffix(".tif"), Image.fromarray(np.full((SIDE, SIDE), level / 255 * 1400 - 1000, np.float32)))


def not_finite(path, level):
    saved(path.with_suffix(".tif"), Image.fromarray(np.full((SIDE, SIDE), np.nan, np.float32)))


def dicom(name="{}.dcm", value=lambda level: level, bits=16, kind="MONOCHROME2", pixels=True, lossless=False, **tags):
    """A DICOM file; `value` is what is stored for a grey level."""
    def make(path, level):
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.encaps import encapsulate
        from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, SecondaryCaptureImageStorage, generate_uid

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = JPEGLosslessSV1 if lossless else ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.Rows = file.Columns = SIDE
        file.SamplesPerPixel, file.PhotometricInterpretation = (3 if kind == "RGB" else 1), kind
        file.BitsAllocated, file.BitsStored, file.HighBit = (8 if bits == 8 else 16), bits, bits - 1
        file.PixelRepresentation, file.PlanarConfiguration = 0, 0
        for tag, content in tags.items():
            setattr(file, tag, content)
        if pixels:
            count = SIDE * SIDE * file.SamplesPerPixel * int(tags.get("NumberOfFrames", 1))
            file.PixelData = np.full(count, value(level), np.uint8 if bits == 8 else np.uint16).tobytes()
        if lossless:
            file.PixelData = encapsulate([file.PixelData])
            file["PixelData"].is_undefined_length = True
        file.save_as(path.with_name(name.format(path.name)), enforce_file_format=True)
    return make


def stored(level):
    """12 bits that mean -1024 to 3071 after the rescale below; the window -200 +- 750 shows them as the level."""
    return round(-950 + level / 255 * 1499 + 1024)


def deep_colours(scale=257, bands=3):
    """PNG of 16 bits a colour (bands 3, with transparency 4) or of grey with transparency (2), which Pillow cannot
    write."""
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    def make(path, level):
        pixels = np.full((SIDE, SIDE, bands), level * scale, ">u2")
        head = struct.pack(">IIBBBBB", SIDE, SIDE, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
        rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
        path.with_suffix(".png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows)
                                             + chunk(b"IEND", b""))
    return make


LUNG = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [-200, 40], "WindowWidth": [1500, 400]}


# Makers of a whole folder from a maker of files

def classes(home, make, names=("dark", "light"), count=3):
    for name, level in zip(names, LEVELS.values(), strict=True):
        (home / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            make(home / name / f"{number}", level)


def of(make):
    return lambda home: classes(home, make)


png = simple("L", ".png")


def parts(train="train", test="test", test_names=("dark", "light"), make=png):
    def folder(home):
        classes(home / train, make, count=4)
        classes(home / test, make, names=test_names)
    return folder


def patients(home):
    for number in range(3):
        for name, level in LEVELS.items():
            (home / name / f"patient {number}").mkdir(parents=True)
            png(home / name / f"patient {number}" / f"{name} {number}", level)


def patients_in_parts(home):
    for part in ("train", "val"):
        patients(home / part)


def series_of_patients(home):
    patients(home / "whole")
    for name in LEVELS:
        (home / name / "p1" / "series").mkdir(parents=True)
        (home / "whole" / name).rename(home / name / "p1" / "series" / name)
    (home / "whole").rmdir()


def loops(home):
    classes(home, png)
    (home / "dark" / "loop").symlink_to(home)
    (home / "dark" / "empty").mkdir()


def with_others(home):
    classes(home, png)
    for name in ("notes.txt", "a.doc", "b.doc", ".hidden.png", "Thumbs.db"):
        (home / "dark" / name).write_text("no picture")
    (home / "labels.csv").write_text("")
    (home / ".cache").mkdir()


def accents(home):
    parts(test_names=("dark", "light"))(home)
    for part, form in (("train", "NFD"), ("test", "NFC")):
        (home / part / "dark").rename(home / part / unicodedata.normalize(form, "bénin"))


def accents_twice(home):
    classes(home, png, names=[unicodedata.normalize(form, "bénin") for form in ("NFC", "NFD")])


def loose(home):
    home.mkdir()
    png(home / "1", 50)


def one_part_beside_classes(home):
    patients(home)
    (home / "dark").rename(home / "test")


def parts_within_classes(home):
    for part in ("train", "test"):
        classes(home, lambda path, level, part=part: (path.parent / part).mkdir(exist_ok=True)
                or png(path.parent / part / path.name, level))


def torn(home):
    classes(home, dicom(bits=8))
    file = home / "dark" / "0.dcm"
    file.write_bytes(file.read_bytes()[:-100])


# What gives the levels of its two classes, in the order dark, light; with the way to load it.
GOOD = {
    "grey PNG": (of(png), {}),
    "RGB PNG": (of(simple("RGB", ".png")), {}),
    "grey PNG with transparency": (of(simple("LA", ".png")), {}),
    "transparent PNG": (of(transparent), {}),
    "palette PNG": (of(palette), {}),
    "16-bit PNG": (of(deep(".png")), {}),
    "capital extension": (of(simple("L", ".PNG")), {}),
    "PNG called .jpg": (of(png_called(".jpg")), {}),
    "grey JPEG": (of(simple("L", ".jpg")), {}),
    "RGB JPEG": (of(simple("RGB", ".jpeg")), {}),
    "CMYK JPEG": (of(simple("CMYK", ".jpg")), {}),
    ".jfif": (of(simple("RGB", ".jfif")), {}),
    ".jpe": (of(simple("L", ".jpe")), {}),
    "grey BMP": (of(simple("L", ".bmp")), {}),
    "RGB BMP": (of(simple("RGB", ".bmp")), {}),
    "GIF": (of(simple("L", ".gif")), {}),
    "first frame of a GIF": (of(animation), {}),
    "TIFF": (of(simple("L", ".tif")), {}),
    "16-bit TIFF": (of(deep(".tiff")), {}),
    "WebP": (of(simple("RGB", ".webp", lossless=True)), {}),
    "PPM": (of(simple("RGB", ".ppm")), {}),
    "PGM": (of(simple("L", ".pgm")), {}),
    "PGM of 12 bits, which says so": (of(twelve_bit_pgm), {}),
    "12 bits in 16": (of(deep(".png", scale=16)), {"window": (0, 255 * 16)}),
    "12 bits in 16, cropped": (of(deep(".png", scale=16)), {"way": "resize-and-crop", "window": (0, 255 * 16)}),
    "16 bits a colour": (of(deep_colours()), {}),
    "12 bits in 16 a colour": (of(deep_colours(16)), {"window": (0, 255 * 16)}),
    "12 bits in 16, grey with transparency": (of(deep_colours(16, 2)), {"window": (0, 255 * 16)}),
    "12 bits in 16 a colour, cropped": (of(deep_colours(16, 4)), {"way": "resize-and-crop", "window": (0, 255 * 16)}),
    "Hounsfield units in floats": (of(hounsfield), {"window": (-1000, 400)}),
    "DICOM with a window": (of(dicom(value=stored, bits=12, **LUNG)), {}),
    "DICOM of 8 bits": (of(dicom(bits=8)), {}),
    "DICOM, inverted": (of(dicom(value=lambda level: stored(255 - level), bits=12, kind="MONOCHROME1", **LUNG)), {}),
    "DICOM, another window": (of(dicom(value=lambda level: level * 10, bits=12, **LUNG)), {"window": (-1024, 1526)}),
    "DICOM, exact window": (of(dicom(bits=12, value=lambda level: level * 10, WindowCenter=1275, WindowWidth=2550,
                                     VOILUTFunction="LINEAR_EXACT")), {}),
    "DICOM without extension": (of(dicom("IM{}", bits=8)), {}),
    "DICOM named by its number": (of(dicom("1.2.840.{}", bits=8)), {}),
    "RGB DICOM": (of(dicom(bits=8, kind="RGB")), {}),
    "DICOM, cropped": (of(dicom("{}.dicom", value=stored, bits=12, **LUNG)), {"way": "resize-and-crop"}),
    "parts": (parts(), {}),
    "parts of other names": (parts("Training", "VAL"), {}),
    "classes called like parts": (lambda home: classes(home, png, names=("car", "train")), {}),
    "patients": (patients, {}),
    "patients in parts": (patients_in_parts, {}),
    "patients' series": (series_of_patients, {}),
    "links to folders, empty folders": (loops, {}),
    "other files": (with_others, {}),
    "composed and decomposed names": (accents, {}),
}

BAD = {
    "12 bits in 16, unstated": (of(deep(".png", scale=16)), {}, "largest value is 3200 of 65535: state .*0,4095"),
    "12 bits in 16 a colour, unstated": (of(deep_colours(16)), {}, "6 images .* have 16 bits, .* 3200 of 65535: state"),
    "floats without end": (of(not_finite), {"window": (0, 1)}, "0.tif: it holds values that are no finite numbers"),
    "floats, unstated": (of(hounsfield), {}, "32-bit numbers .* or state which values .*--intensity LOW,HIGH"),
    "a window for 8 bits": (of(png), {"window": (0, 4095)}, "nothing to apply a window to"),
    "pages": (of(pages()), {}, "0.tif: it holds 2 frames"),
    "pages of 16 bits": (of(pages(np.uint16)), {"window": (0, 255)}, "0.tif: it holds 2 frames"),
    "pages of floats": (of(pages(np.float32)), {"window": (0, 255)}, "0.tif: it holds 2 frames"),
    "DICOM without a window": (of(dicom(bits=12)), {}, "DICOM of 12 bits without a linear window.*--intensity"),
    "DICOM with a curve": (of(dicom(bits=12, VOILUTFunction="SIGMOID", WindowCenter=9, WindowWidth=9)), {},
                           "without a linear window"),
    "DICOM with a window of no width": (of(dicom(bits=12, WindowCenter=9, WindowWidth=0)), {},
                                        "without a linear window"),
    "DICOM of signed 8 bits": (of(dicom(bits=8, PixelRepresentation=1)), {}, "of 8 bits without a linear window"),
    "DICOM with half a rescale": (of(dicom(bits=12, RescaleIntercept=-1000, WindowCenter=9, WindowWidth=9)), {},
                                  "0.dcm: it states half of a rescale"),
    "DICOM of an unknown compression": (of(dicom(bits=12, lossless=True)), {},
                                        "compressed as JPEG Lossless.*pylibjpeg"),
    "DICOM of several frames": (of(dicom(bits=8, NumberOfFrames=2)), {}, "0.dcm: it holds 2 frames"),
    "DICOM without a picture": (of(dicom(pixels=False)), {}, "0.dcm: it is DICOM without a picture"),
    "DICOM cut short": (torn, {}, "1 of 6 images cannot be used: .*0.dcm: it is damaged or cut short"),
    "DICOM in palette colours": (of(dicom(bits=8, kind="PALETTE COLOR")), {}, "its pixels are PALETTE COLOR"),
    "other classes in test": (parts(test_names=("dark", "bright")), {},
                              r"the test part has classes that the train part has not \(bright\), and lacks light"),
    "a name in two forms": (accents_twice, {}, "two folders called 'bénin'"),
    "a class called like a part, with patients": (one_part_beside_classes, {},
                                                  r"mixes test with other folders \(light\)"),
    "a class called test": (lambda home: classes(home, png, names=("car", "test")), {},
                            "mixes test with other folders"),
    "training pictures without classes": (lambda home: classes(home, png, names=("test1", "train")), {},
                                          r"mixes train with other folders \(test1\)"),
    "parts without classes": (lambda home: classes(home, png, names=("test", "train")), {}, "no folders of classes"),
    "no folders of classes": (loose, {}, "no folders of classes, but 1 files"),
    "parts within classes": (parts_within_classes, {}, "dark holds test, train: parts come before classes"),
    "files of other kinds alone": (of(lambda path, level: path.with_suffix(".nii").touch()), {},
                                   r"no pictures in its folders of classes \(not read: 6 .nii\)"),
}


def by_brightness():
    """A model that calls what is brighter than half the range class 1."""
    model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), layers.GlobalAveragePooling2D(), layers.Dense(2)])
    model.set_weights([np.array([[-1, 1]] * 3, np.float32), np.array([3, 0], np.float32)])
    return model


@pytest.fixture(scope="module")
def bright():
    return by_brightness()


def judged(home, channels=3, **loading):
    return judged_data.read(str(home), DataRequest((SIDE, SIDE, channels), 2, loading=Loading(**loading)))


@pytest.mark.parametrize("case", GOOD)
def test_a_folder_gives_its_known_pixels_and_accuracy(case, tmp_path, bright):
    make, loading = GOOD[case]
    make(tmp_path / "home")
    for channels in (3, 1):
        found = judged(tmp_path / "home", channels, **loading)
        expected = np.array(list(LEVELS.values()))[found.labels] / 255
        assert found.images.dtype == np.float32 and len(found.images) in (6, 8)
        np.testing.assert_allclose(found.images.mean((1, 2, 3)), expected, atol=1.6 / 255)
        assert np.abs(found.images - expected[:, None, None, None]).max() <= 2.6 / 255
    right = predict_logits(bright, judged(tmp_path / "home", **loading).images).argmax(1) == found.labels
    assert right.mean() == 1 and np.bincount(found.labels).tolist() in ([3, 3], [4, 4])


@pytest.mark.parametrize("case", BAD)
def test_or_one_clear_error(case, tmp_path):
    make, loading, words = BAD[case]
    make(tmp_path / "home")
    with pytest.raises(KitError, match=words) as error:
        judged(tmp_path / "home", **loading)
    assert "\n" not in str(error.value) and str(tmp_path / "home") in str(error.value) or "window" in case


def test_mislabelled_pictures_are_wrong(tmp_path, bright):
    classes(tmp_path / "home", png, names=("z", "a"))
    found = judged(tmp_path / "home")
    assert (predict_logits(bright, found.images).argmax(1) == found.labels).mean() == 0


def test_pydicom_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    classes(tmp_path / "home", dicom(bits=8))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(KitError, match="^pictures in DICOM need pydicom: pip install"):
        judged(tmp_path / "home")


# As Keras

def draw_all_kinds(home):
    """Pictures of all modes and odd sizes in every format that Keras reads, in two classes."""
    draw = np.random.default_rng(0)

    def smooth(height, width, *channels):
        """Noise with structure, so that decoders of JPEG differ."""
        small = draw.integers(0, 256, (height // 3, width // 3, *channels), np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)

    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = [(smooth(40, 61), "grey.png"), (smooth(40, 61, 3), "rgb.png"), (smooth(31, 30, 4), "rgba.png"),
             (smooth(30, 30, 3).convert("P"), "palette.png"), (smooth(50, 20, 2), "la.png"),
             (Image.fromarray(draw.integers(0, 65536, (33, 47), np.uint16)), "deep.png"),
             (smooth(30, 44).convert("1"), "one.png"), (smooth(60, 90, 3), "rgb.jpg"), (smooth(63, 45), "grey.jpeg"),
             (smooth(20, 20, 3), "own.JPG")]
    coloured = [(smooth(36, 51, 3).convert("CMYK"), "cmyk.jpg"),
                (smooth(33, 45), "grey.bmp"), (smooth(33, 46, 3), "rgb.bmp"), (smooth(21, 44, 3), "rgb.gif"),
                (smooth(30, 44, 3).convert("P"), "palette.bmp")]
    for name in ("any", "colour"):
        for picture, file in kinds if name == "any" else coloured:
            (home / name / "one").mkdir(parents=True, exist_ok=True)
            picture.save(home / name / "one" / file)
    smooth(40, 60, 3).save(home / "any" / "one" / "turned.jpg", exif=exif)
    smooth(40, 60).save(home / "any" / "one" / "animated.png", save_all=True, append_images=[smooth(40, 60)])


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    home = tmp_path_factory.mktemp("kinds")
    draw_all_kinds(home)
    return home


CROP, PAD = ("keras-crop", "crop_to_aspect_ratio"), ("keras-pad", "pad_to_aspect_ratio")


@pytest.mark.parametrize(("way", "option", "interpolation", "channels"), [
    ("keras", None, "bilinear", 3), ("keras", None, "bilinear", 1), (*CROP, "bilinear", 3), (*PAD, "bilinear", 3),
    ("keras", None, "nearest", 3), (*CROP, "bicubic", 1), (*PAD, "area", 1), ("keras", None, "lanczos3", 3)])
def test_pixels_are_those_of_image_dataset_from_directory(all_kinds, way, option, interpolation, channels):
    home = all_kinds / "any" if channels == 1 else all_kinds      # Keras reads BMP, GIF and CMYK in colour only
    keras_own = keras.utils.image_dataset_from_directory(
        home, image_size=(20, 28), shuffle=False, verbose=False, interpolation=interpolation,
        color_mode="rgb" if channels == 3 else "grayscale", **({option: True} if option else {}))
    paths = [Path(path) for path in keras_own.file_paths]
    expected = np.clip(np.concatenate([images for images, _ in keras_own]), 0, 255) / 255
    form = Form(20, 28, channels, Loading(way, interpolation))
    np.testing.assert_allclose(read_pictures(paths, form, rounded=False)["images"], expected, atol=1e-6)
    assert np.abs(read_pictures(paths, form)["images"] - 255 * expected).max() <= 0.5001


def test_classes_have_the_numbers_that_keras_gives(tmp_path):
    names = ["b", "B", "a10", "a2", "_x", "é", "e\u0301a", "猫"]
    for name in names:
        (tmp_path / name).mkdir()
        png(tmp_path / name / "1", 50)
    keras_own = keras.utils.image_dataset_from_directory(tmp_path, verbose=False).class_names
    assert folders.read(tmp_path).class_names == tuple(unicodedata.normalize("NFC", name) for name in keras_own)


# In experiments

def test_inner_folders_are_the_groups_of_a_grouped_split(tmp_path):
    for number in range(8):
        for name, level in LEVELS.items():
            for slice in range(3):
                place = tmp_path / "scans" / name / f"{name} {number}"
                place.mkdir(parents=True, exist_ok=True)
                png(place / f"{slice}", level)          # all alike: by their looks they would be one group
    settings = {"name": "image_folder", "path": "scans", "size": 16, "split": {"kind": "grouped"}}
    found = load(DataSettings.read(settings, "data"), 0, tmp_path)
    assert len(np.unique(found.groups)) == 16 and found.report()["groups_shared"] == 0
    assert all(len(set(found.files[found.groups == group])) == 3 for group in range(16))
    png(tmp_path / "scans" / "dark" / "loose", 50)
    with pytest.raises(KitError, match="48 pictures in folders within a class, and 1 beside"):
        load(DataSettings.read(settings, "data"), 0, tmp_path)


def test_experiments_load_pictures_in_any_of_the_ways(tmp_path):
    def noise(path, level):
        pixels = np.random.default_rng(level).integers(0, 256, (20, 30), np.uint8)
        saved(path.with_suffix(".png"), Image.fromarray(pixels))

    classes(tmp_path / "scans", noise, count=8)
    settings = {"name": "image_folder", "path": "scans", "size": 8, "channels": 1}
    loaded = {name: load(DataSettings.read(settings | more, "data"), 0, tmp_path).images for name, more in {
        "usual": {}, "keras": {"pictures": "keras"}, "nearest": {"interpolation": "nearest"},
        "padded": {"pictures": "keras-pad"}, "cropped": {"resize": 9}}.items()}
    np.testing.assert_array_equal(loaded["usual"], loaded["keras"])
    assert len({images.tobytes() for images in loaded.values()}) == 4 and not loaded["padded"][0, 0].any()
    for wrong, says in (({"pictures": "keras", "resize": 9}, "goes with resize-and-crop, not with keras"),
                        ({"resize": 9, "interpolation": "area"}, "goes with the ways of Keras"),
                        ({"window": [5, 5]}, "from the value of black up to that of white")):
        with pytest.raises(KitError, match=says):
            DataSettings.read(settings | wrong, "data")
