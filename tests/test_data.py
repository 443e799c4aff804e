"""Data sets, splits, and what images share."""
import dataclasses
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from drawn_data import lung_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kitlib.base import files
from kitlib.base.settings import KitError
from kitlib.data import (
    Dataset,
    DataSettings,
    SplitSettings,
    data_folder,
    load,
    phantom,
    pictures,
    similarity,
    sources,
    splits,
)

REAL = Path(os.environ.get("KITLIB_DATA", data_folder()))


def read(folder=None, seed=0, **values):
    return load(DataSettings.read(values, "data"), seed, folder)


@pytest.fixture(scope="module")
def digits():
    return read(name="digits", size=32, channels=1)


@pytest.fixture(scope="module")
def phantoms():
    return read(name="phantom_ct", size=32, count=120)


@pytest.fixture(scope="module")
def patients():
    """(images, labels, groups) of 60 patients, six slices each."""
    return phantom.draw(360, 24, 0)


def noise(rng, height=20, width=20):
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def picture_folder(root, classes=("cat", "dog"), count=8, first=1, seed=0):
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(first, first + count):
            Image.fromarray(noise(rng)).save(root / name / f"image ({number}).png")
    return root


# Settings

def test_each_data_set_has_its_usual_settings():
    assert DataSettings(name="cifar10").split == SplitSettings(kind="given", validation=0.1)
    assert DataSettings(name="cifar10", split={"kind": "given", "validation": 5000}).split.validation == 5000
    assert DataSettings(name="cifar10", split={"kind": "random"}).split.test == 0.15
    assert DataSettings(name="phantom_ct").count == 600
    assert (DataSettings(name="iq_othnccd").size, DataSettings(name="iq_othnccd").channels) == (224, 3)


def test_the_lung_slices_are_resized_in_the_papers_proportion():
    assert DataSettings(name="iq_othnccd").form().shorter_side == 256
    assert DataSettings(name="iq_othnccd", size=112).form().shorter_side == 128
    assert DataSettings(name="iq_othnccd", size=112, resize=112).form().shorter_side == 112
    assert DataSettings(name="image_folder", path="x", size=64).form().shorter_side == 64


def test_the_data_folder_is_named_by_the_environment_or_lies_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("KITLIB_DATA")
    assert data_folder() == Path(__file__).resolve().parents[1] / "data"


# Data sets

def test_digits_are_the_real_ones_enlarged(digits):
    assert digits.images.shape == (1797, 32, 32, 1) and digits.images.dtype == np.uint8
    assert digits.labels.dtype == np.int32 and not digits.synthetic
    assert list(digits.facts["whole"].values()) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert digits.images.max() > 250 and digits.images.min() == 0


def test_pixels_are_float32_from_0_to_1(digits):
    pixels = digits.pixels("test")
    assert pixels.dtype == np.float32 and pixels.min() == 0 and 0.98 < pixels.max() <= 1
    np.testing.assert_array_equal(np.rint(pixels * 255).astype(np.uint8), digits.images[digits.split["test"]])


def test_grey_is_repeated_for_three_channels(digits):
    coloured = read(name="digits", channels=3)
    assert coloured.images.shape[-1] == 3
    for channel in range(3):
        np.testing.assert_array_equal(coloured.images[..., channel], digits.images[..., 0])


def test_the_same_seed_gives_the_same_data_and_another_seed_other(phantoms):
    again, other = (read(name="phantom_ct", size=32, count=120, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.images, phantoms.images)
    np.testing.assert_array_equal(again.split["train"], phantoms.split["train"])
    assert (other.images != phantoms.images).any() and (other.split["train"] != phantoms.split["train"]).any()


def test_phantoms_are_synthetic_slices_of_patients(phantoms):
    assert phantoms.synthetic and phantoms.class_names == ("healthy", "nodule", "mass")
    assert len(np.unique(phantoms.groups)) == 120 / phantom.SLICES
    assert all(len(set(phantoms.labels[phantoms.groups == patient])) == 1 for patient in np.unique(phantoms.groups))


def test_phantom_classes_look_different_in_the_lungs_and_nowhere_else(patients):
    """A mass covers more lung than a nodule, which covers more than nothing; the rim of the picture is the same."""
    images, labels, _ = patients
    lung = images[:, 7:17, :, 0].mean((1, 2)) / 255
    healthy, nodule, mass = (lung[labels == label].mean() for label in range(3))
    assert mass > nodule > healthy
    rim = images[:, :2].mean((1, 2, 3))
    assert abs(rim[labels == 0].mean() - rim[labels == 2].mean()) < 1


def cifar10_batch(rng, count):
    labels = rng.permutation(np.arange(count) % 10)
    return np.hstack([labels[:, None], rng.integers(0, 256, (count, 3072))]).astype(np.uint8)


@pytest.fixture
def small_cifar10(monkeypatch):
    """Six batches of 40 records instead of 10,000."""
    monkeypatch.setattr(sources, "CIFAR10_RECORDS", 40)
    rng = np.random.default_rng(0)
    return {name: cifar10_batch(rng, 40) for name in sources.CIFAR10_FILES}


def write_binary(batches, folder):
    folder.mkdir(parents=True)
    for name, batch in batches.items():
        batch.tofile(folder / f"{name}.bin")


@pytest.mark.parametrize("nested", ["cifar-10-batches-bin", "cifar-10-batches-bin/cifar-10-batches-bin"])
def test_cifar10_is_read_from_the_binary_layout(small_cifar10, tmp_path, nested):
    write_binary(small_cifar10, tmp_path / nested)
    data = read(tmp_path, name="cifar10")
    assert {part: len(indices) for part, indices in data.split.items()} == {"train": 180, "validation": 20, "test": 40}
    assert data.facts["whole"]["frog"] == 24 and data.facts["as_expected"] is False and "NOT" in data.source
    record = small_cifar10["test_batch"][7]
    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
    found = data.split["test"][(data.images[data.split["test"]] == image).all((1, 2, 3))]
    assert data.labels[found].tolist() == [record[0]]


def test_cifar10_in_another_order_gives_the_same_data(small_cifar10, tmp_path):
    write_binary(small_cifar10, tmp_path / "one" / "cifar-10-batches-bin")
    train = np.concatenate([small_cifar10[name] for name in sources.CIFAR10_FILES[:5]])
    turned = [*np.random.default_rng(1).permutation(train).reshape(5, 40, -1), small_cifar10["test_batch"][::-1]]
    turned = dict(zip(sources.CIFAR10_FILES, turned, strict=True))
    write_binary(turned, tmp_path / "two" / "cifar-10-batches-bin")
    one, two = (read(tmp_path / name, name="cifar10", limits={"train": 50}) for name in ("one", "two"))
    assert one.facts == two.facts
    np.testing.assert_array_equal(one.images, two.images)


def python2_pickle(batch):
    """A batch as the official Python archive holds it: a Python 2 pickle of byte strings and small numbers."""
    pixels, labels = batch[:, 1:].tobytes(), b"".join(b"K" + bytes([label]) for label in batch[:, 0])
    return (b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(" + labels + b"eU\x04dataq\x04T"
            + struct.pack("<i", len(pixels)) + pixels + b"u.")


def write_archive(path, batches):
    with tarfile.open(path, "w:gz") as archive:
        for name, batch in batches.items():
            data = python2_pickle(batch)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_cifar10_is_read_from_keras_download_without_unpickling_and_kept(small_cifar10, tmp_path, monkeypatch):
    keras_home = tmp_path / "keras"
    monkeypatch.setenv("KERAS_HOME", str(keras_home))
    (keras_home / "datasets").mkdir(parents=True)
    archive = keras_home / "datasets" / "cifar-10-batches-py-target_archive"
    write_archive(archive, small_cifar10)
    monkeypatch.setattr(sources, "CIFAR10_ARCHIVE_SHA256", files.sha256(archive))
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    write_binary(small_cifar10, tmp_path / "binary" / "cifar-10-batches-bin")
    expected = read(tmp_path / "binary", name="cifar10")
    np.testing.assert_array_equal(read(tmp_path / "data", name="cifar10").images, expected.images)
    archive.unlink()
    kept = read(tmp_path / "data", name="cifar10")
    np.testing.assert_array_equal(kept.labels, expected.labels)


@pytest.mark.parametrize("nested", [1, 2])
def test_the_lung_folder_is_found_once_or_twice_nested_and_bengin_is_benign(tmp_path, nested):
    lung_folder(tmp_path, nested)
    data = read(tmp_path, name="iq_othnccd", size=16, split={"kind": "random", "validation": 9, "test": 10})
    assert data.class_names == ("benign", "malignant", "normal")
    assert data.facts["whole"] == {"benign": 12, "malignant": 30, "normal": 21}
    assert data.facts["shapes"] == {"40 x 30": 63}
    assert data.files[:11].tolist() == [f"Bengin cases/Bengin case ({number}).jpg" for number in range(1, 12)]
    assert data.images.shape == (63, 16, 16, 3) and len(data.split["test"]) == 10


def test_lung_groups_keep_neighbours_together(tmp_path):
    lung_folder(tmp_path)
    data = read(tmp_path, name="iq_othnccd", size=16, split={"kind": "grouped"})
    assert len(np.unique(data.groups)) == 21
    assert data.groups.reshape(-1, 3).std(1).max() == 0
    assert data.report()["groups_shared"] == 0
    assert read(tmp_path, name="iq_othnccd", size=16).report()["groups_shared"] > 10


def test_grouped_parts_have_the_sizes_asked_for():
    _, labels, groups = phantom.draw(360, 24, 0)
    chosen = SplitSettings(kind="grouped", validation=0.1, test=0.3)
    parts = splits.split(labels, chosen, 0, phantom.CLASSES, groups=groups)
    assert abs(len(parts["validation"]) - 36) <= 12 and abs(len(parts["test"]) - 108) <= 12


def test_preparation_is_resize_of_the_shorter_side_then_centre_crop():
    """As torchvision's Resize(32), CenterCrop(28): 40 x 60 becomes 32 x 48, of which rows 2-29 and columns 10-37."""
    picture = Image.fromarray(noise(np.random.default_rng(0), 40, 60))
    expected = np.asarray(picture.resize((48, 32), Image.Resampling.BILINEAR))[2:30, 10:38]
    form = pictures.Form(28, 28, 3, pictures.Loading("resize-and-crop", resize=32))
    np.testing.assert_array_equal(np.asarray(pictures._with_torchvision(picture, form)), expected)


def test_image_folder_reads_classes_and_keeps_a_decoded_copy(tmp_path):
    picture_folder(tmp_path / "pets")
    settings = {"name": "image_folder", "path": "pets", "size": 20}
    data = read(tmp_path, **settings)
    assert data.class_names == ("cat", "dog") and data.images.shape == (16, 20, 20, 3)
    np.testing.assert_array_equal(data.images[9], np.asarray(Image.open(tmp_path / "pets/dog/image (2).png")))
    copies = list((tmp_path / ".cache").iterdir())
    assert len(copies) == 1
    np.testing.assert_array_equal(read(tmp_path, **settings).images, data.images)
    copies[0].write_bytes(copies[0].read_bytes()[:100])
    np.testing.assert_array_equal(read(tmp_path, **settings).images, data.images)
    Image.new("RGB", (20, 20), "red").save(tmp_path / "pets/cat/image (1).png")
    assert (read(tmp_path, **settings).images[0] == [255, 0, 0]).all()


def test_image_folder_with_parts_of_its_own(tmp_path):
    for part, count in {"train": 12, "val": 4, "test": 6}.items():
        picture_folder(tmp_path / "pets" / part, count=count, seed=count)
    settings = {"name": "image_folder", "path": str(tmp_path / "pets"), "split": {"kind": "given"}}
    data = read(tmp_path, **settings)
    assert {part: len(indices) for part, indices in data.split.items()} == {"train": 24, "validation": 8, "test": 12}
    assert all(name.startswith("test/") for name in data.files[data.split["test"]])
    for place in (tmp_path / "pets" / "val").iterdir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    (tmp_path / "pets" / "val").rmdir()
    drawn = read(tmp_path, **settings)
    assert {part: len(indices) for part, indices in drawn.split.items()} == {"train": 20, "validation": 4, "test": 12}
    assert all(name.startswith("train/") for name in drawn.files[drawn.split["validation"]])


def test_a_read_only_data_folder_only_costs_time(tmp_path, monkeypatch):
    def refuse(path, **arrays):
        raise KitError("read-only")

    monkeypatch.setattr(files, "write_arrays", refuse)
    picture_folder(tmp_path / "pets")
    assert len(read(tmp_path, name="image_folder", path="pets").labels) == 16


# Splits

def test_paper_b_split_has_its_exact_counts():
    labels = np.repeat([0, 1, 2], [120, 561, 416])
    parts = splits.split(labels, SplitSettings(kind="random", validation=165, test=160), 0, ("b", "m", "n"))
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 772, "validation": 165, "test": 160}
    assert np.bincount(labels[parts["test"]]).tolist() == [17, 82, 61]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=6), st.floats(0.01, 0.99))
def test_shares_are_exact_proportional_and_possible(counts, share):
    counts = np.array(counts)
    total = max(1, int(share * counts.sum()))
    shares = splits.allocate(counts, total)
    assert shares.sum() == total and (shares <= counts).all() and (shares >= 0).all()
    assert total < len(counts) or shares.min() >= 1
    quota = counts * total / counts.sum()
    assert (np.abs(shares - quota) < 1 + (quota < 1).sum()).all()


@pytest.mark.parametrize("kind", ["random", "grouped"])
def test_parts_are_disjoint_whole_and_stratified(patients, kind):
    parts = split_patients(patients, kind)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(360))
    for part, share in {"train": 0.7, "validation": 0.15, "test": 0.15}.items():
        counts = np.bincount(patients[1][parts[part]]) / 120
        np.testing.assert_allclose(counts, share, atol=0.01 if kind == "random" else 0.06)
    together = set(patients[2][parts["train"]]) & set(patients[2][parts["test"]])
    assert (not together) == (kind == "grouped")


def split_patients(patients, kind, seed=0):
    return splits.split(patients[1], SplitSettings(kind=kind), seed, phantom.CLASSES, groups=patients[2])


def test_grouped_splits_differ_by_seed(patients):
    assert len({tuple(split_patients(patients, "grouped", seed)["test"]) for seed in range(3)}) == 3


def test_limits_take_a_stratified_subset_and_drop_the_rest():
    data = read(name="digits", limits={"train": 100, "test": 30})
    assert [len(data.split[part]) for part in ("train", "validation", "test")] == [100, 270, 30]
    assert len(data.images) == 400 and sum(data.facts["whole"].values()) == 1797
    assert set(data.report()["counts"]["test"].values()) == {3}


def test_limited_parts_are_subsets_of_the_whole_parts(digits):
    limited = read(name="digits", channels=1, limits={"test": 40})
    whole = {image.tobytes() for image in digits.images[digits.split["test"]]}
    assert {image.tobytes() for image in limited.images[limited.split["test"]]} < whole


def test_part_gives_a_stratified_sample_of_pixels_and_labels(digits):
    pixels, labels = digits.part("test", limit=50)
    assert pixels.shape == (50, 32, 32, 1) and np.bincount(labels).tolist() == [5] * 10
    np.testing.assert_array_equal(digits.part("test", limit=50)[1], labels)
    assert len(digits.part("test", limit=10_000)[1]) == len(digits.split["test"])
    with pytest.raises(KitError, match="there is no part of the data 'tests'; did you mean 'test'"):
        digits.part("tests")


# Saving and reporting

def test_a_saved_data_set_comes_back_equal(phantoms, tmp_path):
    phantoms.save(tmp_path / "data.npz")
    back = Dataset.load(tmp_path / "data.npz")
    for name in ("images", "labels", "groups"):
        np.testing.assert_array_equal(getattr(back, name), getattr(phantoms, name))
        assert getattr(back, name).dtype == getattr(phantoms, name).dtype
    assert back.report() == phantoms.report() and back.files is None
    fewer = {**phantoms.split, "train": phantoms.split["train"][1:]}
    assert back.digest == phantoms.digest != dataclasses.replace(phantoms, split=fewer).digest
    assert (back.name, back.class_names, back.synthetic) == ("phantom_ct", phantoms.class_names, True)


def test_report_finds_copies_within_and_across_parts(tmp_path):
    picture_folder(tmp_path / "pets", count=10)
    for copy in ("cat/image (8).png", "cat/image (9).png"):
        (tmp_path / "pets" / copy).write_bytes((tmp_path / "pets/cat/image (1).png").read_bytes())
    (tmp_path / "pets/cat/notes.txt").write_text("no picture")
    report = read(tmp_path, name="image_folder", path="pets", split={"validation": 5, "test": 5}).report()
    assert report["identical_files"] == report["identical_images"] == 2
    assert sum(report["shared"].values()) >= 1
    assert report["total"] == {"cat": 10, "dog": 10} and "(not read: 1 .txt)" in report["source"]


# What images share

def test_identical_lists_sets_of_copies():
    sets = similarity.identical(np.array(["b", "a", "c", "b", "a", "b"]))
    assert sorted(copies.tolist() for copies in sets) == [[0, 3, 5], [1, 4]]


def test_near_duplicates_are_found_whatever_brightness_and_across_blocks(monkeypatch):
    monkeypatch.setattr(similarity, "ROWS", 7)
    rng = np.random.default_rng(0)
    images = rng.integers(40, 200, (30, 64, 64, 1)).astype(np.uint8)
    images[25] = images[3] + 20
    pairs, values = similarity.near_duplicates(images)
    assert pairs.tolist() == [[3, 25]] and values[0] > 0.999


def test_copies_rank_first_and_constant_ones_are_linked():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 1)).astype(np.uint8)
    images[20:30] = images[:10]                                 # copies
    images[30:40] = images[:10]
    images[30:40, 0, 0, 0] += 1                                 # almost, so that float32 cannot tell
    flat = np.full((4, 64, 64, 1), 7, np.uint8)
    flat[3] = 8
    pairs, values = similarity.near_duplicates(np.concatenate([images, flat]))
    copies = [[number, number + 20] for number in range(10)] + [[40, 41], [40, 42], [41, 42]]
    assert pairs[:13].tolist() == copies and (values[:13] == 1).all() and 0.999 < values[13:].min()
    assert values[13:].max() < 1 and len(pairs) == 33 and not (pairs == 43).any()
    groups = similarity.find_groups(flat, np.zeros(4, np.int32))
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_groups_link_alike_neighbours_of_a_class_and_distant_duplicates():
    rng = np.random.default_rng(0)
    base = rng.normal(0, 40, (4, 64, 64))

    def alike(patient, spread):
        return np.clip(128 + base[patient] + rng.normal(0, spread, (64, 64)), 0, 255).astype(np.uint8)

    #        patient 0 twice   patient 1         patient 0, almost the same   patient 2: next in number, other class: 2
    images = np.stack([alike(0, 2), alike(0, 30), alike(1, 2), alike(0, 2), alike(2, 30), alike(2, 30)])
    groups = similarity.find_groups(images, np.array([0, 0, 0, 0, 0, 1]))
    assert groups[0] == groups[1] == groups[3]
    assert len({groups[0], groups[2], groups[4], groups[5]}) == 4


def test_neighbours_in_number_are_more_alike_than_random_pairs(phantoms):
    found = similarity.neighbour_similarity(phantoms.images, phantoms.labels)
    for label in range(3):
        assert found[label]["by_lag"][1] > found[label]["by_lag"][10]
        assert found[label]["by_lag"][1] > found[label]["random"] + 0.01
        assert len(found[label]["consecutive"]) == (phantoms.labels == label).sum() - 1
    np.testing.assert_allclose(np.diag(similarity.similarity_map(phantoms.images[:9])), 1, atol=1e-5)


def test_a_memory_scores_high_where_patients_are_torn_apart(patients):
    images, labels, _ = patients
    scores = {}
    for kind in ("random", "grouped"):
        parts = split_patients(patients, kind)
        scores[kind] = similarity.nearest_neighbour(images, labels, parts["train"], parts["test"])
    assert scores["random"]["accuracy"] > 0.9 > 0.7 > scores["grouped"]["accuracy"]
    assert scores["random"]["count"] == 54


def test_nearest_neighbour_is_the_nearest(digits):
    train, test = digits.split["train"][:200], digits.split["test"][:20]
    found = similarity.nearest_neighbour(digits.images, digits.labels, train, test)
    flat = digits.images.reshape(len(digits.images), -1).astype(float)
    expected = [train[np.linalg.norm(flat[train] - flat[one], axis=1).argmin()] for one in test]
    assert found["nearest"].tolist() == expected


def test_last_of_each_class_and_pairs_across():
    train, test = similarity.last_of_each_class(np.array([0] * 10 + [1] * 20), 0.2)
    assert test.tolist() == [8, 9, 26, 27, 28, 29] and len(train) == 24
    pairs = np.array([[1, 9], [0, 1], [8, 9], [3, 29]])
    assert similarity.across(pairs, train, test).tolist() == [[1, 9], [3, 29]]


# The real data, where they are

real_cifar10 = pytest.mark.skipif(not (REAL / "cifar-10-batches-bin").is_dir(), reason="KITLIB_DATA holds no CIFAR-10")
real_lung = pytest.mark.skipif(not (REAL / "iq-othnccd").is_dir(), reason="KITLIB_DATA holds no IQ-OTH/NCCD")


@real_cifar10
def test_the_real_cifar10_is_whole():
    data = read(REAL, name="cifar10", limits={"train": 1000, "validation": 100, "test": 100})
    assert data.facts["as_expected"] is True and set(data.facts["whole"].values()) == {6000}
    assert set(data.report()["counts"]["train"].values()) == {100}


@pytest.fixture(scope="module")
def lung():
    return read(REAL, name="iq_othnccd", size=128, resize=128, channels=1, split={"kind": "grouped"})


@real_lung
def test_the_real_lung_slices_are_as_found_before(lung):
    report = lung.report()
    assert report["as_expected"] is True and report["identical_files"] == 42
    assert report["total"] == {"benign": 120, "malignant": 561, "normal": 416}
    assert 110 < report["groups"] < 200 and report["groups_shared"] == 0


@real_lung
def test_on_the_real_slices_a_memory_scores_far_more_on_a_random_split(lung):
    random = splits.split(lung.labels, SplitSettings(kind="random"), 0, lung.class_names)
    score = similarity.nearest_neighbour(lung.images, lung.labels, random["train"], random["test"])
    assert score["accuracy"] > 0.95
    held = similarity.nearest_neighbour(lung.images, lung.labels, *similarity.last_of_each_class(lung.labels))
    assert (held["correct"], held["count"]) == (125, 164)
    grouped = similarity.nearest_neighbour(lung.images, lung.labels, lung.split["train"], lung.split["test"])
    assert grouped["accuracy"] < 0.9
