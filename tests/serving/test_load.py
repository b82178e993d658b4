"""Many clients, slow clients and the end: nothing is lost, swapped or kept, and nobody waits for ever."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from danet.inference.segmenter import load
from tests.serving.process import Reply, Server, photograph, png, serving, take

CLIENTS, REQUESTS = 16, 50


def large() -> bytes:
    """An image that keeps the server busy for seconds."""
    return png(np.kron(photograph(), np.ones((32, 32, 1), np.uint8)))


def labels(reply: Reply) -> bytes:
    assert reply.status == 200
    return reply.body


@pytest.mark.slow
def test_sixteen_clients_each_get_their_own_images_answers(server: Server):
    """Each answer is checked against that of its own image, asked for alone."""
    kinds = 40
    bodies = [png(photograph(seed, 40 + seed, 64)) for seed in range(kinds)]
    alone = [labels(server.post(f"/v1/segment?name={seed}", body)) for seed, body in enumerate(bodies)]
    assert len(set(alone)) == kinds
    segmenter = load(None, "cpu", "float32")
    for seed in (0, 7):
        shares = {one["name"]: one["share"] for one in server.post("/v1/segment", bodies[seed]).json["classes"]}
        expected = segmenter(photograph(seed, 40 + seed, 64)).shares
        assert shares == pytest.approx(expected, abs=1e-3)

    def client(number: int) -> int:
        right, connection = 0, server.connect()
        for request in range(REQUESTS):
            seed = (number * 7 + request * 3) % kinds
            connection.request("POST", f"/v1/segment?name={seed}", bodies[seed])
            right += labels(take(connection)) == alone[seed]
        connection.close()
        return right

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert list(clients.map(client, range(CLIENTS))) == [REQUESTS] * CLIENTS


@pytest.mark.slow
def test_five_hundred_requests_in_a_row_leave_the_memory_as_it_was(tmp_path):
    with serving(tmp_path) as server:
        bodies = [png(photograph(seed, 96 + 8 * seed, 128)) for seed in range(5)]

        def ask(count: int) -> None:
            for number in range(count):
                path = ("/v1/attention", "/v1/segment")[number % 2]
                assert server.post(path, bodies[number % 5], Accept_Encoding="gzip").status == 200

        ask(100)
        before = server.memory()
        ask(500)
        assert server.memory() < 1.05 * before


@pytest.mark.slow
def test_more_than_may_wait_are_told_when_to_come_again(tmp_path):
    with serving(tmp_path, "--concurrency", "2") as server, ThreadPoolExecutor(6) as clients:
        replies = list(clients.map(lambda _: server.post("/v1/attention", large()), range(6)))
        refused = [reply for reply in replies if reply.status == 503]
        assert len(refused) == 4
        for reply in refused:
            assert reply.code == "busy"
            assert reply.json["error"]["limit"] == 2
            assert int(reply.headers["retry-after"]) >= 1
        assert sum(reply.status == 200 for reply in replies) == 2
        assert server.post("/v1/segment", png(photograph())).status == 200, "places are free again"


def test_the_server_answers_while_an_image_is_in_work(server: Server):
    with ThreadPoolExecutor(1) as client:
        work = client.submit(server.post, "/v1/attention", large())
        time.sleep(0.3)
        start = time.perf_counter()
        assert server.get("/healthz").status == 200
        took = time.perf_counter() - start
        assert not work.done()
        assert took < 0.5
        assert work.result().status == 200


@pytest.mark.slow
def test_half_a_body_times_out_and_frees_its_place(tmp_path):
    with serving(tmp_path, "--timeout", "1", "--concurrency", "1") as server:
        body = png(photograph())
        for sent, length in ((body[:40], len(body)), (b"", 5), (b"", 15_000_000)):
            half = server.connect()
            half.putrequest("POST", "/v1/segment")
            half.putheader("Content-Length", str(length))
            half.endheaders(sent)
            time.sleep(0.2)
            assert server.post("/v1/segment", body).code == "busy"
            start = time.perf_counter()
            reply = take(half)
            assert 0.2 < time.perf_counter() - start < 2
            assert (reply.status, reply.code, reply.headers["connection"]) == (408, "timeout", "close")
            half.close()
            assert server.post("/v1/segment", body).status == 200


@pytest.mark.slow
def test_a_body_that_drips_is_no_different(tmp_path):
    with serving(tmp_path, "--timeout", "1") as server:
        connection = server.connect()
        connection.putrequest("POST", "/v1/segment")
        connection.putheader("Content-Length", "1000")
        connection.endheaders()
        start = time.perf_counter()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.perf_counter() - start < 5:
                connection.send(b"0")
                time.sleep(0.1)
        connection.close()
        assert 0.9 < time.perf_counter() - start < 4


@pytest.mark.slow
def test_connections_that_say_nothing_or_half_a_word_are_cut(tmp_path):
    with serving(tmp_path, "--timeout", "1") as server:
        begun = [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HT"]
        for words in begun:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(words)
                connection.settimeout(6)
                start, heard = time.perf_counter(), b""
                with suppress(ConnectionResetError):
                    while part := connection.recv(65536):
                        heard += part
                assert time.perf_counter() - start < 4
                assert heard.startswith(b"HTTP/1.1 200" if words.count(b"GET") == 2 else b"")


@pytest.mark.slow
def test_a_client_that_does_not_take_its_answer_is_cut(tmp_path):
    with serving(tmp_path, "--timeout", "1") as server, socket.socket() as connection:
        whole = len(server.get("/v1/examples/scene").body)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /v1/examples/scene HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(10)
        heard = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                heard += len(part)
        assert heard < whole


@pytest.mark.slow
def test_a_connection_that_is_kept_is_not_cut_between_requests(tmp_path):
    with serving(tmp_path, "--timeout", "1") as server:
        connection, body = server.connect(), png(photograph())
        start = time.perf_counter()
        while time.perf_counter() - start < 8:
            connection.request("POST", "/v1/segment", body)
            assert take(connection).status == 200
            time.sleep(0.3)
        connection.close()


@pytest.mark.slow
def test_a_body_without_a_length_has_the_same_limit(tmp_path):
    with serving(tmp_path, "--max-bytes", "50000") as server:
        body = png(photograph())
        pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
        assert server.post("/v1/segment", iter(pieces)).status == 200
        for body in (iter([bytes(1000)] * 60), iter([bytes(1000)] * 99), bytes(60_000), bytes(99_000), bytes(500_000)):
            reply = server.post("/v1/segment", body)
            assert (reply.status, reply.code) == (413, "too_large_bytes")
            assert reply.json["error"]["limit"] == 50_000
            assert "50,000 bytes" in reply.json["error"]["message"]
        endless = b"3e8\r\n" + bytes(1000) + b"\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                connection.sendall(endless * 100_000)


@pytest.mark.slow
def test_an_image_that_takes_too_long_is_answered_with_an_error(tmp_path):
    with serving(tmp_path, "--timeout", "1") as server:
        start = time.perf_counter()
        reply = server.post("/v1/attention", large())
        assert (reply.status, reply.code) == (413, "too_slow")
        assert time.perf_counter() - start < 2.5
        assert server.get("/healthz").status == 200
        deadline = time.perf_counter() + 30
        while server.post("/v1/segment", png(photograph())).status == 503:
            assert time.perf_counter() < deadline, "its turn ends when the forward does"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_work_at_the_end_is_answered(tmp_path, number):
    with serving(tmp_path) as server, ThreadPoolExecutor(3) as clients:
        working = [clients.submit(server.post, "/v1/attention", large()) for _ in range(2)]
        idle = server.connect()
        idle.request("GET", "/healthz")
        assert take(idle).status == 200
        time.sleep(0.5)
        assert not any(work.done() for work in working)
        assert server.end(number) == 0
        idle.close()
        replies = [work.result() for work in working]
        assert [reply.status for reply in replies] == [200, 200]
        assert replies[0].body == replies[1].body
        with pytest.raises(ConnectionRefusedError):
            server.get("/healthz")


def test_a_client_that_leaves_harms_nobody(server: Server):
    for sent in (b"", b"123", png(photograph())):
        gone = server.connect()
        gone.putrequest("POST", "/v1/attention")
        gone.putheader("Content-Length", str(len(png(photograph()))))
        gone.endheaders(sent)
        gone.close()
    assert server.post("/v1/segment", png(photograph())).status == 200
