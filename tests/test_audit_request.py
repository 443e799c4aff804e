"""The command `audit`: from its options to what is judged, and to the report."""
import os
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from kitlib import audit, models
from kitlib import cli as command_line
from kitlib.audit import judged_data, loading
from kitlib.audit.judged_data import DataRequest
from kitlib.base.settings import KitError
from kitlib.data.pictures import Form, Loading, read_pictures


def subject_of(*words):
    """(subject, what the record says of it, folder), from the words of the command."""
    asked, make = command_line._audit_request(command_line._parser().parse_args(["audit", *map(str, words)]))
    return make(asked)


def softmax_net(classes=10, shape=(8, 8, 1), scale=1 / 255):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(shape), layers.Rescaling(scale), layers.Flatten(),
                             layers.Dense(classes, "softmax")])


def some_images(count=16, shape=(8, 8, 1)):
    return np.random.default_rng(0).random((count, *shape)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
    """A softmax model of 10 classes for values from 0 to 255, and an .npz of images."""
    model, images = softmax_net(), np.rint(255 * some_images(30)).astype(np.uint8)
    model.save(tmp_path / "mine.keras")
    np.savez(tmp_path / "mine.npz", x_test=images, y_test=np.asarray(model(images)).argmax(1))
    return tmp_path


def image_folder(path, classes, count=4, shapes=((8, 8),)):
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for image in range(count):
            pixels = np.random.default_rng([number, image]).integers(0, 255, shapes[image % len(shapes)], np.uint8)
            Image.fromarray(pixels).save(path / name / f"{image}.png")
    return path


def test_the_command_from_file_to_report(saved, capsys, monkeypatch):
    weird = "<script>alert(1)</script>"
    names = np.array([weird, "$a_b_c$", "$", *map(str, range(3, 10))])
    np.savez(saved / "named.npz", **np.load(saved / "mine.npz"), class_names=names)
    odd = saved / os.fsdecode(b"m\xe9.keras")      # no UTF-8
    (saved / "mine.keras").rename(odd)
    words = ["audit", odd, "--data", saved / "named.npz", "--eps", "8/255", "--claim", "0.9",
             "--quick", "--images", "20", "--out", saved / "out"]
    monkeypatch.setattr(sys, "argv", ["kitlib", *map(str, words)])
    assert command_line.main() == 0
    record = audit.read(saved / "out" / "audit.json")
    assert record.verdict.kind == "refuted" and record.clean.count == 20 and "--claim 0.9" in record.command
    page = (saved / "out" / "report.html").read_text()
    assert "&lt;script&gt;" in page and "<script" not in page.lower()
    assert "data:image/png" in page and "http" not in page.split("<body>")[0]
    assert "REFUTED" in capsys.readouterr().out


def test_a_mistake_is_one_clear_line_and_exit_code_2(saved, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kitlib", "audit", str(saved / "mine.keras"), "--eps", "8/255"])
    assert command_line.main() == 2
    assert capsys.readouterr().err.startswith("error: --data is missing")


def test_a_folder_is_numbered_in_alphabetical_order_unless_told(saved):
    folder = image_folder(saved / "images", ["dog", "cat"])
    softmax_net(classes=2).save(saved / "two.keras")
    subject, about, _ = subject_of(saved / "two.keras", "--data", folder, "--eps", 0.1)
    assert subject.class_names == ("cat", "dog") and "0 = cat, 1 = dog" in about["class_order"]
    turned, _, _ = subject_of(saved / "two.keras", "--data", folder, "--eps", 0.1, "--class-order", "dog,cat")
    assert turned.class_names == ("dog", "cat") and (turned.labels == 1 - subject.labels).all()
    spaced, _, _ = subject_of(saved / "two.keras", "--data", folder, "--eps", 0.1, "--class-order", "dog, cat")
    assert spaced.class_names == turned.class_names


def test_audits_that_ask_for_something_else_do_not_replace_each_other(saved):
    folder = image_folder(saved / "images", ["dog", "cat"])
    softmax_net(classes=2).save(saved / "two.keras")
    asked = [("--eps", 0.1), ("--eps", 0.2), ("--eps", 0.1, "--quick"), ("--eps", 0.1, "--claim", 0.5)]
    places = [subject_of(saved / "two.keras", "--data", folder, *each)[2]
              for each in (*asked, asked[0])]
    assert len(set(places)) == 4 and places[0] == places[4]


def test_a_folder_with_parts_brings_its_training_images(saved):
    image_folder(saved / "parts" / "train", ["a", "b"])
    image_folder(saved / "parts" / "test", ["a", "b"])
    softmax_net(classes=2).save(saved / "two.keras")
    subject, _, _ = subject_of(saved / "two.keras", "--data", saved / "parts", "--eps", 0.1)
    assert subject.train_images.shape == (8, 8, 8, 1) and subject.train_labels.tolist() == [0] * 4 + [1] * 4
    exact, _, _ = audit.Measurements(subject, audit.QUICK).copies
    assert exact.all()      # both parts are the same pictures


@pytest.mark.parametrize(("parts", "judged"), [
    (("train", "test"), 4), (("train", "val"), 4), (("test",), 4), (("validation", "train", "testing"), 4)])
def test_parts_by_any_of_their_names(saved, parts, judged):
    for number, part in enumerate(parts):
        image_folder(saved / "parts" / part, ["a", "b"], count=2 if part != "train" else 3 + number)
    found = judged_data.read(str(saved / "parts"), DataRequest((8, 8, 1), 2))
    assert len(found.images) == judged and (found.train_images is not None) == ("train" in parts)
    images, labels = judged_data.read_training(str(saved / "parts"), DataRequest((8, 8, 1), 2))
    assert len(images) == len(labels) == (6 + 2 * parts.index("train") if "train" in parts else 4)


def test_a_training_part_alone_is_nothing_to_judge_with(saved):
    image_folder(saved / "parts" / "train", ["a", "b"])
    with pytest.raises(KitError, match="a training part alone"):
        judged_data.read(str(saved / "parts"), DataRequest((8, 8, 1), 2))


def test_a_folder_of_a_picture_a_class_is_enough(saved):
    found = judged_data.read(str(image_folder(saved / "few", ["a", "b"], count=1)), DataRequest((8, 8, 1), 2))
    assert len(found.images) == 2 and found.source == "2 pictures in few, 8 x 8, grey, their own size"


def test_a_model_of_any_size_takes_the_pictures_own_or_asks(saved):
    anything = DataRequest((None, None, 1), 2)
    same = judged_data.read(str(image_folder(saved / "same", ["a", "b"], shapes=[(9, 9)])), anything)
    assert same.images.shape[1:] == (9, 9, 1)
    mixed = str(image_folder(saved / "mixed", ["a", "b"], shapes=[(9, 9), (8, 8)]))
    with pytest.raises(KitError, match="--input-shape"):
        judged_data.read(mixed, anything)
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Rescaling(1 / 255), layers.Conv2D(4, 3),
                              layers.GlobalAveragePooling2D(), layers.Dense(2)])
    model.save(saved / "any.keras")
    words = saved / "any.keras", "--data", mixed, "--eps", 0.1, "--input-shape"
    subject, _, _ = subject_of(*words, "12,12,1")
    assert subject.images.shape[1:] == (12, 12, 1)
    with pytest.raises(KitError, match="--input-shape: the model takes images of"):
        subject_of(*words, "12,12,3")
    with pytest.raises(KitError, match="does not take images of .2, 2, 1."):
        subject_of(*words, "2,2,1")


def test_wrong_classes_are_refused(saved):
    folder = image_folder(saved / "images", ["dog", "cat", "cow"])
    with pytest.raises(KitError, match="10 outputs, but the data have 3 classes"):
        subject_of(saved / "mine.keras", "--data", folder, "--eps", 0.1)
    np.savez(saved / "bad.npz", images=some_images(3), labels=np.array([0, 1, 10]))
    with pytest.raises(KitError, match="reach from 0 to 10"):
        subject_of(saved / "mine.keras", "--data", saved / "bad.npz", "--eps", 0.1)
    np.savez(saved / "nine.npz", images=some_images(9), labels=np.arange(9))
    _, about, _ = subject_of(saved / "mine.keras", "--data", saved / "nine.npz", "--eps", 0.1)
    assert "of 9 there is none" in about["data"]


def test_pixels_that_rounding_has_put_beyond_white_and_black_are_put_back(tmp_path):
    images = np.linspace(-5e-7, 1 + 5e-7, 3 * 64, dtype=np.float32).reshape(3, 8, 8, 1)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(3))
    found = judged_data.read(str(tmp_path / "mine.npz"), DataRequest((8, 8, 1), 3)).images
    assert found.min() == 0 and found.max() == 1 and (found == np.clip(images, 0, 1)).all()


def test_names_of_bytes_and_a_capital_extension(tmp_path):
    np.savez(tmp_path / "mine.npz", images=some_images(3), labels=np.arange(3), class_names=["é".encode(), b"b", b"c"])
    (tmp_path / "mine.npz").rename(tmp_path / "MINE.NPZ")
    assert judged_data.read(str(tmp_path / "MINE.NPZ"), DataRequest((8, 8, 1), 3)).class_names == ("é", "b", "c")


def test_training_data_that_do_not_fit_are_refused_at_once(saved):
    words = saved / "mine.keras", "--data", saved / "mine.npz", "--eps", 0.1, "--train-data", saved / "train.npz"
    for pairs, says in (({"x_train": some_images(4, (9, 9, 1)), "y_train": np.arange(4)}, "images of"),
                        ({"x_train": some_images(4), "y_train": np.arange(8, 12)}, "reach from 8 to 11"),
                        ({"x_train": some_images(4), "y_train": np.arange(3)}, "4 images"),
                        ({"pixels": some_images(4)}, "x_train and y_train")):
        np.savez(saved / "train.npz", **pairs)
        with pytest.raises(KitError, match=says):
            subject_of(*words)
    np.savez(saved / "train.npz", x_train=some_images(5), y_train=np.arange(5), x_test=some_images(3), y_test=[0, 1, 2])
    assert len(subject_of(*words)[0].train_images) == 5
    with pytest.raises(KitError, match="--train-data: 'nowhere' is neither"):
        subject_of(*words[:-1], "nowhere")


def test_code_in_a_model_runs_only_when_allowed(saved):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(2.0, -1.0), layers.Lambda(lambda x: 2 * x),
                              layers.Flatten(), layers.Dense(10)])
    model.save(saved / "code.keras")
    words = saved / "code.keras", "--data", saved / "mine.npz", "--eps", 0.1
    with pytest.raises(KitError, match="--allow-code"):
        subject_of(*words)
    subject, _, _ = subject_of(*words, "--allow-code")
    np.testing.assert_allclose(subject.target.model(subject.images), model(subject.images), rtol=1e-5)


@pytest.mark.parametrize("registered", [False, True])
def test_custom_classes_come_from_the_file_that_is_named(saved, registered):
    script = f"""import keras
from beside import FACTOR
{'@keras.saving.register_keras_serializable("mine")' if registered else ''}
class Twice{registered}(keras.layers.Layer):
    def call(self, x):
        return FACTOR * x
"""
    (saved / "beside.py").write_text("FACTOR = 2\n")
    (saved / "own_layers.py").write_text(script)
    maker = f"""import sys; sys.path.insert(0, {str(saved)!r})
import keras, own_layers
keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), own_layers.Twice{registered}(),
                  keras.layers.Flatten(), keras.layers.Dense(10)]).save({str(saved / "own.keras")!r})"""
    subprocess.run([sys.executable, "-c", maker], check=True, capture_output=True)
    words = saved / "own.keras", "--data", saved / "mine.npz", "--eps", 0.1
    with pytest.raises(KitError, match=f"Twice{registered} .of own_layers.*--import"):
        subject_of(*words)
    subject, _, _ = subject_of(*words, "--import", saved / "own_layers.py")
    assert subject.target.classes == 10
    (saved / "leaves.py").write_text("import sys; sys.exit(0)")
    for wrong in ("nowhere.py", "nowhere", f"{saved}/leaves.py"):
        with pytest.raises(KitError, match=f"--import {wrong}: it cannot be run"):
            subject_of(*words, "--import", wrong)


def test_files_that_are_no_models_get_no_advice_about_code(saved):
    (saved / "torn.keras").write_bytes((saved / "mine.keras").read_bytes()[:500])
    softmax_net().save_weights(saved / "some.weights.h5")
    (saved / "saved_model").mkdir()
    with zipfile.ZipFile(saved / "damaged.keras", "w", zipfile.ZIP_DEFLATED) as stored:
        stored.writestr("config.json", '{"class_name": "Sequential", "config": {"name": "as good as a model"}}')
    damaged = bytearray((saved / "damaged.keras").read_bytes())
    damaged[60] ^= 255
    (saved / "damaged.keras").write_bytes(damaged)
    for name, says in (("torn.keras", "no Keras 3 model"), ("damaged.keras", "no Keras 3 model"),
                       ("x" * 300, "exist"), ("some.weights.h5", "--model-name"),
                       ("saved_model", "is a folder"), ("missing.keras", "does not exist")):
        with pytest.raises(KitError, match=says) as error:
            subject_of(saved / name, "--data", saved / "mine.npz", "--eps", 0.1)
        assert "--allow-code" not in str(error.value)


def test_two_models_of_one_file_name_have_folders_of_their_own(saved):
    (saved / "other").mkdir()
    softmax_net(scale=1 / 127.5).save(saved / "other" / "mine.keras")
    words = "--data", saved / "mine.npz", "--eps", 0.1
    folders = [subject_of(file, *words)[2] for file in (
        saved / "mine.keras", saved / "other" / "mine.keras")]
    assert len(set(folders)) == 2


@pytest.mark.parametrize("name", ["thesis.tex", "figures/mine.png"])
def test_the_folder_is_tried_before_anything_is_measured(saved, capsys, monkeypatch, name):
    mine = saved / "full" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("all my work")
    words = ["audit", saved / "mine.keras", "--data", saved / "mine.npz", "--eps", "8/255", "--out", saved / "full"]
    monkeypatch.setattr(sys, "argv", ["kitlib", *map(str, words)])
    assert command_line.main() == 2
    said = capsys.readouterr()
    assert f"holds other things already ({name})" in said.err and "PGD" not in said.out
    assert mine.read_text() == "all my work"


@pytest.mark.parametrize("images", ["full", "full/adversarial", "."])
def test_saved_images_and_the_record_lie_apart(saved, capsys, monkeypatch, images):
    words = ["audit", saved / "mine.keras", "--data", saved / "mine.npz", "--eps", "8/255", "--out", saved / "full",
             "--save-images", saved / images]
    monkeypatch.setattr(sys, "argv", ["kitlib", *map(str, words)])
    assert command_line.main() == 2
    assert "must lie apart" in capsys.readouterr().err and not (saved / "full").exists()


def test_weights_with_the_name_of_a_kit_network(saved):
    options = '{"widths": [4, 4], "dense": [8], "dropout": 0}'
    settings = {"name": "even_deeper_cnn", "options": {"widths": [4, 4], "dense": [8], "dropout": 0}}
    model = models.build(models.ModelSettings(**settings), (8, 8, 1), 10, seed=0)
    model.save_weights(saved / "net.weights.h5")
    words = (saved / "net.weights.h5", "--model-name", "even_deeper_cnn", "--options", options, "--eps", 0.1,
             "--data", saved / "mine.npz")
    with pytest.raises(KitError, match="--class-order"):
        subject_of(*words)
    order = ",".join("abcdefghij")
    subject, _, _ = subject_of(*words, "--class-order", order)
    np.testing.assert_allclose(subject.target.model(subject.images), model(subject.images), rtol=1e-5)


@pytest.mark.parametrize("dropped", [("--input-range", "0,255"), ("--output", "probabilities"), ("--allow-code",)])
def test_what_a_kit_network_settles_is_not_asked_for(saved, dropped):
    words = saved / "net.weights.h5", "--model-name", "even_deeper_cnn", "--eps", 0.1, "--data", saved / "mine.npz"
    with pytest.raises(KitError, match=f"{dropped[0]} does not go with --model-name"):
        subject_of(*words, *dropped)


@pytest.mark.parametrize("dropped", [("--data", "mine"), ("--input-range", "0,255"), ("--class-order", "a,b"),
                                     ("--allow-code",), ("--import", "x.py"), ("--pictures", "keras")])
def test_what_a_run_settles_is_not_asked_for(dropped):
    with pytest.raises(KitError, match=f"{dropped[0]} does not go with --run"):
        subject_of("--run", "digits_fgsm", *dropped)


def test_options_of_a_network_need_its_name(saved):
    words = saved / "mine.keras", "--eps", 0.1, "--data", saved / "mine.npz", "--options", '{"dropout": 0}'
    with pytest.raises(KitError, match="--options does not go with a model's file without --model-name"):
        subject_of(*words)


@pytest.mark.parametrize(("arrays", "says"), [
    ({"pixels": np.zeros(3)}, "x_test and y_test"),
    ({"images": np.full((3, 8, 8), "black"), "labels": np.zeros(3, int)}, "must be numbers"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.full(3, 2**32 + 1)}, "reach from 4294967297"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.arange(3), "class_names": ["a", "b"]}, "2 classes"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.arange(3), "class_names": np.array("a")}, "1 classes"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.arange(3), "class_names": list("abcdefghia")},
     "names two classes 'a'"),
    ({"images": np.full((3, 8, 8), 200.0), "labels": np.zeros(3, int)}, "floats in"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.zeros((3, 10))}, "one whole number"),
    ({"images": np.zeros((3, 8, 8), np.uint8), "labels": np.zeros(4, int)}, "3 images .* and 4 labels"),
])
def test_an_npz_that_does_not_fit(tmp_path, arrays, says):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(KitError, match=says):
        judged_data.read(str(tmp_path / "mine.npz"), DataRequest((8, 8, 1), 10))


def test_data_that_are_nowhere():
    with pytest.raises(KitError, match="neither a data set"):
        judged_data.read("cifer10", DataRequest((32, 32, 3), 10))
    for nowhere in ("~nobody-of-that-name/x", "x" * 300):
        with pytest.raises(KitError, match="neither a data set"):
            judged_data.read(nowhere, DataRequest((32, 32, 3), 10))


@pytest.mark.parametrize("shape", ["inf,8,1", "8.9,8,1", "0,8,1", "8,8"])
def test_an_input_shape_is_three_whole_numbers(shape, capsys):
    with pytest.raises(SystemExit):
        subject_of("m.keras", "--input-shape", shape)
    assert "--input-shape" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "says"), [
    (("--data", "x"), "^--eps is missing: state the threat model"),
    (("--eps", 0.1), "^--data is missing: name the images"),
    (("--data", "x", "--eps", 0.1, "--images", 0), "^--images: Input should be greater than or equal to 1"),
    (("--data", "x", "--eps", 0.1, "--seed", -1), "^--seed: "),
    (("--data", "x", "--eps", 0.1, "--mean", 0.5), "^--mean and --std belong together"),
    (("--data", "x", "--eps", 0.1, "--interpolation", "cubic"), "^--interpolation: Input should be 'bilinear'"),
    (("--data", "x", "--eps", 0.1, "--resize", 9), "^--pictures: a shorter side to resize to goes with"),
    (("--data", "x", "--eps", 0.1, "--intensity", "9,3"), "^--pictures: a window goes from the value of black"),
    (("--data", "x", "--eps", 0.1, "--pictures", "keras-crop", "--interpolation", "gaussian"),
     "^--pictures: the interpolation gaussian does not go with keras-crop"),
    (("--data", "x", "--eps", 0.1, "--profile", "full"), "^--profile does not go with a model's file"),
])
def test_a_mistake_names_its_option(words, says):
    with pytest.raises(KitError, match=says):
        subject_of("mine.keras", *words)


def test_options_for_pictures_need_pictures(saved):
    with pytest.raises(KitError, match="say how the pictures of a folder are loaded, and .*mine.npz is none"):
        subject_of(saved / "mine.keras", "--data", saved / "mine.npz", "--eps", 0.1, "--pictures", "keras")


# --- pictures

def test_what_was_done_to_pictures_is_said(saved):
    folder = str(image_folder(saved / "images", ["a", "b"], count=1, shapes=[(16, 24)]))
    said = {way: judged_data.read(folder, DataRequest((8, 8, 1), 2, loading=Loading(way)))
            for way in ("keras", "keras-crop", "keras-pad", "resize-and-crop")}
    usual = judged_data.read(folder, DataRequest((8, 8, 1), 2))
    np.testing.assert_array_equal(usual.images, said["keras"].images)
    assert usual.source == ("2 pictures in images, brought to 8 x 8, grey: as "
                            "keras.utils.image_dataset_from_directory does (bilinear)")
    assert "(bilinear, crop_to_aspect_ratio=True)" in said["keras-crop"].source
    assert "the shorter side resized, the centre cut out" in said["resize-and-crop"].source
    assert len({found.images.tobytes() for found in said.values()}) == 4
    expected = keras.utils.image_dataset_from_directory(folder, image_size=(8, 8), color_mode="grayscale",
                                                        shuffle=False, verbose=False)
    np.testing.assert_allclose(255 * usual.images, next(iter(expected))[0], atol=1e-4)


def test_a_model_for_rectangles(saved):
    folder = str(image_folder(saved / "images", ["a", "b"]))
    assert judged_data.read(folder, DataRequest((8, 12, 1), 2)).images.shape[1:] == (8, 12, 1)
    with pytest.raises(KitError, match="--pictures: resize-and-crop gives square pictures .*: keras-crop cuts out any"):
        judged_data.read(folder, DataRequest((8, 12, 1), 2, loading=Loading("resize-and-crop")))


def test_what_is_left_out_of_a_folder_is_said(saved):
    folder = image_folder(saved / "images", ["a", "b", "c"])
    for picture in (folder / "b").iterdir():
        picture.rename(picture.with_suffix(".nii"))
    (folder / "a" / "notes.txt").touch()
    found = judged_data.read(str(folder), DataRequest((8, 8, 1), 3))
    assert found.source.endswith("; no pictures of b; not read: 4 .nii, 1 .txt")
    (folder / "c" / "0.png").write_bytes(b"junk")
    with pytest.raises(KitError, match="0.png: it is none of"):
        judged_data.read(str(folder), DataRequest((None, None, 1), 3))


def seeing_the_left_edge(folder, count):
    """Pictures twice as wide as high whose classes differ at the left edge alone, which the cropping ways cut off."""
    for label, name in enumerate(("left", "none")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((32, 64), 60 + number, np.uint8)
            pixels[:, :16] = 0 if label else 250
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_better_way_to_load_is_pointed_out_and_not_taken(saved, capsys, monkeypatch):
    """A model that looks at the left quarter, trained on the whole picture: cropped, it guesses."""
    folder = seeing_the_left_edge(saved / "wide", 30)
    weights = np.zeros((8, 8, 1, 2), np.float32)
    weights[:, :2, 0] = [1, -1]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(2.0, -1.0), layers.Flatten(), layers.Dense(2)])
    model.set_weights([weights.reshape(-1, 2), np.zeros(2, np.float32)])
    model.save(saved / "edge.keras")
    words = ("audit", saved / "edge.keras", "--data", folder, "--eps", "0.1", "--quick", "--images", 60)
    monkeypatch.setattr(audit.Measurements, "__init__", lambda *_, **__: (_ for _ in ()).throw(KitError("enough")))
    monkeypatch.setattr(sys, "argv", ["kitlib", *map(str, words), "--pictures", "keras-crop"])
    assert command_line.main() == 2
    assert "CAUTION: of 48 of these pictures the model gets 100 % right when they are loaded with --pictures keras" in (
        capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["kitlib", *map(str, words)])
    assert command_line.main() == 2 and "CAUTION" not in capsys.readouterr().out
    cropped, whole = (subject_of(*words[1:], "--pictures", way) for way in ("keras-crop", "keras"))
    found = cropped[1]["loading"]
    assert found.used == "keras-crop" and found.better == "keras" and found.accuracy["keras"].accuracy == 1
    assert found.accuracy["keras-crop"].accuracy < 0.8 and set(found.accuracy) > {"keras-pad", "resize-and-crop"}
    assert whole[1]["loading"].better is None and np.abs(whole[0].images - cropped[0].images).max() > 0.1
    form = Form(8, 8, 1, Loading("keras-crop"))     # what is judged stays what was asked for
    expected = read_pictures(sorted((folder / "left").iterdir())[:1], form, rounded=False)["images"]
    np.testing.assert_array_equal(cropped[0].images[:1], expected)


@pytest.mark.parametrize(("gained", "lost", "clear"), [(0, 0, False), (5, 0, False), (8, 0, True), (9, 3, False),
                                                       (20, 4, True)])
def test_a_way_is_better_only_by_a_test(gained, lost, clear):
    one = np.array([True] * gained + [False] * lost + [True] * 10)
    other = np.array([False] * gained + [True] * lost + [True] * 10)
    assert (loading.sign_test(one, other) < loading.LEVEL / 2) == clear
