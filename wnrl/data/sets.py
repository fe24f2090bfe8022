"""The data sets that are published as files, each with the split that its numbers are known by."""

import math
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wnrl.data.files import File, fetch, find, read_idx
from wnrl.data.images import Images

DIGITS_STRIDE = 1111

_LECUN = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST = (
    File(
        "train-images-idx3-ubyte.gz",
        "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        f"{_LECUN}train-images-idx3-ubyte.gz",
    ),
    File(
        "t10k-images-idx3-ubyte.gz",
        "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        f"{_LECUN}t10k-images-idx3-ubyte.gz",
    ),
)
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION = (
    File(
        "train-images-idx3-ubyte.gz",
        "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        f"{_ZALANDO}train-images-idx3-ubyte.gz",
    ),
    File(
        "t10k-images-idx3-ubyte.gz",
        "md5:bef4ecab320f06d8554ea6380940ec79",
        f"{_ZALANDO}t10k-images-idx3-ubyte.gz",
    ),
)
_LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
# The files as published, one line of zeros and ones an image, and the same bits as idx files.
STATIC_TEXT = tuple(
    File(f"binarized_mnist_{part}.amat", f"md5:{md5}", f"{_LAROCHELLE}binarized_mnist_{part}.amat")
    for part, md5 in (
        ("train", "db28b1a6ae0fe70cbd3da91acf46e477"),
        ("valid", "bf37822a04e94123630de6a7dfd9c9ef"),
        ("test", "14e41ae11040adba6ab8cb291eda0dd8"),
    )
)
STATIC_IDX = tuple(
    File(f"binarized_mnist_{part}-images-idx3-ubyte.gz", f"sha256:{sha256}", _LAROCHELLE)
    for part, sha256 in (
        ("train", "c04379ae8e58d71bce6721550ade24cb3954e4632af9d688750ec12ac5ef6389"),
        ("valid", "b3bcea39ba4a5b014837ac7ca4e0d907d5550445c4efda16081896bae7762ac4"),
        ("test", "cba6ce3bda606e1d9ca63374cc3a54722120e712133e2a6b9a492584f1510fca"),
    )
)
OMNIGLOT_SMALL = File(
    "omniglot_small-images-idx3-ubyte.gz",
    "sha256:7a8b004d29c794f7c9a4c1531a619285f63aa9c625a83c739487328e19204f95",
    "https://github.com/brendenlake/omniglot (data_background_small1.mat and small2.mat, as idx)",
    downloadable=False,
)
CIFAR10 = File(
    "cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
CIFAR10_PIXELS = 3 * 32 * 32


def load_digits(data_dir: Path | None = None) -> Images:
    """The 1797 digits of 8 × 8 pixels and 17 grey levels that scikit-learn carries.

    They come ordered by writer (13 of them), so that the last rows are other hands than the first:
    a split in file order would measure new writers on a handful of them. Here row 1111 · i mod 1797
    stands at place i (a step near the golden section, coprime with 1797), and the first 1297
    places are for training, the next 200 for validation, the last 300 for testing. Every part
    holds every writer and every digit in the same shares, and no random generator is involved.

    Args:
        data_dir: unused; the set is embedded in the package.
    """
    from sklearn.datasets import load_digits as embedded

    pixels = torch.from_numpy(embedded().images).to(torch.uint8).unsqueeze(1)
    n = len(pixels)
    assert math.gcd(DIGITS_STRIDE, n) == 1
    shuffled = pixels[torch.arange(n) * DIGITS_STRIDE % n]
    train, valid, test = shuffled.split([1297, 200, 300])
    split = "1297 / 200 / 300 rows, taken in the order 1111 i mod 1797"
    return Images("digits", train, valid, test, levels=17, split=split)


def load_mnist(data_dir: Path | None = None) -> Images:
    """MNIST, 28 × 28, 256 grey levels, with the split of Burda et al. (2016, arXiv:1509.00519).

    Args:
        data_dir: where the files are; None: the usual places, or they are downloaded.

    Raises:
        UsageError: a file cannot be had, or is not the published one.
    """
    return _of_idx_files("mnist", MNIST, 400, data_dir)


def load_fashion_mnist(data_dir: Path | None = None) -> Images:
    """Fashion-MNIST (Xiao et al., 2017, arXiv:1708.07747), 28 × 28, 256 grey levels.

    The last 10 000 training images are for validation. Its files are called like MNIST's: they are
    looked for in a folder ``fashion-mnist``, and refused by checksum where they are MNIST's.

    Args:
        data_dir: where the files are; None: the usual places, or they are downloaded.

    Raises:
        UsageError: a file cannot be had, or is not the published one.
    """
    return _of_idx_files("fashion-mnist", FASHION, 10_000, data_dir)


def _of_idx_files(
    name: str, files: tuple[File, File], n_valid: int, data_dir: Path | None
) -> Images:
    paths = [fetch(name, file, data_dir) for file in files]
    everything, test = (read_idx(path).unsqueeze(1) for path in paths)
    n = len(everything) - n_valid
    split = f"the first {n} training images / the last {n_valid} / the {len(test)} test images"
    return Images(name, everything[:n], everything[n:], test, levels=256, split=split)


def load_mnist_static(data_dir: Path | None = None) -> Images:
    """MNIST binarised once and for all (Salakhutdinov & Murray, 2008; Larochelle & Murray, 2011).

    50 000 / 10 000 / 10 000 images of zeros and ones, as published. The test rows are sorted by
    class: a bound on the first of them is a bound on zeros.

    Args:
        data_dir: where the files are, as published (``.amat``) or as idx files; None: the usual
            places, or they are downloaded.

    Raises:
        UsageError: a file cannot be had, or is not the published one.
    """
    name = "mnist-static"
    parts = []
    for idx, text in zip(STATIC_IDX, STATIC_TEXT, strict=True):
        if find(name, idx, data_dir):
            parts.append(read_idx(fetch(name, idx, data_dir)).unsqueeze(1))
        else:
            parts.append(read_amat(fetch(name, text, data_dir)))
    train, valid, test = parts
    split = f"{len(train)} / {len(valid)} / {len(test)} images, as published"
    return Images(name, train, valid, test, levels=2, split=split)


def read_amat(path: Path) -> Tensor:
    """Reads lines of 784 zeros and ones as uint8 images, ``(N, 1, 28, 28)``."""
    text = np.fromfile(path, np.uint8)
    return torch.from_numpy((text[::2] - ord("0")).reshape(-1, 1, 28, 28))


def load_omniglot_small(data_dir: Path | None = None) -> Images:
    """Handwritten characters of 8 alphabets: 242 characters by 20 writers each, binary, 28 × 28.

    From the drawings of 105 × 105 pixels of Omniglot's two small background sets (Lake et al.,
    2015): padded to 112, then the maximum of every 4 × 4, so that strokes stay whole. Writers
    0 … 15 of each character are for training, 16 and 17 for validation, 18 and 19 for testing. It
    is not the set of 28 × 28 that likelihoods are published for; no number compares with those.

    Args:
        data_dir: where the file is; None: the usual places.

    Raises:
        UsageError: the file is nowhere, or is another one.
    """
    name = "omniglot-small"
    drawings = read_idx(fetch(name, OMNIGLOT_SMALL, data_dir)).unsqueeze(1)
    padded = nn.functional.pad(drawings, (3, 4, 3, 4))
    small = nn.functional.max_pool2d(padded.float(), 4).to(torch.uint8)
    writers = small.unflatten(0, (-1, 20))  # (242 * 20, 1, 28, 28) -> (242, 20, 1, 28, 28)
    train, valid, test = (part.flatten(0, 1) for part in writers.split([16, 2, 2], dim=1))
    split = "writers 0 to 15 / 16 and 17 / 18 and 19 of each character"
    return Images(name, train, valid, test, levels=2, split=split)


def load_cifar10(data_dir: Path | None = None) -> Images:
    """CIFAR-10 (Krizhevsky, 2009), 32 × 32 in colour, 256 levels.

    The last of the five training batches' 10 000 images are for validation. The binary version is
    read, since the Python version holds pickles, which can run code.

    Args:
        data_dir: where the file is; None: the usual places, or it is downloaded.

    Raises:
        UsageError: the file cannot be had, or is not the published one.
    """
    with tarfile.open(fetch("cifar10", CIFAR10, data_dir)) as archive:
        batches = [
            _cifar10_batch(archive, f"cifar-10-batches-bin/{part}.bin")
            for part in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
        ]
    train, valid, test = torch.cat(batches[:4]), batches[4], batches[5]
    split = "training batches 1 to 4 / batch 5 / the test batch"
    return Images("cifar10", train, valid, test, levels=256, split=split)


def _cifar10_batch(archive: tarfile.TarFile, member: str) -> Tensor:
    file = archive.extractfile(member)
    assert file is not None
    rows = np.frombuffer(file.read(), np.uint8).reshape(-1, 1 + CIFAR10_PIXELS)  # a label first
    return torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).copy())
