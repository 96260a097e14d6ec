"""Recognizes files with images that fastgan does not read, and says what to do with them."""

import zlib

# Number of first bytes that identify a file.
START_BYTES = 512

_PASS = "to fastgan.Trainer, or save its images as .npz"
_PICKLE = (
    "a Python pickle, which executes code when it is read; pass torchvision.datasets.CIFAR10 to fastgan.Trainer if it "
    "is CIFAR's, or save its images as .npz"
)
TORCH = f"a file written by torch.save; pass its tensor {_PASS}"
_TAR = "a tar archive; unpack it, or pass webdataset's Dataset to fastgan.Trainer"
_PARQUET = "a Parquet file; load it with Hugging Face's datasets and pass that Dataset to fastgan.Trainer"
_LMDB = "an LMDB database; pass a Dataset that reads it, such as torchvision.datasets.LSUN, to fastgan.Trainer"
_HDF5 = f"an HDF5 file; pass a Dataset that reads it {_PASS}"
_HEIC = "an image in HEIC or AVIF, which not every Pillow reads; convert it to JPEG or PNG"
_IMAGE = "a single image; give the folder that it is in"
_KINDS = (
    (0, b"\x80\x02\x8a\x0al\xfc\x9cF", TORCH),  # torch's files before 1.6, which begin with a pickle
    *((0, bytes([0x80, protocol]), _PICKLE) for protocol in range(2, 6)),
    (257, b"ustar", _TAR),
    (0, b"PAR1", _PARQUET),
    (16, b"\xde\xc0\xef\xbe", _LMDB),
    (0, b"\x89HDF\r\n\x1a\n", _HDF5),
    *((0, magic, "a compressed archive; unpack it") for magic in (b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")),
    *((4, b"ftyp" + brand, _HEIC) for brand in (b"hei", b"hev", b"mif1", b"msf1", b"avif")),
    *((0, magic, _IMAGE) for magic in (b"\x89PNG", b"\xff\xd8\xff", b"GIF8")),
)

UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".psd")


def refusal(where: str, start: bytes) -> str | None:
    """A sentence, without its period, about a file of a known kind that begins with ``start``; None for others."""
    if start.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(31).decompress(start, START_BYTES)
        except zlib.error:
            return None
    return next((f"{where} is {kind}" for offset, magic, kind in _KINDS if start.startswith(magic, offset)), None)
