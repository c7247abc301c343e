"""ClickMe's files: known checksums, damage that is named and skipped, maps that are cut with their images."""

import struct
import threading

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparks_jax.alignment import split_half
from sparks_jax.data import clickme, tfrecord
from sparks_jax.data.annotators import annotations
from sparks_jax.data.human_maps import (
    Cut,
    blur_centred,
    blur_published,
    cut_image,
    human_map,
    pipeline,
    prepare,
    random_cut,
)

RNG = np.random.default_rng(0)


def photo(label=0, side=32):
    """A smooth picture, which JPEG changes little, and a map of one spot."""
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), label)], -1)
    heatmap = np.zeros((side, side), np.uint8)
    heatmap[side // 4 : side // 2, side // 2 :] = 255
    return image.astype(np.uint8), heatmap


@pytest.fixture
def shard(tmp_path):
    """Ten records, the last two of them without a map."""
    path = tmp_path / "val-0.tfrecords"
    clickme.write(path, [clickme.encode(photo(i)[0], i, photo(i)[1] if i < 8 else None) for i in range(10)])
    return path


# --- files ---


def bitwise(data):
    """The definition of CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksums_of_rfc_3720():
    """Its appendix B.4, and lengths around one block and several."""
    known = {b"\0" * 32: 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    assert {data: tfrecord.crc32c(data) for data in known} == known
    for length in (0, 1, 3, 4, 63, 64, 65, 1023, 1024, 1025, 3000):
        data = RNG.bytes(length)
        assert tfrecord.crc32c(data) == bitwise(data)


def test_a_record_byte_by_byte(tmp_path):
    """The file that TensorFlow's documentation of the format describes: length, checksum, payload, checksum."""
    path = tmp_path / "one"
    tfrecord.write_records(path, [b"abc"])
    mask = lambda crc: ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    length = struct.pack("<Q", 3)
    wanted = length + struct.pack("<I", mask(bitwise(length))) + b"abc" + struct.pack("<I", mask(bitwise(b"abc")))
    assert path.read_bytes() == wanted


def test_an_example_byte_by_byte():
    """{"a": [1, 300], "b": [b"xy"], "c": [0.5]} in the wire format of Protocol Buffers, integers packed and not."""
    a = b"\x0a\x01a\x12\x07\x1a\x05\x0a\x03\x01\xac\x02"
    b = b"\x0a\x01b\x12\x06\x0a\x04\x0a\x02xy"
    c = b"\x0a\x01c\x12\x08\x12\x06\x0a\x04\x00\x00\x00\x3f"
    wanted = {"a": [1, 300], "b": [b"xy"], "c": [0.5]}
    data = b"".join(b"\x0a" + bytes([len(entry)]) + entry for entry in (a, b, c))
    data = b"\x0a" + bytes([len(data)]) + data
    assert tfrecord.make_example(wanted) == data
    assert tfrecord.parse_example(data) == wanted
    unpacked = b"\x0a\x10\x0a\x0e\x0a\x01a\x12\x09\x1a\x07\x08\x01\x08\xac\x02\x08\x00"
    assert tfrecord.parse_example(unpacked) == {"a": [1, 300, 0]}
    extremes = {"n": [-1, 2**63 - 1, -(2**63)], "e": []}
    assert tfrecord.parse_example(tfrecord.make_example(extremes)) == extremes


def test_what_is_written_is_read(shard):
    found = list(clickme.read([shard, shard]))
    assert [c.label for c in found] == [*range(10)] * 2
    assert [c.has_map for c in found] == [True] * 8 + [False] * 2 + [True] * 8 + [False] * 2
    image, heatmap = photo(3)
    # JPEG at quality 95 quantises a smooth picture by a few levels, edges by more.
    assert np.abs(found[3].image.astype(int) - image).max() <= 8
    assert np.abs(found[3].heatmap.astype(int) - heatmap).mean() < 4
    np.testing.assert_array_equal(found[9].heatmap, 0)
    assert len({c.digest for c in found}) == 10


# --- damage ---


def damaged_file(shard, damage):
    """The file with one kind of damage to its third record, and what must be left."""
    data = bytearray(shard.read_bytes())
    starts, at = [], 0
    while at < len(data):
        starts.append(at)
        at += 16 + struct.unpack_from("<Q", data, at)[0]
    if damage == "payload":
        data[starts[2] + 100] ^= 1
    elif damage == "length":
        data[starts[2] + 1] ^= 255
    elif damage == "both lengths":
        data[starts[2] + 8] ^= 1
        data[starts[3]] ^= 1
    else:
        cut = {"cut in its payload": 50, "cut in its header": 5}[damage]
        data = data[: starts[2] + cut]
    path = shard.with_name("damaged")
    path.write_bytes(data)
    return path, starts


@pytest.mark.parametrize(
    ("damage", "left", "reason"),
    [
        ("payload", [0, 1, 3, 4, 5, 6, 7, 8, 9], "does not agree with its checksum"),
        ("length", [0, 1, 3, 4, 5, 6, 7, 8, 9], "has a corrupt or cut length: .* bytes are skipped"),
        ("both lengths", [0, 1, 4, 5, 6, 7, 8, 9], "has a corrupt or cut length: .* bytes are skipped"),
        ("cut in its payload", [0, 1], "is cut: .* bytes of .* are missing"),
        ("cut in its header", [0, 1], "has a corrupt or cut length: the rest of the file is lost"),
    ],
)
def test_damage_is_named_and_the_rest_is_read(shard, damage, left, reason):
    path, starts = damaged_file(shard, damage)
    damaged = []
    assert [c.label for c in clickme.read([path], on_damage=damaged.append)] == left
    assert len(damaged) == 1
    assert (damaged[0].path, damaged[0].number, damaged[0].offset) == (path, 2, starts[2])
    with pytest.raises(ValueError, match=f"record 2, at byte {starts[2]}, {reason}.*; to skip such records"):
        list(clickme.read([path]))


def test_records_that_cannot_be_decoded(tmp_path):
    image, heatmap = photo()
    good = clickme.encode(image, 1, heatmap)
    jpeg = tfrecord.parse_example(good)["image"][0]
    bad = [
        tfrecord.make_example({"image": [jpeg[: len(jpeg) // 2]], "label": [1]}),
        tfrecord.make_example({"image": [b"no picture"], "label": [1]}),
        tfrecord.make_example({"image": [jpeg], "label": [1000]}),
        good[:-10],
        b"\xff\xff",
    ]
    path, damaged = tmp_path / "val-0.tfrecords", []
    clickme.write(path, [good, *bad, good])
    assert [c.label for c in clickme.read([path], on_damage=damaged.append)] == [1, 1]
    assert [d.number for d in damaged] == [1, 2, 3, 4, 5]
    for found, reason in zip(
        damaged, ["damaged image"] * 2 + ["label 1000"] + ["no tf.train.Example"] * 2, strict=True
    ):
        assert reason in str(found)


def test_maps_without_images_and_records_without_labels(tmp_path):
    features = tfrecord.parse_example(clickme.encode(*photo()[:1], 3, photo()[1]))
    path = tmp_path / "val-0.tfrecords"
    clickme.write(path, [clickme.encode(photo()[0], 0), tfrecord.make_example(features | {"image": []})])
    with pytest.raises(LookupError, match="val-0.tfrecords: record 1, at byte .* a human map, but no image"):
        list(clickme.read([path], on_damage=lambda damage: None))
    with pytest.raises(LookupError, match="has no label"):
        clickme.decode(tfrecord.make_example({"image": features["image"]}))
    # TensorFlow's reader gives an absent feature as empty bytes: no map either.
    assert not clickme.decode(tfrecord.make_example(features | {"heatmap": [b""]})).has_map


def test_shards_are_listed_not_counted(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no shard val-0.tfrecords"):
        clickme.shards(tmp_path, "val")
    (tmp_path / "val").mkdir()
    for i in range(18):
        (tmp_path / "val" / f"val-{i}.tfrecords").touch()
    assert [path.name for path in clickme.shards(tmp_path, "val")] == [f"val-{i}.tfrecords" for i in range(18)]
    (tmp_path / "val" / "val-7.tfrecords").unlink()
    with pytest.raises(FileNotFoundError, match="has val-17.tfrecords, but not val-7.tfrecords"):
        clickme.shards(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        list(clickme.read([tmp_path / "nothing"]))


# --- threads ---


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_threads_keep_the_order(shard, tmp_path, workers):
    """Of records and of damage, in files and in pictures, whoever decodes them: as one after the other."""
    path, _ = damaged_file(shard, "payload")
    undecodable = tmp_path / "val-1.tfrecords"
    jpeg = tfrecord.parse_example(clickme.encode(photo()[0], 1))["image"][0]
    labels = [7, 1000, 8, 2000, *range(40)]
    clickme.write(undecodable, [tfrecord.make_example({"image": [jpeg], "label": [label]}) for label in labels])
    damaged = []
    found = list(clickme.read([path, undecodable, shard], on_damage=damaged.append, workers=workers))
    assert [c.label for c in found] == [0, 1, *range(3, 10), 7, 8, *range(40), *range(10)]
    assert [(d.path, d.number) for d in damaged] == [(path, 2), (undecodable, 1), (undecodable, 3)]
    for c, one in zip(found[-10:], tfrecord.read_records(shard), strict=True):
        np.testing.assert_array_equal(c.image, clickme.decode(one).image)


def test_two_threads_decode_at_once(shard, monkeypatch):
    """Each record waits until another one is being decoded, too: alone it would wait for ever."""
    monkeypatch.setattr(clickme, "TOGETHER", 1)
    both, decode = threading.Barrier(2, timeout=60), clickme.decode

    def together(payload, **options):
        both.wait()
        return decode(payload, **options)

    monkeypatch.setattr(clickme, "decode", together)
    assert [c.label for c in clickme.read([shard], workers=2)] == [*range(10)]


def test_few_records_are_decoded_ahead(shard, monkeypatch):
    """Who stops reading stops decoding: what is ahead is what the threads were given, and a thread is left nowhere."""
    decoded, decode = [], clickme.decode
    monkeypatch.setattr(clickme, "decode", lambda payload, **options: decoded.append(1) or decode(payload, **options))
    before = threading.active_count()
    reader = clickme.read([shard] * 20, workers=2)
    assert [next(reader).label for _ in range(3)] == [0, 1, 2]
    reader.close()
    assert 3 <= len(decoded) <= (2 * clickme.AHEAD + 1) * clickme.TOGETHER
    assert threading.active_count() == before


# --- maps ---


def test_the_published_blur_in_numbers():
    """Least weight over greatest .779; a spot moves by the mean of offsets -4 … 5, whose middle is 0 and 1."""
    rows, columns = blur_published(64)
    kernel = np.outer(rows[30, 26:36], columns[30, 26:36])
    np.testing.assert_allclose(kernel.min() / kernel.max(), np.exp(-50 / 200), rtol=1e-6)
    offsets = np.arange(-4, 6)
    for matrix, middle in ((rows, 0), (columns, 1)):
        weights = np.exp(-((offsets - middle) ** 2) / 200)
        spot = matrix[:, 32]
        moved = spot @ (np.arange(64) - 32) / spot.sum()
        np.testing.assert_allclose(moved, -(weights @ offsets) / weights.sum(), atol=1e-5)
    rows, columns = blur_centred(64)
    np.testing.assert_array_equal(rows, rows.T)
    np.testing.assert_allclose(rows[20:40].sum(1), 1, rtol=1e-6)


def test_resizing_is_that_of_jax():
    """Two neighbours and no averaging, as in the authors' code: `jax.image.resize` without antialiasing."""
    heatmap = RNG.integers(0, 256, (256, 256)).astype(np.uint8)
    identity = lambda n: (np.eye(n, dtype=np.float32),) * 2
    small = jax.image.resize(heatmap.astype(np.float32), (64, 64), "linear", antialias=False)
    wanted = jax.image.resize(small, (224, 224), "linear", antialias=False)
    wanted = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose(human_map(heatmap, 224, blur=identity), wanted, atol=1e-5)
    np.testing.assert_array_equal(human_map(np.full((8, 8), 7, np.uint8), 16), 0)


def centre_of_mass(a):
    a = a / a.sum()
    n = len(a)
    return np.array([(a.sum(1 - axis) * (np.arange(n) + 0.5)).sum() / n for axis in (0, 1)])


@pytest.mark.parametrize("mirrored", [False, True])
def test_images_and_maps_are_cut_together(mirrored):
    """A bright spot and the map of it: the same place afterwards, within a pixel of the 64 that maps are blurred at."""
    spot = np.zeros((120, 90), np.uint8)
    spot[50:62, 30:39] = 255
    cut = Cut(0.2, 0.1, 0.5, 0.6, mirrored)
    image = cut_image(np.repeat(spot[..., None], 3, -1), 96, cut)[..., 0].astype(float)
    looked_at = human_map(spot, 96, cut=cut, blur=blur_centred)
    wanted = np.array([(56 / 120 - 0.2) / 0.5, (34.5 / 90 - 0.1) / 0.6])
    wanted[1] = 1 - wanted[1] if mirrored else wanted[1]
    np.testing.assert_allclose(centre_of_mass(image), wanted, atol=1 / 96)
    np.testing.assert_allclose(centre_of_mass(looked_at), wanted, atol=1 / 64)


def test_random_cuts_keep_to_their_ranges():
    rng = np.random.default_rng(0)
    cuts = [random_cut(rng) for _ in range(500)]
    top, left, height, width, mirrored = np.array(cuts, float).T
    assert (height * width).min() >= 0.08 - 1e-9
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-9
    ratio = (width / height)[(height < 1) | (width < 1)]
    assert ratio.min() >= 3 / 4 - 1e-9
    assert ratio.max() <= 4 / 3 + 1e-9
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / 500**0.5


def test_images_without_a_map_in_a_batch():
    image, heatmap = photo(5)
    with_map = prepare(clickme.encode(image, 5, heatmap), size=16)
    without = prepare({"image": image, "label": 5}, size=16)
    np.testing.assert_allclose(with_map["image"].astype(int), without["image"], atol=8)
    assert with_map["has_map"]
    assert (with_map["human_map"].min(), with_map["human_map"].max()) == (0, 1)
    assert not without["has_map"]
    np.testing.assert_array_equal(without["human_map"], 0)
    assert prepare({"image": image[..., :1], "label": 5}, size=16)["image"].shape == (16, 16, 3)


# --- conversion and batches ---


def test_conversion_to_array_record(shard, tmp_path):
    path, _ = damaged_file(shard, "payload")
    out = tmp_path / "val.array_record"
    found = clickme.convert([shard, path], out)
    assert (found.records, found.with_map, found.images, len(found.damaged)) == (19, 15, 10, 1)
    assert "19 records of 10 images, 15 with a map; 1 skipped\n" in str(found)
    assert "record 2, at byte" in str(found)
    source = grain.sources.ArrayRecordDataSource(str(out))
    assert [clickme.decode(source[i]).label for i in range(19)] == [*range(10), 0, 1, *range(3, 10)]
    path.write_bytes(b"nothing of this kind")
    with pytest.raises(ValueError, match="of 1 records not one can be read"):
        clickme.convert([path], out)


def test_batches(shard):
    """One source of ClickMe, one without maps: shares in training, everything once in evaluation."""
    records = list(tfrecord.read_records(shard))[:8]
    plain = [{"image": photo(i)[0], "label": 100 + i} for i in range(40)]
    once = list(pipeline([records, plain], batch=10, train=False, size=8))
    assert [len(b["label"]) for b in once] == [10, 10, 10, 10, 8]
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in once]), [*range(8), *range(100, 140)])
    np.testing.assert_array_equal(np.concatenate([b["has_map"] for b in once]), [True] * 8 + [False] * 40)

    def first(seed, shard=(0, 1)):
        batches = iter(pipeline([records, plain], batch=10, weights=[0.2, 0.8], seed=seed, size=8, shard=shard))
        return [next(batches) for _ in range(8)]

    batches = first(0)
    assert {k: (v.shape, v.dtype.name) for k, v in batches[0].items()} == {
        "image": ((10, 8, 8, 3), "uint8"),
        "human_map": ((10, 8, 8), "float32"),
        "has_map": ((10,), "bool"),
        "label": ((10,), "int32"),
    }
    assert [b["has_map"].sum() for b in batches] == [2] * 8
    assert all((b["has_map"] == (b["label"] < 100)).all() for b in batches)
    again, other = first(0), first(1)
    assert all((a["image"] == b["image"]).all() for a, b in zip(batches, again, strict=True))
    assert any((a["image"] != b["image"]).any() for a, b in zip(batches, other, strict=True))
    halves = [set(np.concatenate([b["label"] for b in first(0, (i, 2))])) for i in (0, 1)]
    assert not halves[0] & halves[1]
    with pytest.raises(ValueError, match=r"sources have \[8, 0\] elements"):
        pipeline([records, []], batch=2)
    with pytest.raises(ValueError, match="there are 1 weights for 2 sources"):
        pipeline([records, plain], batch=2, weights=[1.0])


# --- people who are made ---

MASK = jnp.zeros((24, 32), bool).at[4:12, 20:28].set(True)


def test_people_click_on_the_object():
    """Precise ones see it and nothing else than a disc's radius around it; each click shows π r² pixels."""
    people = annotations(MASK, key=jax.random.key(0), num_people=50, num_clicks=4, stray=0.0, jitter=0.0)
    radius = 0.08 * 32
    far = np.ones(MASK.shape, bool)
    far[max(0, 4 - 4) : 12 + 4, 20 - 4 : 28 + 4] = False  # radius and rim: 2.56 + 1
    np.testing.assert_array_equal(people[:, far], 0)
    # A disc with a linear rim of one pixel has the area π (r² + 1/12); the lattice changes it by less than its rim.
    np.testing.assert_allclose(people.sum((1, 2)).mean(), 4 * np.pi * (radius**2 + 1 / 12), rtol=0.02)


def test_strays_are_anywhere_and_an_empty_mask_has_only_them():
    """Of 4000 clicks half are meant for the object, 1/12 of the image; the rest are uniform."""
    run = jax.jit(lambda mask: annotations(mask, key=jax.random.key(0), num_people=1000, num_clicks=4, stray=0.5))
    inside = lambda mask: float((run(mask).sum(0) * MASK).sum() / run(mask).sum())
    assert inside(MASK) > 0.3
    assert abs(inside(jnp.zeros_like(MASK)) - 1 / 12) < 5 * (1 / 12 / 4000) ** 0.5


def test_people_agree_less_the_more_they_stray():
    """By the ceiling that is computed as for collected maps."""

    @jax.jit
    def ceiling(stray):
        keys = jax.random.split(jax.random.key(0), 32)
        people = jax.vmap(lambda k: annotations(MASK, key=k, stray=stray))(keys)
        return jax.vmap(lambda a, k: split_half(a, key=k, num_splits=4))(people, keys).mean()

    values = [float(ceiling(stray)) for stray in (0.0, 0.2, 0.5, 1.0)]
    assert values == sorted(values, reverse=True)
    # Nothing is shared by strays alone: 32 correlations, discs of some 20 pixels of 768 each.
    assert values[0] > 0.5
    assert abs(values[-1]) < 0.1


def test_bad_people():
    with pytest.raises(ValueError, match=r"annotations: mask has shape \(1, 24, 32\), expected \(h, w\)"):
        annotations(MASK[None], key=jax.random.key(0))
    with pytest.raises(ValueError, match="annotations: num_clicks is 0, expected at least 1"):
        annotations(MASK, key=jax.random.key(0), num_clicks=0)
