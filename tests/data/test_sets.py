import hashlib
import io
import sys
import tarfile
import zlib
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_digits

from wnrl import data
from wnrl.data import sets
from wnrl.data.files import File, candidates, fetch
from wnrl.errors import UsageError

CHECKSUMS = [2204355587, 2356445317, 645888276]
FILES = {
    "mnist": sets.MNIST,
    "mnist-static": sets.STATIC,
}
SIZES = {
    "mnist": [59_600, 400, 10_000],
    "mnist-static": [50_000, 10_000, 10_000],
}


def needs(name):
    """Skips a test where the files of a data set are not."""
    here = all(any(candidates(name, file)) for file in FILES[name])
    return pytest.mark.skipif(not here, reason=f"the files of {name} are not here")


PUBLISHED = [pytest.param(name, marks=needs(name)) for name in FILES]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_parts_have_the_documented_sizes_and_type(digits):
    sizes = [tuple(digits.part(name).shape) for name in ("train", "valid", "test")]
    assert sizes == [(1297, 1, 8, 8), (200, 1, 8, 8), (300, 1, 8, 8)]
    assert {digits.part(name).dtype for name in ("train", "valid", "test")} == {torch.uint8}


def test_digits_split_is_disjoint_and_total(digits):
    rows = torch.cat([digits.train, digits.valid, digits.test]).flatten(1)
    everything = torch.from_numpy(load_digits().data).to(torch.uint8)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, everything.tolist()))
    # No two of the 1797 images are equal, so equal rows in two parts would show here.
    assert len(set(map(tuple, rows.tolist()))) == len(rows)


def test_digits_split_is_the_same_for_ever(digits):
    checksums = [zlib.crc32(digits.part(p).numpy().tobytes()) for p in ("train", "valid", "test")]
    assert checksums == CHECKSUMS


def test_digits_step_reaches_every_row_once():
    rows = torch.arange(1797) * sets.DIGITS_STRIDE % 1797
    assert rows.unique().numel() == 1797


def test_every_part_of_digits_holds_every_digit_in_about_the_same_share(digits):
    target = torch.from_numpy(load_digits().target)
    labels = target[torch.arange(1797) * sets.DIGITS_STRIDE % 1797]
    for part in labels.split([1297, 200, 300]):
        shares = part.bincount(minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.03


def test_every_part_of_digits_comes_evenly_from_the_whole_file(digits):
    rows = torch.arange(1797) * sets.DIGITS_STRIDE % 1797
    for part in rows.split([1297, 200, 300]):
        counts = torch.histc(part.float(), bins=13, min=0, max=1797)
        assert (counts / len(part) - 1 / 13).abs().max() < 0.01


@pytest.mark.parametrize("name", ["digits", *PUBLISHED])
def test_table_knows_shape_and_levels_without_reading(name):
    images = data.load(name)
    assert data.DATASETS[name].shape == images.shape
    assert data.DATASETS[name].levels == images.levels


@pytest.mark.parametrize("name", ["digits", *PUBLISHED])
def test_white_is_the_last_of_the_levels(name):
    images = data.load(name)
    assert int(images.train.max()) == images.levels - 1


def test_unknown_dataset_is_refused_with_the_nearest_word():
    with pytest.raises(UsageError, match=r"dataset must be one of .*did you mean 'digits'"):
        data.load("digit")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.rand(3, 1, 8, 8), "valid must be grey levels, uint8, .* got torch.float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got torch.uint8 of \(3, 8, 8\)"),
        (torch.zeros(3, 1, 9, 8, dtype=torch.uint8), r"got torch.uint8 of \(3, 1, 9, 8\)"),
        (
            torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
            r"uint8, .* of \(3, 8, 8, 3\)",
        ),
        (torch.full((3, 1, 8, 8), 17, dtype=torch.uint8), "from 0 to levels - 1 = 16, got 17"),
    ],
)
def test_images_of_another_type_shape_or_range_are_refused(digits, wrong, message):
    with pytest.raises(UsageError, match=message):
        replace(digits, valid=wrong)


def test_unknown_part_is_refused_with_the_nearest_word(digits):
    with pytest.raises(UsageError, match=r"split must be one of .*did you mean 'valid'"):
        digits.part("validation")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parts_have_their_published_sizes(name):
    images = data.load(name)
    assert [len(images.part(p)) for p in ("train", "valid", "test")] == SIZES[name]


@needs("mnist-static")
def test_published_text_holds_the_bits_of_the_idx_files(tmp_path):
    """The text is made from the idx files, and has the pixels of the published one."""
    images = data.load("mnist-static")
    text = torch.full((10_000, 2 * 784), ord(" "), dtype=torch.uint8)
    text[:, ::2] = images.test.flatten(1) + ord("0")
    text[:, -1] = ord("\n")
    (tmp_path / sets.STATIC[2].name).write_bytes(text.numpy().tobytes())
    assert torch.equal(fetch("mnist-static", sets.STATIC[2], tmp_path).unsqueeze(1), images.test)


@needs("mnist")
def test_the_last_400_training_images_of_mnist_are_for_validation():
    images = data.load("mnist")
    everything = fetch("mnist", sets.MNIST[0], None).unsqueeze(1)
    assert torch.equal(torch.cat([images.train, images.valid]), everything)


def test_cifar_is_read_plane_by_plane(tmp_path, monkeypatch):
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for k, part in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            pixels = (torch.arange(3072) % 251).to(torch.uint8)
            row = bytes([9]) + pixels.numpy().tobytes()
            content = row * 2 if part == "test_batch" else row + bytes([9]) + bytes([k]) * 3072
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{part}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    checksum = "md5:" + hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(sets, "CIFAR10", File(path.name, checksum, ""))
    images = data.load("cifar10", tmp_path)
    assert [len(images.part(p)) for p in ("train", "valid", "test")] == [8, 2, 2]
    assert images.train[1::2, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert images.valid[1, 0, 0, 0] == 4
    assert images.shape == (3, 32, 32)
    assert images.test[0, 1, 0, 2] == (1024 + 2) % 251
    assert images.test[0, 0, 1, 0] == 32


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_their_channels_last_are_refused_with_the_remedy(channels):
    last = torch.zeros(3, 28, 28, channels, dtype=torch.uint8)
    with pytest.raises(
        UsageError, match=r"channels in front .* got \(3, 28, 28, .*permute\(0, 3, 1"
    ):
        data.Images("mine", last, last, last, levels=256, split="")
    first = last.permute(0, 3, 1, 2)
    assert data.Images("mine", first, first, first, levels=256, split="").shape == (
        channels,
        28,
        28,
    )


def test_small_pictures_with_few_channels_are_taken_as_they_are():
    small = torch.zeros(3, 2, 4, 3, dtype=torch.uint8)
    assert data.Images("mine", small, small, small, levels=256, split="").shape == (2, 4, 3)


def test_digits_without_their_package_are_refused_in_a_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError) as refused:
        data.load("digits")
    assert str(refused.value) == (
        "dataset 'digits' needs sklearn, which is missing: pip install 'wnrl[lab]'"
    )


@pytest.mark.parametrize("row", [{"shape": (1, 8, 9)}, {"levels": 16}, {"name": "other"}])
def test_a_row_that_says_other_images_than_are_read_is_refused(digits, monkeypatch, row):
    name = row.pop("name", "digits")
    wrong = replace(data.DATASETS["digits"], **row)
    monkeypatch.setitem(data.DATASETS, name, wrong)
    with pytest.raises(
        UsageError, match=r"must be read as name, shape and levels .*, got \('digits'"
    ):
        data.load(name)


@pytest.mark.parametrize("read", [lambda: None, lambda folder: {}["x"], lambda folder: None])
def test_what_reads_a_row_of_ones_own_is_told_in_a_line_where_it_stumbles(monkeypatch, read):
    monkeypatch.setitem(data.DATASETS, "mine", data.Dataset((1, 8, 8), 2, read))
    with pytest.raises(UsageError, match=r"dataset 'mine' cannot be read: \w+Error: .* line \d+\)"):
        data.load("mine")
