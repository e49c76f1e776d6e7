from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from infra.local.ports import holder, is_free, require_free
from millrace.errors import PortTakenError

pytestmark = pytest.mark.unit


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_holder_of_a_port_is_found(taken: int) -> None:
    found = holder(taken)
    assert found is not None
    assert found.pid == os.getpid()


def test_a_taken_port_is_refused_with_all_one_needs_to_free_it(taken: int) -> None:
    with pytest.raises(PortTakenError) as caught:
        require_free("mlflow", "127.0.0.1", taken, "MILLRACE_MLFLOW_URL", f"http://127.0.0.1:{taken + 1}")
    for expected in (str(taken), "mlflow", str(os.getpid()), "MILLRACE_MLFLOW_URL", f"http://127.0.0.1:{taken + 1}"):
        assert expected in caught.value.message


def test_a_port_on_all_interfaces_is_taken_on_loopback_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        assert not is_free("127.0.0.1", server.getsockname()[1])


def test_a_port_is_free_again_when_its_server_is_gone(taken: int) -> None:
    assert not is_free("127.0.0.1", taken)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert is_free("127.0.0.1", port)
    assert holder(port) is None
