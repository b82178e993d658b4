"""The OpenAPI document: everything that follows from it is answered as it says, and nothing with a fault of ours."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.process import Server, photograph, png

schemathesis.openapi.media_type(
    "application/octet-stream", st.sampled_from([png(photograph(seed)) for seed in range(5)]) | st.binary()
)
CHECKS = [content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/attention"),
        ("POST", "/v1/segment"),
        ("GET", "/v1/model"),
        ("GET", "/v1/examples/{name}"),
        ("GET", "/healthz"),
    ],
)
def test_what_follows_from_the_document_is_answered_as_it_says(
    server: Server, method: str, path: str, mode: GenerationMode
):
    """Right requests, and wrong ones, where there are any."""
    document = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    operation = document[path][method]
    if mode == GenerationMode.NEGATIVE and not operation.query and not operation.path_parameters:
        return
    seen = set()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=60, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    def ask(case: schemathesis.Case) -> None:
        response = case.call()
        seen.add(response.status_code)
        assert response.status_code < 500
        case.validate_response(response, checks=CHECKS)

    ask()
    # A name that is no text by the document is one in an address all the same, so some of the wrong ones are right.
    assert seen & ({200} if mode == GenerationMode.POSITIVE else {404, 422})
    assert seen <= {200, 404, 405, 413, 415, 422}


def test_the_document_has_examples_and_typed_problems(server: Server):
    told = server.get("/openapi.json").json
    assert set(told["paths"]) == {"/v1/attention", "/v1/segment", "/v1/model", "/v1/examples/{name}", "/healthz"}
    for path in ("/v1/attention", "/v1/segment"):
        post = told["paths"][path]["post"]
        assert set(post["requestBody"]["content"]) == {"image/*", "application/octet-stream"}
        codes = []
        for status, one in post["responses"].items():
            if status == "200":
                continue
            content = one["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}
            codes += [example["value"]["error"]["code"] for example in content["examples"].values()]
        assert sorted(codes) == [
            "bad_parameter",
            "busy",
            "not_an_image",
            "timeout",
            "too_large_bytes",
            "too_large_pixels",
            "too_slow",
            "too_small",
        ]
