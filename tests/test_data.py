import gzip
import hashlib
import zlib

import pytest
import torch
from sklearn.datasets import load_digits

from wnrl import data
from wnrl.errors import UsageError

CHECKSUMS = [2204355587, 2356445317, 645888276]


def mnist_is_here():
    try:
        for name in data.MNIST_FILES:
            data.find_file("mnist", name, None, data.MNIST_URL)
    except UsageError:
        return False
    return True


needs_mnist = pytest.mark.skipif(not mnist_is_here(), reason="the files of MNIST are not here")


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
    rows = torch.arange(1797) * data.DIGITS_STRIDE % 1797
    assert rows.unique().numel() == 1797


def test_every_part_of_digits_holds_every_digit_in_about_the_same_share(digits):
    target = torch.from_numpy(load_digits().target)
    labels = target[torch.arange(1797) * data.DIGITS_STRIDE % 1797]
    for part in labels.split([1297, 200, 300]):
        shares = part.bincount(minlength=10) / len(part)
        assert (shares - 0.1).abs().max() < 0.03


def test_every_part_of_digits_comes_evenly_from_the_whole_file(digits):
    rows = torch.arange(1797) * data.DIGITS_STRIDE % 1797
    for part in rows.split([1297, 200, 300]):
        counts = torch.histc(part.float(), bins=13, min=0, max=1797)
        assert (counts / len(part) - 1 / 13).abs().max() < 0.01


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=needs_mnist)])
def test_table_knows_the_shape_without_reading(name):
    assert data.DATASETS[name].shape == data.load(name).shape


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=needs_mnist)])
def test_white_is_the_last_of_the_levels(name):
    images = data.load(name)
    assert int(images.train.max()) == images.levels - 1


def test_unknown_dataset_is_refused_with_the_nearest_word():
    with pytest.raises(UsageError, match=r"dataset must be one of .*did you mean 'digits'"):
        data.load("digit")


def test_unknown_part_is_refused_with_the_nearest_word(digits):
    with pytest.raises(UsageError, match=r"split must be one of .*did you mean 'valid'"):
        digits.part("validation")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with two small idx files that stand for MNIST's."""
    folder = tmp_path / "files"
    folder.mkdir()
    checksums = {}
    for i, (name, n) in enumerate(zip(data.MNIST_FILES, (500, 7), strict=True)):
        header = bytes([0, 0, 8, 3]) + b"".join(k.to_bytes(4, "big") for k in (n, 28, 28))
        pixels = bytes((i + k) % 256 for k in range(n * 28 * 28))
        (folder / name).write_bytes(gzip.compress(header + pixels))
        checksums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(data, "MNIST_FILES", checksums)
    monkeypatch.delenv("WNRL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_idx_files_are_read_pixel_by_pixel_in_order(small_mnist):
    images = data.load("mnist", small_mnist)
    assert images.test.shape == (7, 1, 28, 28)
    assert images.test[0, 0, 0, :3].tolist() == [1, 2, 3]
    assert images.test[0, 0, 1, 0] == 29


def test_the_last_400_training_images_of_mnist_are_for_validation(small_mnist):
    images = data.load("mnist", small_mnist)
    assert (len(images.train), len(images.valid)) == (100, 400)
    assert images.valid[0, 0, 0, 0] == 100 * 784 % 256


@pytest.mark.parametrize("below", ["", "mnist"])
def test_files_are_found_in_wnrl_data_and_in_the_cache(below, small_mnist, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "wnrl" / below
    cache.parent.mkdir(parents=True, exist_ok=True)
    if below:
        small_mnist.rename(cache)
    else:
        monkeypatch.setenv("WNRL_DATA", str(small_mnist))
    assert len(data.load("mnist").test) == 7


def test_the_folder_that_was_named_is_looked_into_first(small_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("WNRL_DATA", str(tmp_path))
    name = next(iter(data.MNIST_FILES))
    (tmp_path / name).write_bytes(b"of another kind")
    assert data.find_file("mnist", name, small_mnist, "") == small_mnist / name
    assert data.find_file("mnist", name, None, "") == tmp_path / name


def test_a_missing_file_is_one_line_that_says_where_to_put_it(small_mnist, tmp_path):
    for path in small_mnist.iterdir():
        path.unlink()
    with pytest.raises(UsageError) as refused:
        data.load("mnist", small_mnist)
    message = str(refused.value)
    assert "\n" not in message
    assert "needs train-images-idx3-ubyte.gz" in message
    assert str(small_mnist) in message
    assert str(tmp_path / "cache" / "wnrl") in message


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:50] + b"?" + b[51:]])
def test_a_truncated_or_altered_file_is_refused(damage, small_mnist):
    path = small_mnist / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte.gz is damaged or another file"):
        data.load("mnist", small_mnist)


@needs_mnist
def test_mnist_has_its_published_sizes():
    images = data.load("mnist")
    assert [len(images.part(p)) for p in ("train", "valid", "test")] == [59_600, 400, 10_000]
