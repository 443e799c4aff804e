"""Data that are missing, damaged, hostile or odd: one clear error each, or read as anybody would expect."""
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from kitlib.base import files
from kitlib.base.settings import KitError
from kitlib.data import Dataset, DataSettings, load, sources

CLASSES = ("cat", "dog")


def good(home, count=8):
    """A small folder that loads: <class>/<number>.png."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (home / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(home / name / f"{number}.png")


def read(folder, **values):
    return load(DataSettings.read(values, "data"), 0, folder)


def read_pets(folder, **values):
    return read(folder, name="image_folder", path="pets", size=16, **values)


# Each spoils a good folder; the error must hold the words beside it.

def spoil_empty(home):
    for name in CLASSES:
        for file in (home / name).iterdir():
            file.unlink()
        (home / name).rmdir()


def spoil_empty_class(home):
    (home / "bird").mkdir()


def spoil_other_files_only(home):
    (home / "bird").mkdir()
    (home / "bird" / "scan.nii").write_bytes(b"n+1")


def spoil_one_class(home):
    for file in (home / "dog").iterdir():
        file.unlink()
    (home / "dog").rmdir()


def spoil_one_image_a_class(home):
    for name in CLASSES:
        for file in sorted((home / name).iterdir())[1:]:
            file.unlink()


def spoil_zero_byte(home):
    (home / "cat" / "3.png").write_bytes(b"")


def spoil_truncated_png(home):
    file = home / "cat" / "3.png"
    file.write_bytes(file.read_bytes()[:-200])


def spoil_truncated_jpeg(home):
    file = home / "cat" / "x.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:1500])


def spoil_damaged_inside(home):
    file = home / "cat" / "3.png"
    data = bytearray(file.read_bytes())
    data[60:90] = b"\xff" * 30
    file.write_bytes(data)


def spoil_text_as_jpeg(home):
    (home / "cat" / "x.jpg").write_text("no picture")


def spoil_html_as_png(home):
    (home / "cat" / "x.png").write_text("<!DOCTYPE html><title>404</title>")


def spoil_postscript_as_png(home):
    (home / "cat" / "x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n")


def spoil_animated_gif(home):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(home / "cat" / "x.gif", save_all=True, append_images=frames[1:])


def spoil_animated_png(home):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(home / "cat" / "x.png", save_all=True, append_images=frames[1:])


def spoil_tiff_of_pages(home):
    pages = [Image.new("L", (16, 16), grey) for grey in (1, 200)]
    pages[0].save(home / "cat" / "x.tif", save_all=True, append_images=pages[1:])


def spoil_float_tiff(home):
    Image.fromarray(np.linspace(-1000, 3000, 256, dtype=np.float32).reshape(16, 16)).save(home / "cat" / "x.tif")


def spoil_32_bit_tiff(home):
    Image.fromarray(np.arange(256, dtype=np.int32).reshape(16, 16)).save(home / "cat" / "x.tif")


def png_of_size(width, height):
    """A png whose head promises width x height grey pixels, and which holds none."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def spoil_bomb(home):
    (home / "cat" / "x.png").write_bytes(png_of_size(50_000, 50_000))


def spoil_large(home):
    (home / "cat" / "x.png").write_bytes(png_of_size(9_000, 9_000))


def spoil_promised_but_missing(home):
    (home / "cat" / "x.png").write_bytes(png_of_size(100, 100))


def spoil_one_pixel(home):
    Image.new("L", (1, 1)).save(home / "cat" / "x.png")


def spoil_ribbon(home):
    Image.new("L", (4000, 8)).save(home / "cat" / "x.png")


def spoil_large_file(home):
    with open(home / "cat" / "x.png", "wb") as file:
        file.truncate(2**28 + 1)


def spoil_link_to_itself(home):
    os.symlink("x.png", home / "cat" / "x.png")


def spoil_dead_link(home):
    os.symlink("/nowhere/at/all.png", home / "cat" / "x.png")


def spoil_pipe(home):
    os.mkfifo(home / "cat" / "x.png")


def spoil_socket(home):
    here = os.getcwd()
    os.chdir(home / "cat")  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("x.png")
    finally:
        os.chdir(here)


def spoil_newline_in_name(home):
    (home / "cat" / "x\ny\x1b[31m.png").write_bytes(b"")


def spoil_invalid_bytes_in_name(home):
    with open(os.fsencode(home / "cat") + b"/x\xff.png", "wb"):
        pass


def spoil_mix_of_parts_and_classes(home):
    (home / "train").mkdir()


def spoil_parts(home):
    for part in ("train", "test"):
        (home / part).mkdir()
    for name in CLASSES:
        (home / name).rename(home / "train" / name)


def spoil_part_twice(home):
    spoil_parts(home)
    for name in ("val", "valid"):
        (home / name).mkdir()


BAD_FOLDERS = {
    "empty": (spoil_empty, "holds no folders of classes"),
    "empty class": (spoil_empty_class, "class 'bird' has 0 images;"),
    "other files only": (spoil_other_files_only, "class 'bird' has 0 images (not read: 1 .nii);"),
    "one class": (spoil_one_class, "only one class ('cat')"),
    "one image a class": (spoil_one_image_a_class, "class 'cat' has 1 images; each class needs three"),
    "zero-byte": (spoil_zero_byte, "cat/3.png: the file is empty"),
    "truncated png": (spoil_truncated_png, "cat/3.png: it is damaged or cut short"),
    "truncated jpeg": (spoil_truncated_jpeg, "cat/x.jpg: it is damaged or cut short"),
    "damaged inside": (spoil_damaged_inside, "cat/3.png: it is"),
    "text as jpeg": (spoil_text_as_jpeg, "cat/x.jpg: it is none of JPEG"),
    "html as png": (spoil_html_as_png, "cat/x.png: it is none of JPEG"),
    "PostScript as png": (spoil_postscript_as_png, "cat/x.png: it is none of JPEG"),
    "animated gif": (spoil_animated_gif, "cat/x.gif: it holds 3 frames"),
    "animated png": (spoil_animated_png, "cat/x.png: it holds 2 frames"),
    "tiff of pages": (spoil_tiff_of_pages, "cat/x.tif: it holds 2 frames"),
    "float tiff": (spoil_float_tiff, "cat/x.tif: its pixels are 32-bit numbers"),
    "32-bit tiff": (spoil_32_bit_tiff, "cat/x.tif: its pixels are 32-bit numbers"),
    "decompression bomb": (spoil_bomb, "a decompression bomb?"),
    "large picture": (spoil_large, "9000 x 9000 pixels, more than"),
    "promised but missing pixels": (spoil_promised_but_missing, "cat/x.png: it is damaged or cut short"),
    "1 x 1": (spoil_one_pixel, "1 x 1 pixels are too small"),
    "ribbon": (spoil_ribbon, "4000 x 8 pixels are too small or too narrow"),
    "large file": (spoil_large_file, "cat/x.png: the file has 256 MiB"),
    "link to itself": (spoil_link_to_itself, "cat/x.png: it cannot be opened"),
    "dead link": (spoil_dead_link, "cat/x.png: it cannot be opened (No such file"),
    "pipe": (spoil_pipe, "cat/x.png: it is no regular file"),
    "socket": (spoil_socket, "cat/x.png: it is no regular file"),
    "newline in a bad file's name": (spoil_newline_in_name, r"cat/x\ny\x1b[31m.png: the file is empty"),
    "invalid bytes in a bad file's name": (spoil_invalid_bytes_in_name, r"cat/x\xff.png: the file is empty"),
    "parts and classes mixed": (spoil_mix_of_parts_and_classes, "mixes train with other folders"),
    "a part twice": (spoil_part_twice, "two folders of the validation part (val, valid)"),
    "parts, but a random split": (spoil_parts, "set split: {kind: given}"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_gives_one_clear_error_and_leaves_nothing(case, tmp_path):
    spoil, words = BAD_FOLDERS[case]
    good(tmp_path / "pets")
    spoil(tmp_path / "pets")
    for pictures in ("resize-and-crop", "keras"):
        if pictures == "keras" and case.startswith("animated"):
            continue    # Keras takes the first frame
        with pytest.raises(KitError) as error:
            read_pets(tmp_path, pictures=pictures)
        assert words in str(error.value)
        assert "\n" not in str(error.value) and str(tmp_path / "pets") in str(error.value)
        str(error.value).encode()
        assert not (tmp_path / ".cache").exists()


def test_several_bad_files_are_named_together(tmp_path):
    good(tmp_path / "pets")
    for number in range(7):
        (tmp_path / "pets" / "dog" / f"{number}.png").write_bytes(b"")
    with pytest.raises(KitError, match=r"7 of 16 images cannot be used: .*dog/0.png.*dog/4.png.*and 2 more"):
        read_pets(tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    good(tmp_path / "pets")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(KitError, match=r"cat/0.png: it cannot be opened \(Permission denied\)"):
        read_pets(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    good(tmp_path / "pets")
    (tmp_path / "pets" / "cat").chmod(0)
    try:
        with pytest.raises(KitError, match="cat cannot be read"):
            read_pets(tmp_path)
    finally:
        (tmp_path / "pets" / "cat").chmod(0o755)


# Odd pictures that are read: each returns what the 16 x 16 picture must show.

def draw_cmyk(home):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(home / "cat" / "x.tif")
    return (255, 0, 0)


def draw_16_bit_grey(home):
    Image.fromarray(np.full((16, 16), 51_400, np.uint16)).save(home / "cat" / "x.png")
    return (200, 200, 200)


def draw_16_bit_tiff(home):
    Image.fromarray(np.full((16, 16), 65_535, np.uint16)).save(home / "cat" / "x.tif")
    return (255, 255, 255)


def draw_16_bit_pgm(home):
    Image.fromarray(np.full((16, 16), 51_400, np.int32)).save(home / "cat" / "x.pgm")
    assert (home / "cat" / "x.pgm").read_bytes().startswith(b"P5\n16 16\n65535\n")
    return (200, 200, 200)


def draw_12_bit_pgm(home):
    (home / "cat" / "x.pgm").write_bytes(b"P5 16 16 4095\n" + struct.pack(">256H", *[4095] * 128, *[2048] * 128))
    return np.repeat([[[255] * 3], [[128] * 3]], 8, axis=0)


def draw_alpha(home):
    Image.new("RGBA", (16, 16), (250, 100, 50, 0)).save(home / "cat" / "x.png")
    return (0, 0, 0)


def draw_half_transparent(home):
    Image.new("RGBA", (16, 16), (200, 100, 50, 128)).save(home / "cat" / "x.png")
    return (100, 50, 25)


def draw_grey_alpha(home):
    Image.new("LA", (16, 16), (90, 255)).save(home / "cat" / "x.png")
    return (90, 90, 90)


def draw_palette(home):
    Image.new("RGB", (16, 16), (0, 128, 255)).quantize(4).save(home / "cat" / "x.png")
    return (0, 128, 255)


def draw_one_bit(home):
    Image.new("1", (16, 16), 1).save(home / "cat" / "x.png")
    return (255, 255, 255)


def draw_still_gif(home):
    Image.new("RGB", (16, 16), (0, 0, 255)).save(home / "cat" / "x.gif")
    return (0, 0, 255)


def draw_wrong_extension(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home / "cat" / "x.jpg", format="PNG")
    return (10, 20, 30)


def draw_capital_extension(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home / "cat" / "x.PNG")
    return (10, 20, 30)


def draw_link(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home.parent / "elsewhere.png")
    os.symlink(home.parent / "elsewhere.png", home / "cat" / "x.png")
    return (10, 20, 30)


def draw_newline_in_name(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home / "cat" / "x\n.png")
    return (10, 20, 30)


def draw_raised_digit_in_name(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home / "cat" / "x5²3.png")
    return (10, 20, 30)


def draw_non_ascii_name(home):
    Image.new("RGB", (16, 16), (10, 20, 30)).save(home / "cat" / "xλ 猫.png")
    return (10, 20, 30)


ODD_PICTURES = [draw_cmyk, draw_16_bit_grey, draw_16_bit_tiff, draw_16_bit_pgm, draw_12_bit_pgm, draw_alpha,
                draw_half_transparent, draw_grey_alpha, draw_palette, draw_one_bit, draw_still_gif,
                draw_wrong_extension, draw_capital_extension, draw_link, draw_newline_in_name,
                draw_raised_digit_in_name, draw_non_ascii_name]


@pytest.mark.parametrize("draw", ODD_PICTURES)
def test_an_odd_picture_is_read_as_it_looks(draw, tmp_path):
    good(tmp_path / "pets")
    colour = draw(tmp_path / "pets")
    data = read_pets(tmp_path, pictures="resize-and-crop")
    position = next(place for place, name in enumerate(data.files) if name.startswith("cat/x"))
    np.testing.assert_allclose(data.images[position], np.broadcast_to(colour, (16, 16, 3)), atol=1)


def test_a_turned_photo_stands_upright(tmp_path):
    good(tmp_path / "pets")
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # bright above; orientation 3 says that the camera was upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "pets" / "cat" / "x.png", exif=exif)
    data = read_pets(tmp_path, pictures="resize-and-crop")
    image = data.images[data.files.tolist().index("cat/x.png")]
    assert image[:8].max() == 0 and image[8:].min() == 255


def test_class_names_of_all_kinds_survive_saving(tmp_path):
    home = tmp_path / "pets"
    good(home)
    (home / "cat").rename(home / "猫\n")
    os.rename(home / "dog", os.fsencode(home) + b"/dog\xff")
    data = read_pets(tmp_path)
    assert data.class_names == (r"dog\xff", r"猫\n")
    data.save(tmp_path / "data.npz")
    assert Dataset.load(tmp_path / "data.npz").class_names == data.class_names


# What settings ask for, and the data cannot give

def bad_settings(**values):
    return {"name": "digits"} | values


BAD_SETTINGS = {
    "unknown data set": ({"name": "digit"}, "there is no data set 'digit'; did you mean 'digits'?"),
    "no name": ({}, "'name' is missing"),
    "name of wrong type": ({"name": 3}, "'name'"),
    "unknown key": (bad_settings(sise=8), "unknown key 'sise'; did you mean 'size'?"),
    "size of wrong type": (bad_settings(size="big"), "'size'"),
    "size too small": (bad_settings(size=1), "'size'"),
    "two channels": (bad_settings(channels=2), "'channels'"),
    "unknown kind of split": (bad_settings(split={"kind": "randon"}), "'split.kind'"),
    "split is a number": (bad_settings(split=3), "'split'"),
    "fraction above one": (bad_settings(split={"test": 1.5}), "'split.test': must be a fraction"),
    "negative count": (bad_settings(split={"validation": -3}), "'split.validation': must be a fraction"),
    "fraction is true": (bad_settings(split={"test": True}), "'split.test': must be a fraction"),
    "nothing left to train": (bad_settings(split={"test": 0.6, "validation": 0.5}), "leave nothing to train on"),
    "given split with a test share": ({"name": "cifar10", "split": {"test": 0.2}}, "has its own"),
    "given split of digits": (bad_settings(split={"kind": "given"}), "digits has no 'given' split: use random"),
    "grouped split of cifar10": ({"name": "cifar10", "split": {"kind": "grouped"}}, "cifar10 has no 'grouped' split"),
    "option of another data set": (bad_settings(count=100), "'count' is a setting of phantom_ct, not of digits"),
    "image_folder without path": ({"name": "image_folder"}, "image_folder needs 'path'"),
    "no slices to draw": ({"name": "phantom_ct", "count": None}, "phantom_ct needs 'count'"),
    "resize below size": ({"name": "iq_othnccd", "size": 96, "resize": 64}, "'resize' (64) must be at least 'size'"),
    "limit of zero": (bad_settings(limits={"train": 0}), "'limits.train'"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings_give_one_clear_error(case, tmp_path):
    values, words = BAD_SETTINGS[case]
    with pytest.raises(KitError) as error:
        read(tmp_path, **values)
    assert words in str(error.value) and str(error.value).startswith("data: ") and "\n" not in str(error.value)


BAD_REQUESTS = {
    "limit below the classes": (bad_settings(limits={"test": 5}), "5 test images are too few for 10 classes"),
    "more test images than there are": (bad_settings(split={"test": 2000}), "test asks for 2000 images"),
    "parts that leave nothing": (bad_settings(split={"test": 900, "validation": 897}), "validation asks for 897"),
    "too large for memory": ({"name": "phantom_ct", "count": 100_000, "size": 1024}, "choose a smaller size"),
    "missing folder": ({"name": "image_folder", "path": "nowhere"}, "there is no folder"),
    "folder of an unknown user": ({"name": "image_folder", "path": "~nobody-of-that-name/x"}, "there is no folder"),
    "missing cifar10": ({"name": "cifar10"}, "KITLIB_DATA"),
    "missing lung data": ({"name": "iq_othnccd"}, "KITLIB_DATA"),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_impossible_requests_give_one_clear_error(case, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    values, words = BAD_REQUESTS[case]
    with pytest.raises(KitError) as error:
        read(tmp_path, **values)
    assert words in str(error.value)
    if "missing" in case:
        assert str(tmp_path) in str(error.value)


def test_negative_seeds_are_refused():
    with pytest.raises(KitError, match="seed"):
        load(DataSettings(name="digits"), -1)


def test_a_grouped_split_of_too_few_groups_names_the_class(tmp_path):
    good(tmp_path / "pets")
    for file in (tmp_path / "pets" / "dog").iterdir():  # eight copies of one picture are one group
        file.write_bytes((tmp_path / "pets" / "dog" / "0.png").read_bytes())
    with pytest.raises(KitError, match="no image of class 'dog', which has too few images or groups"):
        read_pets(tmp_path, split={"kind": "grouped"})


def test_a_test_part_with_a_class_of_its_own_is_refused(tmp_path):
    for part in ("train", "test"):
        good(tmp_path / "pets" / part)
    (tmp_path / "pets" / "test" / "dog").rename(tmp_path / "pets" / "test" / "wolf")
    with pytest.raises(KitError, match=r"classes that the train part has not \(wolf\), and lacks dog"):
        read_pets(tmp_path, split={"kind": "given"})


# Damaged CIFAR-10 and archives

def cifar10_file(folder, name, length, label=0):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.bin").write_bytes(bytes([label]) * length)


def test_damaged_cifar10_files_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CIFAR10_RECORDS", 10)
    home = tmp_path / "cifar-10-batches-bin"
    cifar10_file(home, "data_batch_1", 30_730)
    with pytest.raises(KitError, match="data_batch_2.bin cannot be read"):
        read(tmp_path, name="cifar10")
    cifar10_file(home, "data_batch_2", 30_000)
    with pytest.raises(KitError, match="data_batch_2.bin has 30,000 bytes instead of 30,730"):
        read(tmp_path, name="cifar10")
    cifar10_file(home, "data_batch_2", 30_730, label=77)
    with pytest.raises(KitError, match="data_batch_2.bin holds labels above 9"):
        read(tmp_path, name="cifar10")


def test_an_archive_with_another_hash_is_not_opened(tmp_path, monkeypatch):
    """So an archive with paths that climb out, links or pickled code is refused before it is looked into."""
    monkeypatch.setattr(sources.tarfile, "open", None)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"anything")
    with pytest.raises(KitError, match="cifar-10-python.tar.gz is not the official archive"):
        read(tmp_path, name="cifar10")


def test_a_failed_download_says_what_else_to_do(tmp_path, monkeypatch):
    import keras

    def fail(*arguments, **options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", fail)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(KitError, match="could not be downloaded .*URL fetch failure.*KITLIB_DATA"):
        read(tmp_path, name="cifar10", download=True)


def test_a_download_without_kagglehub_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "kagglehub", None)
    with pytest.raises(KitError, match="pip install kagglehub"):
        read(tmp_path, name="iq_othnccd", download=True)


# Damaged copies of what was prepared

def test_a_damaged_prepared_data_set_is_refused(tmp_path):
    data = read(tmp_path, name="phantom_ct", size=8, count=60)
    path = tmp_path / "data.npz"
    data.save(path)
    whole = path.read_bytes()
    changed = whole[:2000] + b"\xff" * 50 + whole[2050:]
    for spoiled in (whole[:1000], whole[:-30], b"", b"PK\x03\x04" + b"\0" * 100, changed):
        path.write_bytes(spoiled)
        with pytest.raises(KitError, match="data.npz"):
            Dataset.load(path)


def test_an_npz_of_something_else_or_with_a_pickle_is_refused(tmp_path):
    files.write_arrays(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(KitError, match="holds no prepared data set"):
        Dataset.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickle.npz", about=np.array([{"code": "runs"}], dtype=object))
    with pytest.raises(KitError, match="pickle.npz is damaged or no .npz of plain arrays"):
        Dataset.load(tmp_path / "pickle.npz")
