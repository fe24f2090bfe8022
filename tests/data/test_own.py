"""Data sets of one's own: pictures in a folder, arrays in a file."""

import os
import zipfile
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from wnrl import data
from wnrl.errors import UsageError

PARTS = ("train", "valid", "test")


def picture(path, value, mode="L", size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


@pytest.fixture
def folder(tmp_path):
    """Forty grey pictures, each of its own level, some of them in subfolders without a meaning."""
    for k in range(40):
        picture(tmp_path / "pics" / ("more" if k % 2 else ".") / f"{k}.png", k)
    return tmp_path / "pics"


def levels(images):
    """The first pixel of each image, by part."""
    return {name: images.part(name)[:, 0, 0, 0].tolist() for name in PARTS}


def test_pictures_of_a_folder_are_split_by_their_paths_into_every_one_once(folder):
    images = data.load(f"folder:{folder}")
    assert images.shape == data.dataset(f"folder:{folder}").shape == (1, 4, 6)
    assert images.levels == data.dataset(f"folder:{folder}").levels == 256
    by_part = levels(images)
    assert sorted(chain(*by_part.values())) == list(range(40))
    assert len(by_part["train"]) > 20
    sizes = " / ".join(str(len(by_part[name])) for name in PARTS)
    assert images.split == f"{sizes} pictures, by the SHA-256 of their paths"


def test_folders_that_are_links_are_looked_into(folder, tmp_path):
    for part in PARTS:
        picture(tmp_path / "mine" / part / "0.png", 1)
    (tmp_path / "mine" / "train" / "more").symlink_to(folder)
    (tmp_path / "mine" / "valid" / "more").symlink_to(folder / "more")
    by_part = levels(data.load(f"folder:{tmp_path / 'mine'}"))
    assert {name: len(values) for name, values in by_part.items()} == {
        "train": 41, "valid": 21, "test": 1
    }  # fmt: skip


def test_a_link_to_a_folder_above_it_adds_no_picture(folder):
    (folder / "more" / "again").symlink_to(folder)
    (folder / "more" / "itself").symlink_to(".")
    by_part = levels(data.load(f"folder:{folder}"))
    assert sorted(chain(*by_part.values())) == list(range(40))


def test_a_picture_stays_in_its_part_when_others_come_and_the_folder_moves(folder, tmp_path):
    before = levels(data.load(f"folder:{folder}"))
    for k in range(100, 140):
        picture(folder / "new" / f"{k}.png", k)
    moved = folder.rename(tmp_path / "moved")
    after = levels(data.load(f"folder:{moved}"))
    for name in PARTS:
        assert set(before[name]) == {level for level in after[name] if level < 100}


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
    ],
)
def test_subfolders_are_the_parts_where_they_are_called_so(tmp_path, names):
    for name, value in zip(names, (1, 2, 3), strict=True):
        for k in range(3):
            picture(tmp_path / name / f"{k}.png", value)
    images = data.load(f"folder:{tmp_path}")
    assert levels(images) == {"train": [1] * 3, "valid": [2] * 3, "test": [3] * 3}
    assert images.split == "3 / 3 / 3 pictures, by their folders"


def test_without_a_folder_for_validation_it_is_a_part_of_the_training_pictures(tmp_path):
    for k in range(60):
        picture(tmp_path / "train" / f"{k}.png", k)
    picture(tmp_path / "test" / "0.png", 200)
    by_part = levels(data.load(f"folder:{tmp_path}"))
    assert by_part["test"] == [200]
    assert 0 < len(by_part["valid"]) < 20
    assert sorted(by_part["train"] + by_part["valid"]) == list(range(60))


@pytest.mark.parametrize("names", [("train", "val"), ("test",), ("cats", "dogs", "Validation")])
def test_folders_of_parts_without_train_and_test_are_refused_with_the_remedy(tmp_path, names):
    for k in range(40):
        picture(tmp_path / names[k % len(names)] / f"{k}.png", k)
    with pytest.raises(UsageError, match=r"must have train and test, and perhaps valid, as subf"):
        data.load(f"folder:{tmp_path}")


def test_a_class_called_train_is_no_part_of_a_folder(tmp_path):
    for k in range(40):
        picture(tmp_path / ("train", "bus", "car")[k % 3] / f"{k}.png", k)
    assert data.load(f"folder:{tmp_path}").split.endswith("by the SHA-256 of their paths")


def test_colours_stand_plane_by_plane(tmp_path):
    for part in PARTS:
        picture(tmp_path / part / "a.jpg", (10, 100, 200), "RGB", (16, 16))
    images = data.load(f"folder:{tmp_path}")
    assert images.shape == (3, 16, 16)
    assert (images.train[0, :, 5, 5] - torch.tensor([10.0, 100.0, 200.0])).abs().max() < 4


def test_hidden_files_and_other_files_are_no_pictures(folder):
    (folder / ".hidden.png").write_bytes(b"of a file system")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "0.png").write_bytes(b"of a file system")
    (folder / "notes.txt").write_text("text")
    assert len([*chain(*levels(data.load(f"folder:{folder}")).values())]) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: picture(f / "z.png", 1, size=(9, 9)), r"one size: .*0.png is 6 × 4, .*9 × 9"),
        (lambda f: picture(f / "z.png", (1, 2, 3), "RGB"), "z.png has colour, which .*0.png has"),
        (lambda f: picture(f / "z.png", 1, "I;16"), "z.png must have 8 bits a colour"),
        (lambda f: os.mkfifo(f / "z.png"), "z.png is no file, or not there"),
        (lambda f: (f / "z.png").symlink_to("nowhere"), "z.png is no file, or not there"),
        (lambda f: (f / "z.png").write_bytes(b"text"), "z.png is damaged or no picture"),
        (lambda f: (f / "z.png").write_bytes((f / "0.png").read_bytes()[:-30]), "z.png is damaged"),
        (lambda f: [p.unlink() for p in f.rglob("*.png")], "has no pictures"),
        (lambda f: [p.unlink() for p in [*f.rglob("*.png")][2:]], "has no picture for 'valid'"),
        (lambda f: [picture(f / p / "a.png", 1) for p in PARTS], "in none of the folders train"),
    ],
)
def test_a_folder_that_is_no_set_of_pictures_is_refused_in_a_line(folder, change, message):
    change(folder)
    with pytest.raises(UsageError, match=message) as refused:
        data.load(f"folder:{folder}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("written", ["folder:pics/", "folder:./pics", "npz:./mine.npz"])
def test_a_path_may_be_written_in_any_way(written, folder, tmp_path, monkeypatch):
    saved(tmp_path, x=counting(20, 5, 5))
    monkeypatch.chdir(tmp_path)
    assert data.load(written).name == written


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_a_path_that_is_not_there_is_an_error(form, tmp_path):
    with pytest.raises(UsageError, match=rf"dataset '{form}:.*nowhere'.*: no f"):
        data.dataset(f"{form}:{tmp_path / 'nowhere'}")


@pytest.mark.parametrize("name", ["folder:", "npz:", "zip:here"])
def test_a_form_without_a_path_and_an_unknown_form_are_refused(name):
    with pytest.raises(UsageError, match=r"dataset must be one of .*folder:<path>, npz:<path>"):
        data.dataset(name)


def counting(n, *shape):
    return np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(n, *[1] * len(shape)), (n, *shape))


def saved(folder, **arrays):
    np.savez(folder / "mine.npz", **arrays)
    return f"npz:{folder / 'mine.npz'}"


def test_arrays_by_name_are_the_parts(tmp_path):
    parts = {name: counting(k, 3, 8, 9) for k, name in enumerate(PARTS, 3)}
    images = data.load(saved(tmp_path, **parts))
    assert levels(images) == {"train": [0, 1, 2], "valid": [0, 1, 2, 3], "test": [0, 1, 2, 3, 4]}
    assert images.shape == (3, 8, 9)
    assert images.split == "3 / 4 / 5 images, as in the file"


@pytest.mark.parametrize("valid", ["valid", "val", "x_valid", "x_val"])
def test_an_array_for_validation_is_taken_under_each_of_its_names(tmp_path, valid):
    parts = {"train": counting(3, 8, 9), valid: counting(4, 8, 9), "test": counting(5, 8, 9)}
    assert levels(data.load(saved(tmp_path, **parts, labels=np.arange(3))))["valid"] == [0, 1, 2, 3]


def test_arrays_of_keras_have_their_last_tenth_for_validation(tmp_path):
    name = saved(
        tmp_path, x_train=counting(20, 5, 5), y_train=np.ones(20), x_test=counting(3, 5, 5)
    )
    by_part = levels(data.load(name))
    assert by_part == {"train": [*range(18)], "valid": [18, 19], "test": [0, 1, 2]}


def test_a_single_array_is_split_by_its_rows(tmp_path):
    by_part = levels(data.load(saved(tmp_path, images=counting(25, 5, 5))))
    assert (by_part["valid"], by_part["test"]) == ([8, 18], [9, 19])
    assert by_part["train"] == [k for k in range(25) if k % 10 < 8]


def test_truth_values_are_two_levels_and_a_number_says_others(tmp_path):
    assert data.load(saved(tmp_path, x=counting(20, 5, 5) > 3)).levels == 2
    assert data.load(saved(tmp_path, x=counting(20, 5, 5), levels=np.array(20))).levels == 20


def test_what_is_written_into_images_of_a_file_is_in_none_that_are_read_later(tmp_path):
    name = saved(tmp_path, x=counting(20, 5, 5))
    data.load(name).train.zero_()
    assert levels(data.load(name))["train"] == [k for k in range(20) if k % 10 < 8]


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    assert data.dataset(saved(tmp_path, x=counting(20, 5, 5))).shape == (1, 5, 5)
    assert data.dataset(saved(tmp_path, x=counting(30, 6, 7))).shape == (1, 6, 7)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": counting(20, 28, 28, 3)}, r"channels in front .*permute\(0, 3, 1, 2\)"),
        ({"x": counting(32, 32, 3, 50)}, r"channels in front .* \(3, 2, 0, 1\)"),  # as SVHN has it
        ({"x": counting(28, 28, 100)}, r"28 images of 28 × 100 or 100 of 28 × 28: .*transpose\("),
        ({p: counting(9, 9, 50) for p in ("train", "test")}, "9 images of 9 × 50 or 50 of 9 × 9"),
        ({"x": counting(20, 5, 5) / 255}, r"whole numbers from 0 to 255, .*\(255 \* x\).round\(\)"),
        ({"x": counting(20, 5, 5) - 300.0}, "whole numbers from 0 to 255"),
        ({"x": np.full((20, 5, 5), np.nan)}, "whole numbers from 0 to 255"),
        ({"x": np.full((20, 5, 5), "a")}, "must have uint8, .* got <U1"),
        ({"x": counting(20, 5, 5).astype(int)}, "must have uint8, .* got int64"),
        ({"x": counting(20, 5)}, r"images \(N, C, height, width\) or"),
        ({"x": np.array(3)}, "images"),
        ({"x": counting(5, 5, 5)}, "images .* for 'valid'"),
        ({"x": counting(20, 5, 5) % 2}, "zeros and ones alone: say so with an array levels=2"),
        ({"x": counting(20, 5, 5), "levels": np.array(1)}, "levels from 2 to 256"),
        ({"x": counting(20, 5, 5), "levels": np.array(3)}, "from 0 to levels - 1 = 2, got"),
        (
            {"a": counting(20, 5, 5), "b": counting(20, 5, 5)},
            "test and perhaps .* or a single array",
        ),
        (
            {p: counting(20, 5, 5) for p in ("train", "test", "dev")},
            "no other .*train, test, dev",
        ),
        (
            {p: counting(20, 5, 5) for p in ("train", "x_train", "test")},
            "each once .* x_train, test",
        ),
        ({"train": counting(20, 5, 5), "test": counting(20, 5, 5) > 3}, "truth values in all"),
        ({"x": np.zeros((20, 0, 5))}, r"images \(N, C, height, width\) or"),
        ({"train": counting(20, 5, 5), "test": counting(20, 5, 6)}, "height and width of train"),
        ({"x": np.array([None])}, "is damaged or no .npz file of arrays"),  # a pickle
        ({}, "got none"),
    ],
)
def test_arrays_that_are_no_images_are_refused_in_a_line(tmp_path, arrays, message):
    name = saved(tmp_path, **arrays)
    with pytest.raises(UsageError, match=message) as refused:
        data.load(name)
    assert "\n" not in str(refused.value)


def test_as_many_images_as_one_is_high_are_told_from_the_number_behind_by_a_channel(tmp_path):
    assert data.load(saved(tmp_path, x=counting(28, 1, 28, 100))).shape == (1, 28, 100)
    parts = {"train": counting(20, 5, 6), "valid": counting(5, 5, 6), "test": counting(5, 5, 6)}
    assert data.load(saved(tmp_path, **parts)).shape == (1, 5, 6)


def test_stacks_of_frames_and_planes_of_games_are_images(tmp_path):
    for shape in (4, 8, 9), (12, 8, 9), (10, 10, 10), (13, 16, 16):
        assert data.load(saved(tmp_path, x=counting(20, *shape))).shape == shape


def test_a_zip_of_other_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as zipped:
        zipped.writestr("notes.txt", "text")
    with pytest.raises(UsageError, match=r"is damaged or no \.npz file"):
        data.load(f"npz:{tmp_path / 'mine.npz'}")


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "mine.npz").write_bytes(b"text")
    with pytest.raises(UsageError, match=r"is damaged or no \.npz file"):
        data.load(f"npz:{tmp_path / 'mine.npz'}")
