"""Pictures that look alike have hashes that hardly differ, and are found as by comparing all with all."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from danet.data.duplicates import difference_hash, nearest
from danet.data.scenes import scene


def test_the_hash_is_that_of_its_definition():
    steps = np.array([[0, 1], [1, 0]], np.uint8) * 200
    picture = np.repeat(np.kron(np.tile(steps, (4, 5))[:, :9], np.ones((5, 4), np.uint8))[..., None], 3, axis=2)
    assert difference_hash(picture) == int("1010101001010101" * 1 * 1, 2) * sum(1 << 16 * row for row in range(4))


def test_scaled_and_compressed_pictures_stay_near_and_others_far():
    pictures = [scene(3, index, 96, 128).image for index in range(6)]
    hashes = np.array([difference_hash(picture) for picture in pictures], np.uint64)
    changed = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray(picture).resize((200, 150)).save(file, format="JPEG", quality=50)
        changed.append(difference_hash(np.asarray(Image.open(file))))
    found, bits = nearest(np.array(changed, np.uint64), hashes)
    assert found.tolist() == list(range(6))
    assert bits.max() <= 4
    assert (nearest(hashes[:3], hashes[3:])[0] == -1).all()


HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 200), max_size=30)


@given(HASHES, HASHES, st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_as_all_with_all(hashes, among, distance, seed):
    flips = np.random.default_rng(seed)
    near = [code ^ int(sum(1 << int(bit) for bit in set(flips.integers(0, 64, 5)))) for code in among]
    ours, theirs = np.array([*hashes, *near], np.uint64), np.array(among, np.uint64)
    found, bits = nearest(ours, theirs, distance)
    differ = np.bitwise_count(ours[:, None] ^ theirs[None]).astype(int)
    for row, (place, count) in enumerate(zip(found, bits, strict=True)):
        if not len(theirs) or differ[row].min() > distance:
            assert (place, count) == (-1, -1)
        else:
            assert (place, count) == (differ[row].argmin(), differ[row].min())


def test_a_hundred_thousand_take_seconds():
    hashes = np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64, endpoint=False)
    found, _ = nearest(hashes[:5_000] ^ np.uint64(1 << 50), hashes)
    assert found.tolist() == list(range(5_000))
