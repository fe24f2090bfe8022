"""The data sets that are published as files, each with the split that its numbers are known by."""

from pathlib import Path

import torch

from wnrl.data.files import File, fetch
from wnrl.data.images import Images
from wnrl.errors import extra

DIGITS_STRIDE = 1111
SIDES = (28, 28)

_LECUN = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_TRAIN, _TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
MNIST = tuple(
    # Also as Kaggle names the unpacked file, and as Keras keeps them all.
    File(name, f"sha256:{sha256}", _LECUN + name, (name[:-14] + ".idx3-ubyte", f"mnist.npz:{key}"))
    for name, key, sha256 in (
        (_TRAIN, "x_train", "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757"),
        (_TEST, "x_test", "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
    )
)
_ZALANDO = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION = (
    File(_TRAIN, "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d", _ZALANDO + _TRAIN),
    File(_TEST, "md5:bef4ecab320f06d8554ea6380940ec79", _ZALANDO + _TEST),
)
_LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
# The files as published, one line of zeros and ones an image, and the same bits as idx files.
STATIC = tuple(
    File(
        f"binarized_mnist_{part}.amat",
        f"sha256:{sha256}",
        f"{_LAROCHELLE}binarized_mnist_{part}.amat",
        tuple(f"binarized_mnist_{part}-images-idx3-ubyte{end}" for end in (".gz", "")),
    )
    for part, sha256 in (
        ("train", "43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a"),
        ("valid", "069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e"),
        ("test", "ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86"),
    )
)
CIFAR10 = File(
    "cifar-10-binary.tar.gz",
    "md5:c32a1d4ab5d03f1284b67883e8d87530",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)


def load_digits(data_dir: Path | None = None) -> Images:
    """The 1797 digits of 8 × 8 pixels and 17 grey levels that scikit-learn carries.

    They come ordered by writer (13 of them), so that the last rows are other hands than the first:
    a split in file order would measure new writers on a handful of them. Here row 1111 · i mod 1797
    stands at place i (a step near the golden section, coprime with 1797), and the first 1297
    places are for training, the next 200 for validation, the last 300 for testing. Every part
    holds every writer and every digit in the same shares, and no random generator is involved.

    Args:
        data_dir: unused; the set is embedded in the package.

    Raises:
        UsageError: scikit-learn is missing.
    """
    with extra("lab", "dataset 'digits'"):
        from sklearn.datasets import load_digits as embedded

    pixels = torch.from_numpy(embedded().images).to(torch.uint8).unsqueeze(1)
    shuffled = pixels[torch.arange(len(pixels)) * DIGITS_STRIDE % len(pixels)]
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
    name: str, files: tuple[File, ...], n_valid: int, data_dir: Path | None
) -> Images:
    everything, test = (fetch(name, file, data_dir).reshape(-1, 1, *SIDES) for file in files)
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
    train, valid, test = (fetch(name, file, data_dir).unsqueeze(1) for file in STATIC)
    split = f"{len(train)} / {len(valid)} / {len(test)} images, as published"
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
    images = fetch("cifar10", CIFAR10, data_dir)
    batch = len(images) // 6
    train, valid, test = images.split([4 * batch, batch, batch])
    split = "training batches 1 to 4 / batch 5 / the test batch"
    return Images("cifar10", train, valid, test, levels=256, split=split)
