"""Files that are whole or absent, whose content is checked, and that hold numbers and names alone.

Each is written beside its name and renamed. JSON carries a checksum of its content, a file of
values one of all its bytes, and reading either runs no code from it.
"""

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from wnrl.errors import UsageError, as_usage_error

CHUNK = 2**24  # bytes at a time
CHECKSUM = "crc32"
SCRATCH = ".wnrl.tmp"  # an ending that nobody else's file has
FORMAT = 2


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside ``path``, which is renamed to ``path`` once all its bytes are on disk.

    A link in the place of either is replaced, and what it leads to stays as it is.

    Raises:
        OSError: It cannot be written. It takes up no space then, and ``path`` is as it was.
    """
    scratch = path.with_name(path.name + SCRATCH)
    scratch.unlink(missing_ok=True)
    try:
        with scratch.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the new name on an empty file
        scratch.replace(path)
    except BaseException:
        if scratch.is_file():
            scratch.unlink()
        raise


def write_bytes(path: Path, write: Callable[[io.BytesIO], object]) -> None:
    """Write what ``write`` writes in memory as ``whole_file`` does.

    torch's writers tell of a full disk as of a fault of their own.
    """
    with io.BytesIO() as buffer, whole_file(path) as file:
        write(buffer)
        file.write(buffer.getbuffer())


def write_text(path: Path, text: str) -> None:
    """Write a text as ``whole_file`` does."""
    with whole_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object of JSON as ``whole_file`` does, with a checksum of what it says.

    Raises:
        ValueError: A number in ``value`` is NaN or infinite; JSON has no word for them.
    """
    write_text(path, _json({**value, CHECKSUM: _json_checksum(value)}))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that ``write_json`` wrote.

    Raises:
        UsageError: The file is damaged, or not one of ours.
    """
    with as_usage_error(f"{path} is damaged", OSError, ValueError, RecursionError):
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict) or CHECKSUM not in value:
            raise ValueError(f"it has no names with values and a run's {CHECKSUM}")
        if value.pop(CHECKSUM) != _json_checksum(value):
            raise ValueError(f"its {CHECKSUM} is not that of what it says")
        return value


def read_or_nothing(path: Path) -> dict[str, Any]:
    """Return what ``read_json`` does; nothing where the file is not there or damaged."""
    with suppress(UsageError):
        return read_json(path)
    return {}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _json_checksum(value: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(_json(value).encode()):08x}"


def file_checksum(path: Path) -> str:
    """Return the CRC-32 of a file's bytes in hexadecimal digits."""
    with path.open("rb") as file:
        return _checksum_of(file)


def _checksum_of(file: BinaryIO, n_bytes: float = math.inf) -> str:
    crc = 0
    while n_bytes > 0 and (chunk := file.read(int(min(CHUNK, n_bytes)))):
        crc, n_bytes = zlib.crc32(chunk, crc), n_bytes - len(chunk)
    return f"{crc:08x}"


def write_arrays(path: Path, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """Write arrays by name as NumPy's ``.npz``, as ``whole_file`` does.

    Raises:
        OSError: As ``whole_file``.
        ValueError: An array is of objects.
    """
    with whole_file(path) as file:
        _save_arrays(file, arrays, compressed)


def _save_arrays(file: BinaryIO, arrays: Mapping[str, Any], compressed: bool = False) -> None:
    """As ``numpy.savez``, whose archive complains of a full disk when it is collected (NumPy 1)."""
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def write_values(path: Path, kind: str, values: Any) -> None:
    """Write numbers, names and arrays to one file, as ``whole_file`` does.

    The file is NumPy's ``.npz`` with a tree in JSON, and a checksum of its bytes behind them.

    Args:
        path: Where to.
        kind: What the values are, in words; ``read_values`` asks for the same.
        values: None, bools, ints, floats, strings, bytes, NumPy arrays and numbers, tensors, and
            lists, tuples and dicts (whose keys are strings or ints) of values.

    Raises:
        OSError: As ``whole_file``.
        TypeError: Something else is among the values.
    """
    arrays: list[np.ndarray[Any, Any]] = []
    tree = {"kind": kind, "format": FORMAT, "values": _encode(values, arrays)}
    with whole_file(path) as file:
        named: dict[str, Any] = {f"arr_{place}": array for place, array in enumerate(arrays)}
        text = json.dumps(tree, allow_nan=False).encode()
        _save_arrays(file, {**named, "tree": np.bytes_(text)})
        file.seek(0)
        file.write(_checksum_of(file).encode())  # behind all that was read for it


def read_values(path: Path, kind: str) -> Any:
    """Return what ``write_values`` wrote, with tensors on the CPU.

    Raises:
        UsageError: The file is damaged, of another kind, or of an earlier version.
    """
    # A forged file can make any part of it stumble.
    with as_usage_error(f"{path} is damaged or no {kind}", Exception), path.open("rb") as file:
        end = file.seek(-8, os.SEEK_END)
        expected = file.read()
        file.seek(0)
        if _checksum_of(file, end).encode() != expected:
            raise ValueError("its bytes do not have its checksum")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            if "tree" not in archive:
                raise ValueError("an earlier version of wnrl wrote it, which alone can read it")
            tree = json.loads(archive["tree"].item())
            if (tree["kind"], tree["format"]) != (kind, FORMAT):
                raise ValueError(f"it holds a {tree['kind']} of format {tree['format']}")
            arrays = [archive[f"arr_{place}"] for place in range(len(archive) - 1)]
        if not all(isinstance(array, np.ndarray) for array in arrays):
            raise ValueError("it holds something else than arrays")
        return _decode(tree["values"], arrays)


def _encode(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return a value in JSON types, an array as its place in ``arrays``, where it is put."""
    how = {}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value, order="C")
        if array.dtype.hasobject or array.dtype.names:
            raise TypeError(f"arrays of {array.dtype} cannot be written")
        word = "array" if isinstance(value, np.ndarray) else "scalar"
    elif isinstance(value, Tensor):
        word, tensor = "tensor", value.detach().cpu().contiguous()
        try:
            array = tensor.numpy()
        except TypeError:  # bfloat16, say, which NumPy lacks: one more axis has its bytes
            how = {"dtype": str(tensor.dtype).removeprefix("torch.")}
            array = tensor.unsqueeze(-1).view(torch.uint8).numpy()
    elif isinstance(value, bytes):
        word, array = "bytes", np.frombuffer(value, np.uint8)
    elif value is None or isinstance(value, bool | int | str):
        return value
    elif isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(float(value))}
    elif isinstance(value, list):
        return [_encode(part, arrays) for part in value]
    elif isinstance(value, tuple):
        return {"tuple": [_encode(part, arrays) for part in value]}
    elif isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _encode(part, arrays)] for key, part in value.items()]}
    else:
        raise TypeError(f"values of type {type(value).__name__} cannot be written")
    arrays.append(array)
    return {word: len(arrays) - 1, **how}


def _decode(tree: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(tree, list):
        return [_decode(part, arrays) for part in tree]
    if not isinstance(tree, dict):
        return tree
    word, content = next(iter(tree.items()))
    match word:
        case "dict":
            return {key: _decode(part, arrays) for key, part in content}
        case "tuple":
            return tuple(_decode(part, arrays) for part in content)
        case "float":
            return float(content)
        case "bytes":
            return arrays[content].tobytes()
        case "scalar":
            return arrays[content][()]
        case "array":
            return arrays[content]
        case "tensor":
            tensor = torch.from_numpy(arrays[content])
            if "dtype" in tree:
                tensor = tensor.view(getattr(torch, tree["dtype"])).squeeze(-1)
            return tensor
    raise ValueError(f"it has no values of a kind {word!r}")
