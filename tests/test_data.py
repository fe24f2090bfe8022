import zlib

import pytest
import torch
from sklearn.datasets import load_digits

from wnrl import data
from wnrl.errors import UsageError

CHECKSUMS = [2204355587, 2356445317, 645888276]


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


@pytest.mark.parametrize("name", data.DATASETS)
def test_table_knows_shape_and_levels_without_reading(name):
    images = data.load(name)
    assert data.DATASETS[name].shape == images.shape
    assert data.DATASETS[name].levels == images.levels
    assert int(images.train.max()) == images.levels - 1


def test_unknown_dataset_is_refused_with_the_nearest_word():
    with pytest.raises(UsageError, match=r"dataset must be one of .*did you mean 'digits'"):
        data.load("digit")


def test_unknown_part_is_refused_with_the_nearest_word(digits):
    with pytest.raises(UsageError, match=r"split must be one of .*did you mean 'valid'"):
        digits.part("validation")
