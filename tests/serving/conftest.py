"""The server that most tests ask."""

from collections.abc import Iterator

import pytest

from tests.serving.process import Server, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("serve"), "--concurrency", "32") as server:
        yield server
