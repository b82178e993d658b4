"""Downloads: whole or not there, resumed where they were cut, and never two files glued together."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest

from danet.errors import InputError
from danet.weights import download
from danet.weights.download import digest_in_name, fetch, forget
from danet.weights.zoo import published
from tests.weights.server import Server

DATA = bytes(range(256)) * 12_000
DIGEST = hashlib.sha256(DATA).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"
FETCH = "import sys; from danet.weights.download import fetch; fetch(*sys.argv[1:])"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    with Server() as server:
        server.files[NAME] = DATA
        yield server


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_alone(server, tmp_path):
    told = []
    path = fetch(server.url(NAME), tmp_path / "new" / "net.pth", progress=lambda *now: told.append(now))
    assert path.read_bytes() == DATA
    assert contents(path.parent) == ["net.pth", "net.pth.etag"]
    assert told == sorted(told)
    assert told[-1] == (len(DATA), len(DATA))
    assert fetch(path.as_uri(), tmp_path / "copy", DIGEST).read_bytes() == DATA
    forget(path)
    assert contents(path.parent) == []


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [1_000_000, 500_000]
    server.failures = [503]
    told = []
    fetch(server.url(NAME), tmp_path / "net.pth", progress=lambda *now: told.append(now))
    assert (tmp_path / "net.pth").read_bytes() == DATA
    assert server.asked == [(NAME, 0), (NAME, 999_999), (NAME, 1_499_998)]
    assert told == sorted(told)
    assert {total for _, total in told} == {len(DATA)}


def test_without_ranges_it_starts_anew(server, tmp_path):
    server.cuts, server.ranges = [1_000_000], False
    assert fetch(server.url(NAME), tmp_path / "net.pth").read_bytes() == DATA
    assert server.asked == [(NAME, 0), (NAME, 0)]


@pytest.mark.parametrize("changed", [DATA[::-1], DATA[:900_000]])
def test_what_is_left_of_another_file_is_not_glued_to_it(server, changed, tmp_path):
    server.files["net.pth"] = DATA
    server.cuts = [1_000_000, 1, 1, 1]
    with pytest.raises(InputError, match=r"was cut off .*; what came is kept") as caught:
        fetch(server.url("net.pth"), tmp_path / "net.pth")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == ["net.pth.etag", "net.pth.part"]
    server.files["net.pth"] = changed
    assert fetch(server.url("net.pth"), tmp_path / "net.pth").read_bytes() == changed


def test_a_part_that_is_already_whole(server, tmp_path):
    server.cuts = [len(DATA) - 1, 0, 0, 0]
    with pytest.raises(InputError):
        fetch(server.url(NAME), tmp_path / "net.pth")
    (tmp_path / "net.pth.part").write_bytes(DATA)
    server.asked.clear()
    for _ in range(2):
        assert fetch(server.url(NAME), tmp_path / "net.pth").read_bytes() == DATA
    assert server.asked == [(NAME, len(DATA) - 1)] * 2
    server.files[NAME] = other = DATA[::-1]
    assert fetch(server.url(NAME), tmp_path / "net.pth", hashlib.sha256(other).hexdigest()).read_bytes() == other


def test_killed_in_the_middle_it_goes_on(server, tmp_path):
    server.hold_after = 2_500_000
    process = subprocess.Popen([sys.executable, "-c", FETCH, server.url(NAME), str(tmp_path / "net.pth")])
    assert server.held.wait(60)
    part = tmp_path / "net.pth.part"
    while not part.is_file() or part.stat().st_size < 2 << 20:
        assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert contents(tmp_path) == ["net.pth.etag", "net.pth.part"]
    there, server.hold_after = part.stat().st_size, None
    assert fetch(server.url(NAME), tmp_path / "net.pth").read_bytes() == DATA
    assert server.asked == [(NAME, 0), (NAME, there - 1)]


def test_a_full_disk_is_one_line_and_what_came_is_kept(server, tmp_path):
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); {FETCH}"
    command = [sys.executable, "-c", limited, server.url(NAME), str(tmp_path / "net.pth")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.stderr.splitlines()[-1].startswith("danet.errors.InputError: ")
    assert "net.pth cannot be written (File too large); make room" in process.stderr
    assert fetch(server.url(NAME), tmp_path / "net.pth").read_bytes() == DATA
    assert server.asked == [(NAME, 0), (NAME, (1 << 20) - 1)]


@pytest.mark.parametrize(
    ("name", "digest", "words"),
    [
        (NAME, "0" * 8, ("has SHA-256", DIGEST[:8], "but 00000000… was expected")),
        ("net-0123abcd.pth", "", ("0123abcd… was expected", "danet convert FILE")),
        ("page.html", "", ("gives a web page, not a file", "download it in a browser, then: danet convert FILE")),
        ("none.pth", "", ("none.pth cannot be had (HTTP 404 Not Found)", "check the address")),
        ("with space", "", ("cannot be had", "check the address")),
    ],
)
def test_what_is_no_such_file_is_one_line_and_leaves_nothing(server, name, digest, words, tmp_path):
    server.files |= {"net-0123abcd.pth": DATA, "page.html": b"<html>Google Drive cannot scan this file</html>"}
    with pytest.raises(InputError) as caught:
        fetch(server.url(name), tmp_path / "net.pth", digest)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert contents(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/net.pth", "cannot be had (Connection refused)"),
        ("http://[/net.pth", "cannot be had"),
        ("file:///nowhere/net.pth", "cannot be had (No such file"),
        ("ftp://127.0.0.1/net.pth", "must begin with https://"),
        ("net.pth", "must begin with https://"),
    ],
)
def test_an_address_that_leads_nowhere(url, words, tmp_path):
    with pytest.raises(InputError) as caught:
        fetch(url, tmp_path / "net.pth")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*; choose another folder"):
        fetch(server.url(NAME), tmp_path / "file" / "net.pth")


def test_a_name_s_digest():
    assert digest_in_name("https://host/a/net_20200605_191324-c0dbfa5f.pth?download=1") == "c0dbfa5f"
    assert digest_in_name(f"file:///net-{DIGEST}.pth.tar") == DIGEST
    for none in ("net-20200605.pth", "net.pth", "net-c0dbfa5f", "net-v2.pth", "DANet101.pth.tar"):
        assert digest_in_name(f"https://host/{none}") == ""
    for entry in published().values():
        assert digest_in_name(entry.url) == entry.sha256
