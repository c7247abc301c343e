"""TFRecord files of `tf.train.Example`, read and written without TensorFlow; what is damaged is named and skipped.

A file is a sequence of records: length (8 bytes), checksum of the length (4), payload, checksum of the payload (4), all
little-endian; checksums are CRC-32C, masked. An `Example` is a Protocol Buffers message: names to lists of bytes, of
floats or of 64-bit integers.
"""

import functools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

POLYNOMIAL = 0x82F63B78  # of Castagnoli, reflected
BLOCK = 1024  # bytes of which one row of tables makes a checksum
HEADER, FOOTER = 12, 4
SCANNED = 1 << 20  # places at once, where a record is searched

Values = list[Any]  # of bytes, of integers, or of floats


class Damage(NamedTuple):
    """A record that cannot be read.

    Attributes:
        path: The file.
        number: Which record of it, counted from 0.
        offset: Byte at which it begins.
        reason: What is wrong.
    """

    path: Path
    number: int
    offset: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: record {self.number}, at byte {self.offset}, {self.reason}"


OnDamage = Callable[[Damage], object]


def refuse(damage: Damage) -> None:
    """What to do with a damaged record: stop. To go on, and count: `damaged = []; ..., on_damage=damaged.append`.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{damage}; to skip such records, give on_damage=damaged.append with a list")


def read_records(path: str | Path, *, on_damage: OnDamage = refuse) -> Iterator[bytes]:
    """The payloads of a file, in order.

    After a record whose payload is corrupt comes the next one; after one whose length is, whatever next place of the
    file has a length that agrees with its checksum; a truncated record is the last.

    Args:
        path: The file.
        on_damage: Called with each record that cannot be read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a damaged record, unless `on_damage` says otherwise.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "some.tfrecords")
        >>> write_records(file, [b"one", b"two"])
        >>> list(read_records(file))
        [b'one', b'two']
    """
    return (payload for _, _, payload in numbered_records(path, on_damage=on_damage))


def numbered_records(path: str | Path, *, on_damage: OnDamage = refuse) -> Iterator[tuple[int, int, bytes]]:
    """As `read_records`, each payload after the number of its record and the byte at which that begins.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For a damaged record, unless `on_damage` says otherwise.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    data, offset, index = path.read_bytes(), 0, 0
    while offset < len(data):
        damage = lambda reason: on_damage(Damage(path, index, offset, reason))
        length = _length(data, offset)
        end = offset + HEADER + length + FOOTER
        if length < 0:
            end = _next_record(data, offset + 1)
            missing = f"{end - offset} bytes are skipped" if end < len(data) else "the rest of the file is lost"
            damage(f"has a corrupt or cut length: {missing}")
        elif end > len(data):
            damage(f"is cut: {end - len(data)} bytes of {end - offset} are missing")
        else:
            payload = data[offset + HEADER : end - FOOTER]
            if masked_crc32c(payload) == struct.unpack_from("<I", data, end - FOOTER)[0]:
                yield index, offset, payload
            else:
                damage("does not agree with its checksum")
        offset, index = end, index + 1


def write_records(path: str | Path, payloads: Iterable[bytes]) -> None:
    """Write a file of records.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "one.tfrecords")
        >>> write_records(file, [b"123456789"])
        >>> file.stat().st_size
        25
    """
    with Path(path).open("wb") as file:
        for payload in payloads:
            length = struct.pack("<Q", len(payload))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(payload + struct.pack("<I", masked_crc32c(payload)))


def _length(data: bytes, offset: int) -> int:
    """Of the payload; -1 if the header is cut or does not agree with its checksum."""
    if offset + HEADER > len(data):
        return -1
    length, checksum = struct.unpack_from("<QI", data, offset)
    return length if masked_crc32c(data[offset : offset + 8]) == checksum else -1


def _next_record(data: bytes, start: int) -> int:
    """First place from `start` whose length agrees with its checksum and ends inside the file; else its end.

    By chance a place does with a probability of 2^-32, and then its length is hardly ever that small.
    """
    tables = _tables()
    for first in range(start, len(data) - HEADER, SCANNED):
        part = np.frombuffer(data[first : first + SCANNED + HEADER], np.uint8)
        places = len(part) - HEADER
        crc = np.zeros(places, np.uint32)
        for i in range(8):
            crc ^= tables[7 - i][part[i : i + places] ^ np.uint8(255 if i < 4 else 0)]
        stored = sum(part[8 + i : 8 + i + places].astype(np.uint32) << np.uint32(8 * i) for i in range(4))
        for place in np.flatnonzero(_masked(~crc) == stored):
            offset = first + int(place)
            if offset + HEADER + struct.unpack_from("<Q", data, offset)[0] + FOOTER <= len(data):
                return offset
    return len(data)


# --- checksums ---


def crc32c(data: bytes) -> int:
    r"""CRC-32C of some bytes.

    The checksum without its initial and final inversion is linear over XOR: that of a block is the XOR over its bytes
    of a number that depends on the byte and on its distance from the end, which NumPy looks up in a table.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'

    Reference:
        Castagnoli et al. 1993, Optimization of cyclic redundancy-check codes with 24 and 32 parity bits.
    """
    tables = _tables()
    if len(data) < 64:
        crc, table = 0xFFFFFFFF, _byte_table()
        for byte in data:
            crc = (crc >> 8) ^ table[(crc ^ byte) & 255]
        return crc ^ 0xFFFFFFFF
    # Zeros before a message change nothing; the initial inversion is that of its first four bytes.
    blocks = np.zeros((-(-len(data) // BLOCK), BLOCK), np.uint8)
    message = blocks.reshape(-1)[-len(data) :]
    message[:] = np.frombuffer(data, np.uint8)
    message[:4] ^= 255
    places = blocks + np.arange(256 * (BLOCK - 1), -1, -256)[None]
    crc = 0
    for part in np.bitwise_xor.reduce(np.take(tables.reshape(-1), places), 1).tolist():
        # What is known so far is as if it were the first bytes of a block of zeros.
        for i in range(4):
            part ^= int(tables[BLOCK - 1 - i, (crc >> 8 * i) & 255])
        crc = part
    return crc ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """The checksum as TFRecord stores it: turned by 15 bits, and a constant added.

    Example:
        >>> masked_crc32c(b"") == 0xA282EAD8
        True
    """
    return int(_masked(np.array([crc32c(data)], np.uint32))[0])


def _masked(crc: np.ndarray) -> np.ndarray:
    return ((crc >> np.uint32(15)) | (crc << np.uint32(17))) + np.uint32(0xA282EAD8)


@functools.cache
def _byte_table() -> list[int]:
    """The checksum's change by each byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


@functools.cache
def _tables() -> np.ndarray:
    """`(BLOCK, 256)`: for each distance from the end, what each byte adds."""
    first = np.array(_byte_table(), np.uint32)
    rows = [first]
    for _ in range(BLOCK - 1):
        rows.append((rows[-1] >> np.uint32(8)) ^ first[rows[-1] & np.uint32(255)])
    return np.stack(rows)


# --- examples ---


def parse_example(payload: bytes) -> dict[str, Values]:
    """The features of a serialised `tf.train.Example`, by name.

    Raises:
        ValueError: If it is none.

    Example:
        >>> parse_example(make_example({"label": [-3], "image": [b"..."], "box": [0.5, 1.0]}))
        {'label': [-3], 'image': [b'...'], 'box': [0.5, 1.0]}
    """
    found: dict[str, Values] = {}
    try:
        for features in _messages(payload, 1):
            for entry in _messages(features, 1):
                name, value = b"", b""
                for number, _, content in _fields(entry):
                    name, value = (content, value) if number == 1 else (name, content)
                found[name.decode()] = _values(value)
    except (IndexError, struct.error, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"these bytes are no tf.train.Example: {error}") from error
    return found


def make_example(features: Mapping[str, Values]) -> bytes:
    r"""Serialise a `tf.train.Example`.

    Args:
        features: By name a list of bytes, of integers or of floats.

    Example:
        >>> make_example({"a": [1]})
        b'\n\x0c\n\n\n\x01a\x12\x05\x1a\x03\n\x01\x01'
    """
    entries = []
    for name, values in features.items():
        if values and isinstance(values[0], bytes):
            kind, content = 1, b"".join(_tagged(1, value) for value in values)
        elif values and isinstance(values[0], float):
            kind, content = 2, _tagged(1, struct.pack(f"<{len(values)}f", *values))
        else:
            kind, content = 3, _tagged(1, b"".join(_varint(int(value)) for value in values))
        entries.append(_tagged(1, _tagged(1, name.encode()) + _tagged(2, _tagged(kind, content))))
    return _tagged(1, b"".join(entries))


def _values(feature: bytes) -> Values:
    for kind, _, content in _fields(feature):
        items = list(_fields(content))
        if kind == 1:
            return [bytes(value) for _, _, value in items]
        if kind == 2:
            packed = b"".join(value for _, _, value in items)
            return list(struct.unpack(f"<{len(packed) // 4}f", packed))
        if kind == 3:
            return [number for _, wire, value in items for number in (_integers(value) if wire == 2 else [value])]
    return []


def _integers(packed: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(packed):
        number, at = _read_varint(packed, at)
        numbers.append(number)
    return numbers


def _messages(data: bytes, number: int) -> Iterator[bytes]:
    return (content for found, _, content in _fields(data) if found == number)


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and content of each field of a message; a varint's content is its value."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == 0:
            content, at = _read_varint(data, at)
        else:
            if wire not in (1, 2, 5):
                raise ValueError(f"these bytes are no tf.train.Example: there is no field of type {wire}")
            size, at = _read_varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            content, at = data[at : at + size], at + size
            if at > len(data):
                raise ValueError("these bytes are no tf.train.Example: a field ends after them")
        yield tag >> 3, wire, content


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, least first, the highest bit set on all but the last; 64 bits in two's complement."""
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            value &= (1 << 64) - 1
            return value - (1 << 64) if value >> 63 else value, at


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _tagged(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content
