import io
import json
import os
import pickle
import random
import re
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest
import torch

from wnrl.errors import UsageError
from wnrl.runs.files import SCRATCH, read_json, read_values, whole_file, write_json, write_values

VALUES = {
    "step": 3,
    "huge": 2**127 + 1,
    "loss": 0.1 + 0.2,
    "nan": float("nan"),
    "infinite": -float("inf"),
    "none": None,
    "flag": True,
    "word": "σ\n\x00",
    "bytes": b"\x00\xff",
    "pairs": (1, (2.5, "x"), []),
    "optimizer": {0: {"exp_avg": torch.randn(3, 2), "step": torch.tensor(4.0)}, 1: {}},
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "half a number": torch.tensor(1.5, dtype=torch.bfloat16),
    "no halves": torch.zeros(2, 0, 3, dtype=torch.bfloat16),
    "turned halves": torch.arange(6.0).reshape(2, 3).T.bfloat16(),
    "eighth": torch.tensor([[1.5], [-2.0]]).to(torch.float8_e4m3fn),
    "complex": torch.tensor([1 + 2j]),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "mask": torch.tensor([[True, False]]),
    "empty": torch.zeros(0, 4, dtype=torch.int64),
    "array": np.arange(6, dtype=">i4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "words": np.array(["ab", "c"]),
    "point": np.array(2.5),
    "no numbers": np.zeros((0, 3)),
    "moment": np.datetime64("2020-01-01"),
    "scalar": np.float32(0.1),
    "truth": np.bool_(True),
    "images": np.zeros((2**11, 2**10), np.uint8),
    "random": random.Random(0).getstate(),
    "generator": np.random.default_rng(0).bit_generator.state,
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_they_were(tmp_path, name):
    write_values(tmp_path / "f", "test", {"it": VALUES[name]})
    assert same({"it": VALUES[name]}, read_values(tmp_path / "f", "test"))


def test_tensors_that_are_read_can_be_written_to(tmp_path):
    write_values(tmp_path / "f", "test", [torch.zeros(2), np.zeros(2)])
    tensor, array = read_values(tmp_path / "f", "test")
    tensor += 1
    array += 1
    assert tensor.tolist() == array.tolist() == [1, 1]


def test_numpy_reads_the_arrays_and_no_more_bytes_are_kept_than_they_have(tmp_path):
    write_values(tmp_path / "f", "test", {"images": VALUES["images"]})
    with np.load(tmp_path / "f", allow_pickle=False) as archive:
        assert same(archive["arr_0"], VALUES["images"])
    assert (tmp_path / "f").stat().st_size < VALUES["images"].nbytes + 1000


@pytest.mark.parametrize("value", [object(), {1.5: 2}, np.array([object()]), {1, 2}, print])
def test_other_values_are_refused_and_nothing_is_left(tmp_path, value):
    with pytest.raises(TypeError):
        write_values(tmp_path / "f", "test", {"it": value})
    assert list(tmp_path.iterdir()) == []


def test_an_ordered_dict_of_tensors_is_a_dict(tmp_path):
    write_values(tmp_path / "f", "test", OrderedDict(weight=torch.ones(1)))
    assert list(read_values(tmp_path / "f", "test")) == ["weight"]


def test_every_flipped_bit_of_a_file_of_values_is_refused(tmp_path):
    write_values(tmp_path / "f", "test", {"weight": torch.arange(3.0), "step": 1})
    whole = (tmp_path / "f").read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "f").write_bytes(damaged)
        with pytest.raises(UsageError, match="is damaged or no test"):
            read_values(tmp_path / "f", "test")


def test_every_shortened_file_of_values_is_refused(tmp_path):
    write_values(tmp_path / "f", "test", {"weight": torch.arange(3.0)})
    whole = (tmp_path / "f").read_bytes()
    for end in range(len(whole)):
        (tmp_path / "f").write_bytes(whole[:end])
        with pytest.raises(UsageError):
            read_values(tmp_path / "f", "test")


def test_a_file_of_another_kind_is_refused(tmp_path):
    write_values(tmp_path / "f", "checkpoint", {})
    with pytest.raises(UsageError, match="it holds a checkpoint"):
        read_values(tmp_path / "f", "model")


def seal(path, room=0):
    """Give a forged archive the checksum that it needs, in the place of as many bytes as said."""
    whole = path.read_bytes()
    whole = whole[: len(whole) - room]
    path.write_bytes(whole + f"{zlib.crc32(whole):08x}".encode())


class Harmful:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (str(self.sentinel),)


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


HARM = "a pickle"
PART = npy(np.zeros(4))
FORGED = [
    (HARM, PART),
    ([], PART),
    ({"kind": "test", "format": 2}, PART),
    *(
        ({"kind": "test", "format": 2, "values": values}, part)
        for values, part in [
            ({"tensor": 0, "dtype": "load"}, PART),
            ({"tensor": 0, "dtype": "int32"}, npy(np.zeros((2, 3), np.uint8))),
            ({"tensor": 0}, npy(np.array(["a word"]))),
            ({"array": 7}, PART),
            ({"odd": []}, PART),
            ({}, PART),
            ({"array": 0}, HARM),
            ({"array": 0}, PART[:-1]),
            ({"array": 0}, PART.replace(b"(4,), }" + 14 * b" ", b"(4" + 14 * b"0" + b",), }")),
        ]
    ),
]


@pytest.mark.parametrize(("tree", "part"), FORGED)
def test_a_forged_file_is_refused_in_one_line_and_runs_no_code(tmp_path, tree, part):
    harm = pickle.dumps(Harmful(tmp_path / "harm"))
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        tree = harm if tree is HARM else npy(np.bytes_(json.dumps(tree).encode()))
        archive.writestr("tree.npy", tree)
        archive.writestr("arr_0.npy", harm if part is HARM else part)
    seal(tmp_path / "f")
    with pytest.raises(UsageError, match="damaged") as refused:
        read_values(tmp_path / "f", "test")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "harm").exists()


def test_an_array_of_pickled_objects_is_refused_and_not_unpickled(tmp_path):
    objects = np.array([Harmful(tmp_path / "harm")], object)
    values = {"kind": "test", "format": 2, "values": {"array": 0}}
    with (tmp_path / "f").open("wb") as file:
        np.savez(file, objects, tree=np.bytes_(json.dumps(values).encode()))
    seal(tmp_path / "f")
    with pytest.raises(UsageError, match="allow_pickle=False"):
        read_values(tmp_path / "f", "test")
    assert not (tmp_path / "harm").exists()


def test_what_an_earlier_version_wrote_is_refused_in_one_plain_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        archive.writestr("0", b"1234")
        archive.writestr("values.json", '{"kind": "test", "format": 1, "values": []}')
        archive.comment = b"0" * 8
    seal(tmp_path / "f", 8)
    told = "f is damaged or no test: an earlier version of wnrl wrote it, which alone can read it"
    with pytest.raises(UsageError, match=f"{re.escape(told)}$"):
        read_values(tmp_path / "f", "test")


def test_a_pickle_in_the_place_of_a_file_is_refused_and_not_run(tmp_path):
    (tmp_path / "f").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    for read in (read_json, lambda path: read_values(path, "test")):
        with pytest.raises(UsageError, match="damaged"):
            read(tmp_path / "f")
    assert not (tmp_path / "harm").exists()
    pickle.loads((tmp_path / "f").read_bytes())
    assert (tmp_path / "harm").exists()  # it was one that does something


def test_every_flipped_bit_of_a_json_file_changes_nothing_or_is_refused(tmp_path):
    value = {"nll": 22.75, "status": "finished", "curve": {"steps": [1, 2]}, "best": None}
    write_json(tmp_path / "f", value)
    whole = (tmp_path / "f").read_bytes()
    refused = 0
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            (tmp_path / "f").write_bytes(damaged)
            try:
                assert read_json(tmp_path / "f") == value
            except UsageError:
                refused += 1
    assert refused > 7 * len(whole)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"status": "finished"}', "{" * 5000])
def test_json_without_its_checksum_is_damaged(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        read_json(tmp_path / "f")


def test_json_has_no_word_for_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "f", {"nll": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["file", "file" + SCRATCH])
def test_what_a_link_in_its_place_leads_to_is_not_written_to(link, name, tmp_path):
    (tmp_path / "thesis").write_text("of somebody")
    link(tmp_path / "thesis", tmp_path / name)
    write_json(tmp_path / "file", {"a": 1})
    assert read_json(tmp_path / "file") == {"a": 1}
    assert (tmp_path / "thesis").read_text() == "of somebody"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "thesis"]


def test_a_file_of_somebody_that_ends_as_such_files_do_is_not_touched(tmp_path):
    (tmp_path / "film.gif.tmp").write_text("of somebody")
    write_json(tmp_path / "film.gif", {"a": 1})
    assert (tmp_path / "film.gif.tmp").read_text() == "of somebody"


def test_a_file_that_cannot_be_written_leaves_the_one_before_and_takes_no_space(tmp_path):
    (tmp_path / "f").write_text("before")

    def fill():
        with whole_file(tmp_path / "f") as file:
            file.write(b"half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill()
    assert (tmp_path / "f").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
