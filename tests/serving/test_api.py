"""What every address answers, to whom, and with which headers."""

import gzip
import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load as load_tensors

from danet.data.scenes import scene
from danet.inference.segmenter import Segmenter, load
from danet.serving.app import EXAMPLE
from danet.viz.answer import answer
from tests.serving.process import Server, photograph, png, serving


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load(None, "cpu", "float32")


def facts(body: bytes) -> dict:
    """The metadata of an answer."""
    length = int.from_bytes(body[:8], "little")
    return json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["danet"])


def same_answer(found: bytes, expected: bytes) -> None:
    """But for how products were rounded."""
    assert facts(found).keys() == facts(expected).keys()
    assert facts(found)["classes"] == facts(expected)["classes"]
    one, other = load_tensors(found), load_tensors(expected)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        if not name.endswith("_rest") and name != "picture":
            assert np.mean(np.abs(one[name].astype(float) - other[name]) > 1e-2 * (1 + np.abs(other[name]))) < 0.01, (
                name
            )


def test_attention_is_pythons_answer(server: Server, segmenter: Segmenter):
    pixels = photograph(3, 100, 140)
    reply = server.post("/v1/attention?name=Stra%C3%9Fe.png", png(pixels))
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    assert facts(reply.body)["name"] == "Straße.png"
    same_answer(reply.body, answer(segmenter.encode(pixels).view("Straße.png")))


def test_labels_come_as_json_or_as_a_png_with_palette(server: Server, segmenter: Segmenter):
    pixels = photograph(4)
    prediction = segmenter(pixels)
    told = server.post("/v1/segment?name=a.png", png(pixels)).json
    assert (told["name"], told["size"]) == ("a.png", [48, 64])
    assert {one["name"]: one["share"] for one in told["classes"]} == prediction.shares
    assert told["classes"][3] == {"name": "road", "colour": "#804080", "share": prediction.shares["road"]}
    reply = server.post("/v1/segment", png(pixels), Accept="image/png,*/*;q=0.5")
    assert reply.headers["content-type"] == "image/png"
    for body in (reply.body, b64decode(told["labels"])):
        with Image.open(BytesIO(body)) as labels:
            assert (labels.format, labels.mode) == ("PNG", "P")
            assert (np.asarray(labels) == prediction.labels).mean() > 0.999
            assert labels.getpalette()[9:12] == list(prediction.space.colours[3])
    with Image.open(BytesIO(b64decode(told["confidence"]))) as confidence:
        assert np.abs(np.asarray(confidence) - 255 * prediction.confidence).max() <= 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("image/png, application/json", "application/json"),
        ("image/png;q=0.4, application/json;q=0.5", "application/json"),
        ("image/png;q=0", "application/json"),
        ("*/*", "application/json"),
        ("text/html, image/png;q=x", "application/json"),
        ("", "application/json"),
    ],
)
def test_a_client_chooses_the_form_of_labels(server: Server, accept: str, kind: str):
    reply = server.post("/v1/segment", png(photograph()), Accept=accept)
    assert reply.headers["content-type"] == kind
    assert reply.headers["vary"] == "Accept, Accept-Encoding"


def test_longest_shrinks_the_image_and_never_enlarges_it(server: Server):
    body = png(photograph(0, 96, 128))
    assert server.post("/v1/segment?longest=64", body).json["size"] == [48, 64]
    assert server.post("/v1/segment?longest=128", body).json["size"] == [96, 128]
    assert facts(server.post("/v1/attention?longest=64", body).body)["original_size"] == [48, 64]


def test_answers_are_zipped_for_who_can_read_that(server: Server):
    body = png(photograph())
    plain = server.post("/v1/attention", body)
    assert "content-encoding" not in plain.headers
    zipped = server.post("/v1/attention", body, Accept_Encoding="br, gzip")
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert "content-encoding" not in server.post("/v1/attention", body, Accept_Encoding="gzip;q=0").headers


def test_the_examples_are_the_scene_and_its_twin(server: Server, segmenter: Segmenter):
    seed, index, height, width = EXAMPLE
    for name, twin in (("scene", False), ("twin", True)):
        drawn = scene(seed, index, height, width, twin=twin)
        body = server.get(f"/v1/examples/{name}").body
        same_answer(body, answer(segmenter.encode(drawn.image).view(name)))
        right = load_tensors(body)["labels"] == drawn.labels
        assert right[drawn.far].mean() > 0.98, "far away only what stands there tells road from pavement"
    assert (server.get("/v1/examples/car").status, server.get("/v1/examples/car").code) == (404, "not_found")


def test_the_model_says_what_it_is_and_what_can_be_asked(server: Server, segmenter: Segmenter):
    told = server.get("/v1/model").json
    assert [told[name] for name in ("name", "head", "backbone")] == ["street-tiny", "danet", "resnet18"]
    assert "toy" in told["note"]
    assert [one["name"] for one in told["classes"]] == list(segmenter.labels.names)
    assert told["limits"] == {"bytes": 20_000_000, "pixels": 4_194_304, "seconds": 60}
    assert told["longest"] == segmenter.preprocess.longest == 256
    assert 0.01 < told["seconds_per_megapixel"] < 100
    assert server.get("/healthz").json == {"status": "ok"}


def test_the_page_and_all_that_it_names_are_there(server: Server):
    index = server.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    waiting, seen = re.findall(r'(?:href|src)="(page/[^"]+)"', index.body.decode()), set()
    assert waiting
    while waiting:
        name = waiting.pop()
        seen.add(name)
        reply = server.get(f"/{name}")
        assert reply.headers["content-type"] == kinds[name.rpartition(".")[2]]
        named = re.findall(r'from "\./([^"]+)"', reply.body.decode())
        waiting += [f"page/{one}" for one in named if f"page/{one}" not in seen]
    alone = server.get("/stand-alone.html").body.decode()
    assert 'type="application/danet"' in alone
    assert not re.search(r'(?:href|src)="(?!data:)', alone)


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../answer.py", "/page/%2e%2e/answer.py", "/page/none.js", "//etc/passwd"]
)
def test_no_other_file_is_served(server: Server, path: str):
    assert (server.get(path).status, server.get(path).code) == (404, "not_found")


def test_what_a_client_has_already_is_not_sent_again(server: Server):
    for path in ("/", "/page/app.js", "/v1/examples/scene"):
        first = server.get(path)
        again = server.get(path, If_None_Match=first.headers["etag"])
        assert (again.status, again.body) == (304, b"")
        assert server.get(path, If_None_Match='W/"other"').body == first.body
        assert first.headers["cache-control"] == "no-cache"
    assert server.post("/v1/segment", png(photograph())).headers["cache-control"] == "no-store"


def test_head_is_get_without_a_body(server: Server):
    for path in ("/", "/page/app.js", "/v1/model", "/v1/examples/twin", "/healthz", "/openapi.json", "/nothing"):
        head, got = server.ask("HEAD", path), server.get(path)
        assert head.status == got.status
        assert head.body == b""
        assert {**head.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/attention", "POST"),
        ("HEAD", "/v1/segment", "POST"),
        ("PUT", "/v1/segment", "POST"),
        ("OPTIONS", "/v1/attention", "POST"),
        ("POST", "/", "GET"),
        ("DELETE", "/healthz", "GET"),
        ("TRACE", "/v1/model", "GET"),
    ],
)
def test_a_wrong_method_hears_the_right_one(server: Server, method: str, path: str, allowed: str):
    reply = server.ask(method, path)
    assert reply.status == 405
    assert reply.headers["allow"].split(", ")[0] == allowed
    if method != "HEAD":
        assert reply.code == "wrong_method"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("longest=7", "longest is '7', but should be greater than or equal to 32."),
        ("longest=many", "longest is 'many', but should be a valid integer"),
        ("longest=99999", "longest is '99999', but should be less than or equal to 65535."),
        (f"name={'n' * 201}", f"name is '{'n' * 40}…', but should have at most 200 characters."),
        ("longst=64", "There is no parameter 'longst'; there are name and longest."),
        (f"{'n' * 300}=1", f"There is no parameter '{'n' * 40}…'; there are name and longest."),
    ],
)
def test_wrong_parameters_are_one_line(server: Server, query: str, words: str):
    reply = server.post(f"/v1/attention?{query}", png(photograph()))
    assert (reply.status, reply.code) == (422, "bad_parameter")
    assert words in reply.json["error"]["message"]


def test_every_answer_tells_the_browser_to_load_and_run_nothing(server: Server):
    replies = [
        server.get(path) for path in ("/page/app.js", "/v1/model", "/v1/examples/scene", "/none", "/openapi.json")
    ]
    replies += [server.post("/v1/segment", body) for body in (b"", png(photograph()))]
    replies += [server.get("/", Host="evil.example"), server.get("/healthz")]
    for reply in replies:
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in reply.headers
        assert "access-control-allow-origin" not in reply.headers
    policy = server.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_name_that_was_bound_to_this_machine_is_turned_away(server: Server):
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "",
        "127.0.0.1.evil.example",
        "[::2]",
        "localhost.evil",
    ):
        reply = server.get("/v1/model", Host=host)
        assert (reply.status, reply.code) == (421, "wrong_host")
    for host in ("localhost", f"127.0.0.1:{server.port}", "[::1]:80", "LOCALHOST:1"):
        assert server.get("/v1/model", Host=host).status == 200


def test_another_sites_page_cannot_send_images(server: Server):
    body = png(photograph())
    cross = {"Sec_Fetch_Site": "cross-site", "Origin": "https://evil.example"}
    for site in ("cross-site", "same-site"):
        reply = server.post("/v1/segment", body, **cross | {"Sec_Fetch_Site": site})
        assert (reply.status, reply.code) == (403, "wrong_origin")
    reply = server.post("/v1/segment", body, Origin="https://evil.example")
    assert (reply.status, reply.code) == (403, "wrong_origin"), "of a browser that tells the origin alone"
    assert server.post("/v1/segment", body, Origin=f"http://127.0.0.1:{server.port}").status == 200
    assert server.get("/", **cross).status == 200, "a link to the page may be followed"
    assert server.post("/v1/segment", body, Sec_Fetch_Site="same-origin").status == 200


def test_pages_of_a_named_origin_may_ask(tmp_path):
    own, other = "https://example.org", "https://evil.example"
    with serving(tmp_path, "--cors", own) as server:
        preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
        asked = server.ask("OPTIONS", "/v1/attention", Origin=own, **preflight)
        assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, own)
        assert server.ask("OPTIONS", "/v1/attention", Origin=other, **preflight).status == 400
        reply = server.post("/v1/segment", png(photograph()), Origin=own, Sec_Fetch_Site="cross-site")
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, own)
        assert reply.headers["cross-origin-resource-policy"] == "cross-origin"
        assert server.post("/v1/segment", b"", Origin=other, Sec_Fetch_Site="cross-site").status == 403


def test_nothing_of_a_request_is_logged(tmp_path):
    with serving(tmp_path) as server:
        before = server.log.read_text()
        for path in ("/v1/segment?name=secret", "/v1/attention?name=secret&longest=3", "/secret"):
            server.post(path, png(photograph()))
            server.post(path, b"secret")
        server.get("/secret?secret")
    assert server.log.read_text() == before
    assert "secret" not in before
