"""What a file is that is named like weights and holds something else: seen from its first bytes, without torch."""

from __future__ import annotations

import zipfile
from pathlib import Path

_HEAD_BYTES = 1024
_PIECE_BYTES = 2**20
#: The number with which torch's older format begins, as pickle writes it.
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SAVE = "save the state dict of the network with torch.save(net.state_dict(), 'plain.pt')"
_BY_HEAD = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself: run 'git lfs pull'"),
    (b"\x89HDF\r\n\x1a\n", f"it is an HDF5 file, as Keras writes: {_SAVE}"),
    (b"\x93NUMPY", f"it is an array of NumPy: {_SAVE}"),
    (b"GGUF", f"it is a GGUF file: {_SAVE}"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it with gunzip"),
    (b"BZh", "it is compressed with bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\0", "it is compressed with xz: unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it with unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it"),
    (b"Rar!", "it is a RAR archive: unpack it"),
)
_BY_SUFFIX = {
    ".onnx": f"a graph of ONNX: {_SAVE}",
    ".h5": f"a file of Keras: {_SAVE}",
    ".hdf5": f"a file of Keras: {_SAVE}",
    ".keras": f"a file of Keras: {_SAVE}",
    ".pb": f"a graph of TensorFlow: {_SAVE}",
    ".tflite": f"a graph of TensorFlow: {_SAVE}",
    ".msgpack": f"a file of Flax: {_SAVE}",
    ".gguf": f"a file of llama.cpp: {_SAVE}",
    ".npz": f"arrays of NumPy: {_SAVE}",
    ".npy": f"an array of NumPy: {_SAVE}",
    ".pkl": f"a pickle, which may run code: {_SAVE}",
    ".pickle": f"a pickle, which may run code: {_SAVE}",
    ".json": "sharded weights are named by their *.safetensors.index.json",
}


def of_suffix(path: Path) -> str | None:
    """Return what files of this suffix usually are, and what to do instead; ``None`` where that is not known."""
    return _BY_SUFFIX.get(path.suffix.lower())


def fault_of(path: Path) -> str | None:
    """Return why a file is not one that torch.save, or safetensors, has written whole; ``None`` if it looks like one.

    Args:
        path: a regular file that can be read.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        return "it is empty"
    known = next((words for magic, words in _BY_HEAD if head.startswith(magic)), None)
    if known is not None:
        return known
    is_safetensors = _is_safetensors(head, path.stat().st_size)
    if path.suffix.lower() == ".safetensors":
        if head.startswith(b"PK") or _LEGACY_MAGIC in head[:32]:
            return "it is a file of torch.save: name it .pt"
        return None if is_safetensors else _fault_of_text(head)
    if is_safetensors:
        return "it is a file of safetensors: name it .safetensors"
    if head.startswith(b"PK"):
        return _fault_of_zip(path)
    if _LEGACY_MAGIC in head[:32]:
        return None
    return _fault_of_text(head) or _fault_of_bytes(head)


def _is_safetensors(head: bytes, size: int) -> bool:
    # The length of a header of JSON, and the header.
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def _fault_of_text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "it is a web page (HTML or XML), as a download gives that was refused: download it again"
    if start.startswith((b"{", b"[")):
        return "it is text, such as JSON, not weights"
    if all(9 <= byte <= 13 or 32 <= byte < 127 for byte in head):
        return "it is text, not weights"
    return None


def _fault_of_bytes(head: bytes) -> str:
    if not any(head):
        return "it begins with nothing but zeros: its contents were lost, download it again"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it, and name the file inside"
    if head[0] == 0x80:
        return f"it is a plain pickle, not a file of torch.save: {_SAVE}"
    if head[0] == 0x08 and head[2:3] in (b"\x12", b"\x3a"):
        return f"it looks like a graph of ONNX: {_SAVE}"
    return "it is no file of torch.save or safetensors"


def _fault_of_zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return "it was cut short"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "it is damaged"
    names = {entry.filename.partition("/")[2] for entry in entries}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        return f"it is an archive of TorchScript, which holds code: {_SAVE}"
    if "archive_format" in names or "models/model.json" in names:
        return f"it is a program of torch.export: {_SAVE}"
    if "data.pkl" not in names:
        return f"it is a zip archive, but none of torch.save: unpack it, or {_SAVE}"
    # torch.save stores as it is, so more than the file holds can only be a bomb.
    is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if is_compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        return "its entries are compressed or overlap, which torch.save never writes; it is not unpacked"
    return None


def changed_entry(path: Path) -> str | None:
    """Return the name of an entry of a file of torch.save whose bytes are not those that were written, if there is one.

    torch does not compare checksums when it reads. It may be told to write none; they are 0 then, and nothing is known.

    Raises:
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.CRC == 0:
                continue
            try:
                with archive.open(entry) as file:
                    while file.read(_PIECE_BYTES):
                        pass
            except (zipfile.BadZipFile, EOFError, ValueError):
                return entry.filename
    return None
