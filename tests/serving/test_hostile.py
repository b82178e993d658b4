"""Images that were mutated, from a seed: the server answers every one with 200 or a typed 4xx, and does not grow."""

import struct
import zipfile
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.serving.process import Server, photograph, png, saved, serving

KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
GUESTS = (
    b"<html><script>alert(1)</script></html>",
    b"%PDF-1.7\n1 0 obj << /OpenAction << /S /JavaScript >> >>\n",
    b"#!/bin/sh\nrm -rf /\n",
    b"\x80\x04cposix\nsystem\n(S'true'\ntR.",
    b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    b"\x7fELF\x02\x01\x01",
)


def mutant(seed: int) -> bytes:
    """One file: truncated, flipped, spliced, a bomb, a polyglot, of a wrong type, or whole."""
    dice = np.random.Generator(np.random.Philox(seed))
    kind = str(dice.choice(KINDS))
    body = saved(Image.fromarray(photograph(seed % 7)), kind)
    match str(dice.choice(("truncated", "flipped", "spliced", "bomb", "polyglot", "type", "header", "whole"))):
        case "truncated":
            return body[: int(dice.integers(0, len(body)))]
        case "flipped":
            bytes_ = bytearray(body)
            for place in dice.integers(0, len(body), int(dice.integers(1, 40))):
                bytes_[place] ^= int(dice.integers(1, 256))
            return bytes(bytes_)
        case "spliced":
            other = saved(Image.fromarray(photograph(seed % 5)), str(dice.choice(KINDS)))
            cut = int(dice.integers(0, min(len(body), len(other))))
            return body[:cut] + other[cut:]
        case "bomb":
            return bomb(dice)
        case "polyglot":
            guest = GUESTS[int(dice.integers(len(GUESTS)))]
            return guest + body if dice.random() < 0.3 else body + guest
        case "type":
            return wrong_type(dice)
        case "header":
            return body[:16] + dice.bytes(int(dice.integers(0, 3000)))
    return body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(dice: np.random.Generator) -> bytes:
    """Few bytes that promise, or unpack to, very many."""
    zeros = zlib.compress(bytes(40_000_000), 9)
    sides = [int(side) for side in dice.choice((40, 2000, 20_000, 60_000, 2**31 - 1), 2)]
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0))
    match int(dice.integers(6)):
        case 0:
            return head + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
        case 1:
            small = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0))
            return small + chunk(b"zTXt", b"a\0\0" + zeros) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")
        case 2:
            return (
                b"GIF89a"
                + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
                + bytes(6)
                + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;"
            )
        case 3:
            return (
                b"BM"
                + struct.pack("<IHHI", 100, 0, 0, 54)
                + struct.pack("<IiiHH", 40, 100_000, -100_000, 1, 24)
                + bytes(24)
            )
        case 4:
            tags = struct.pack("<HHHII", 3, 256, 4, 1, 200_000) + struct.pack("<HHII", 257, 4, 1, 200_000)
            return b"II*\0\x08\0\0\0" + tags + struct.pack("<HHII", 277, 3, 1, 60_000) + bytes(4)
    frames = [Image.new("P", (64, 64), index) for index in range(200)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def wrong_type(dice: np.random.Generator) -> bytes:
    """What is no image, or one that the server does not take."""
    match int(dice.integers(7)):
        case 0:
            file = BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("street.png", saved(Image.fromarray(photograph()), "PNG"))
            return file.getvalue()
        case 1:
            return b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
        case 2:
            return b'{"path": "/etc/passwd", "url": "http://127.0.0.1:1/"}'
        case 3:
            return saved(Image.fromarray(photograph()), str(dice.choice(("EPS", "PPM", "PDF", "ICNS", "TGA"))))
        case 4:
            return saved(Image.fromarray(photograph(0, 31, 64)), str(dice.choice(KINDS)))
        case 5:
            return GUESTS[int(dice.integers(len(GUESTS)))]
    return dice.bytes(int(dice.integers(0, 5000)))


def attack(server: Server, seeds: range) -> dict[int, int]:
    """How often each status came back; each one typed."""
    statuses: dict[int, int] = {}
    for seed in seeds:
        path = ("/v1/segment", "/v1/segment?longest=64", "/v1/attention")[seed % 3]
        reply = server.post(path, mutant(seed), Content_Type=("image/png", "text/html", "application/json")[seed % 3])
        assert reply.status == 200 or (400 <= reply.status < 500 and reply.code != "internal"), (seed, reply)
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
    return statuses


def test_a_hundred_mutated_images_have_typed_answers(server: Server):
    statuses = attack(server, range(100))
    assert set(statuses) == {200, 413, 415, 422}
    assert statuses[415] > 30


@pytest.mark.slow
def test_a_thousand_mutated_images_leave_nothing_behind(tmp_path):
    with serving(tmp_path) as server:
        largest = png(np.zeros((2048, 2048, 3), np.uint8))  # some mutants are as large; what they take is no growth
        for path in ("/v1/segment", "/v1/attention"):
            assert server.post(path, largest).status == 200
        before = server.memory()
        attack(server, range(1000))
        assert server.memory() < 1.05 * before
        assert server.post("/v1/segment", png(photograph())).status == 200
