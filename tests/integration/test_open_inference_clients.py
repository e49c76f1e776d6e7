"""The Open Inference Protocol as its stock client speaks it: `tritonclient`, unchanged, against the service over HTTP.

The service runs in a thread behind uvicorn, mounted where a pipeline's service is; Ray adds nothing to what it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from millrace.inference_log import read_answers
from ray_jobs.serve.service import PredictionService
from tests.served import listening
from tests.unit.ray_jobs.serve.world import World

CLASSES = ["no", "yes"]
DELAYS = [1.0, 0.0]
CARRIERS = ["UA", "AA"]
#: What a cell of `delay` may be sent as; each of these holds `DELAYS` without rounding them.
NUMBERS = {
    "FP64": np.float64,
    "FP32": np.float32,
    "INT64": np.int64,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "UINT64": np.uint64,
    "BOOL": np.bool_,
}
Client: TypeAlias = Any  # triton.InferenceServerClient, which has no types


def tensor(name: str, cells: Any, datatype: str = "", *, binary: bool = True) -> Any:
    """An input tensor as the client makes one."""
    datatype = datatype or ("BYTES" if name != "delay" else "FP64")
    array = np.array(cells, object if datatype == "BYTES" else {**NUMBERS, "FP16": np.float16}[datatype])
    found = triton.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array, binary_data=binary)
    return found


def good(*, binary: bool = True) -> list[Any]:
    return [tensor("delay", DELAYS, binary=binary), tensor("carrier", CARRIERS, binary=binary)]


def output(name: str, *, binary: bool = True, **more: Any) -> Any:
    return triton.InferRequestedOutput(name, binary_data=binary, **more)


class Served:
    """A service of the pipeline `tiny`, and where it listens; without a version until it is loaded."""

    def __init__(self, root: Path) -> None:
        self.world = World(root, {"kind": "multiclass", "classes": CLASSES})
        self.service = PredictionService(self.world.pipeline, self.world.store, self.world.log_folder)
        #: As the client takes it: no scheme, and the path of the pipeline's service.
        self.address = ""

    def load(self) -> None:
        asyncio.run(self.service.load(self.world.publish("7")))

    def own(self) -> list[dict[str, Any]]:
        """What the service's own protocol answers to the good rows."""
        rows = [{"delay": delay, "carrier": carrier} for delay, carrier in zip(DELAYS, CARRIERS, strict=True)]
        with httpx.Client(trust_env=False) as client:
            answer = client.post(f"http://{self.address}/predict", json={"rows": rows}).raise_for_status()
        found: list[dict[str, Any]] = answer.json()["predictions"]
        return found


@contextmanager
def serving(root: Path) -> Iterator[Served]:
    made = Served(root)
    try:
        with listening(made.service) as port:
            made.address = f"127.0.0.1:{port}/v1/tiny"
            yield made
    finally:
        made.service.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as made:
        made.load()
        yield made


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with triton.InferenceServerClient(served.address) as found:
        yield found


def refused(ask: Callable[[], Any]) -> tuple[str, str]:
    """The status and the message of what the client raises."""
    with pytest.raises(triton.InferenceServerException) as caught:
        ask()
    return caught.value.status(), caught.value.message()


def test_before_a_version_is_loaded_it_lives_and_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as made, triton.InferenceServerClient(made.address) as client:
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("tiny")
        status, message = refused(lambda: client.infer("tiny", good()))
        assert (status, message.partition(";")[0]) == ("503", "no version is loaded yet")
        made.load()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")


def test_health_and_metadata(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert [client.is_model_ready(*named) for named in (("tiny",), ("tiny", "7"), ("tiny", "8"), ("other",))] == [
        True,
        True,
        False,
        False,
    ]
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"]) == ("millrace", ["binary_tensor_data"])
    model = client.get_model_metadata("tiny")
    assert model == client.get_model_metadata("tiny", "7")
    assert (model["name"], model["versions"], model["platform"]) == ("tiny", ["7"], "pytorch_safetensors")
    assert {found["name"]: (found["datatype"], found["shape"]) for found in model["inputs"]} == {
        "delay": ("FP64", [-1]),
        "carrier": ("BYTES", [-1]),
        "departs": ("BYTES", [-1]),
        "flight": ("BYTES", [-1]),
    }
    assert {found["name"]: (found["datatype"], found["shape"]) for found in model["outputs"]} == {
        "class": ("BYTES", [-1]),
        "probabilities": ("FP32", [-1, 2]),
    }


@pytest.mark.parametrize("datatype", list(NUMBERS))
@pytest.mark.parametrize("sent", [True, False], ids=["binary in", "json in"])
@pytest.mark.parametrize("got", [True, False], ids=["binary out", "json out"])
def test_every_datatype_both_ways_answers_as_the_own_protocol(
    served: Served, client: Client, datatype: str, sent: bool, got: bool
) -> None:
    inputs = [tensor("delay", DELAYS, datatype, binary=sent), tensor("carrier", CARRIERS, binary=sent)]
    answer = client.infer("tiny", inputs, outputs=[output(name, binary=got) for name in ("class", "probabilities")])
    own = served.own()
    classes = answer.as_numpy("class")
    assert (classes.shape, classes.dtype) == ((2,), np.dtype(object))
    assert [name.decode() if got else name for name in classes] == [row["class"] for row in own]
    shares = answer.as_numpy("probabilities")
    assert (shares.shape, shares.dtype) == ((2, 2), np.dtype(np.float32))
    expected = np.array([[row["probabilities"][name] for name in CLASSES] for row in own], np.float32)
    assert shares.tolist() == expected.tolist()


def test_half_precision_comes_as_binary_data_only(client: Client) -> None:
    inputs = [tensor("delay", DELAYS, "FP16"), tensor("carrier", CARRIERS)]
    wanted = client.infer("tiny", good()).as_numpy("probabilities")
    assert client.infer("tiny", inputs).as_numpy("probabilities").tolist() == wanted.tolist()


def test_columns_of_one_are_columns_and_inputs_may_be_mixed(client: Client) -> None:
    wanted = client.infer("tiny", good()).as_numpy("probabilities").tolist()
    for binary in (True, False):
        columns = [tensor("delay", [[cell] for cell in DELAYS], binary=binary), tensor("carrier", CARRIERS)]
        assert client.infer("tiny", columns).as_numpy("probabilities").tolist() == wanted
        matrix = [tensor("carrier", [[cell] for cell in CARRIERS], binary=binary), tensor("delay", DELAYS)]
        assert client.infer("tiny", matrix).as_numpy("probabilities").tolist() == wanted


def test_only_the_outputs_asked_for_in_their_order(client: Client) -> None:
    asked = [output("probabilities", binary=False), output("class")]
    answer = client.infer("tiny", good(), outputs=asked)
    assert [found["name"] for found in answer.get_response()["outputs"]] == ["probabilities", "class"]
    alone = client.infer("tiny", good(), outputs=[output("class", binary=False)])
    assert [found["name"] for found in alone.get_response()["outputs"]] == ["class"]
    assert alone.as_numpy("probabilities") is None


def test_the_requests_id_and_parameters(served: Served, client: Client) -> None:
    answer = client.infer(
        "tiny",
        [*good(), tensor("flight", ["f1", ""]), tensor("departs", ["2024-01-02T03:04:05Z", ""])],
        model_version="7",
        request_id="mine/42",
        priority=3,
        timeout=1_000_000,
        headers={"x-request-id": "by.client"},
        parameters={"tenant": "a", "tries": 2, "dry": False},
    ).get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("mine/42", "tiny", "7")
    assert answer["parameters"] == {"request_id": "by.client"}
    unnamed = client.infer("tiny", good()).get_response()
    assert "id" not in unnamed
    log = read_answers(served.world.log_folder, served.world.pipeline.spec.data)
    rows = log[log["request_id"] == "by.client"]
    assert rows["row_id"].tolist()[:1] == ["f1"]
    assert rows["delay"].tolist() == DELAYS
    assert unnamed["parameters"]["request_id"] in set(log["request_id"])


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "fewer rows": ({"inputs": [tensor("delay", [1.0]), tensor("carrier", CARRIERS)]}, "422", "/inputs/1/shape/0"),
    "a row of two": ({"inputs": [tensor("delay", [DELAYS]), good()[1]]}, "422", "/inputs/0/shape"),
    "a cube": ({"inputs": [tensor("delay", [[[1.0]]]), good()[1]]}, "422", "/inputs/0/shape"),
    "no rows": ({"inputs": [tensor("delay", []), tensor("carrier", [])]}, "422", "/inputs/0/shape"),
    "too many rows": (
        {"inputs": [tensor("delay", [1.0] * 4), tensor("carrier", ["UA"] * 4)]},
        "413",
        "/inputs/0/shape",
    ),
    "too many bytes": ({"inputs": [*good(), tensor("flight", ["f" * 2000, "g"])]}, "413", "the body is too large"),
    "an unknown input": ({"inputs": [*good(), tensor("dleay", ["a", "b"])]}, "422", "/inputs/2/name"),
    "an input twice": ({"inputs": [*good(), tensor("delay", DELAYS)]}, "422", "/inputs/2/name"),
    "an input too few": ({"inputs": good()[:1]}, "422", "input 'carrier' is missing"),
    "a text for a number": ({"inputs": [tensor("delay", ["1", "2"], "BYTES"), good()[1]]}, "422", "/inputs/0/datatype"),
    "a number for a text": (
        {"inputs": [good()[0], tensor("carrier", [1.0, 2.0], "FP32")]},
        "422",
        "/inputs/1/datatype",
    ),
    "over a bound": ({"inputs": [tensor("delay", [1.0, 1e9]), good()[1]]}, "422", "/inputs/0/data/1 (delay)"),
    "an unknown category": (
        {"inputs": [tensor("delay", DELAYS, "FP32", binary=False), tensor("carrier", ["UA", "ZZ"])]},
        "422",
        "/inputs/1/data/1 (carrier)",
    ),
    "an unknown output": ({"inputs": good(), "outputs": [output("score")]}, "422", "/outputs/0/name"),
    "an output twice": ({"inputs": good(), "outputs": [output("class")] * 2}, "422", "/outputs/1/name"),
    "another model": ({"model_name": "other", "inputs": good()}, "404", "this service has another model"),
    "another version": ({"model_version": "8", "inputs": good()}, "404", "another version of tiny answers"),
    "a sequence": (
        {"inputs": good(), "sequence_id": 5, "sequence_start": True},
        "422",
        "/parameters/sequence_id",
    ),
    "a classification": (
        {"inputs": good(), "outputs": [output("class", class_count=2)]},
        "422",
        "/outputs/0/parameters/classification",
    ),
    "gzip": ({"inputs": good(), "request_compression_algorithm": "gzip"}, "415", "the body is compressed"),
    "deflate": ({"inputs": good(), "request_compression_algorithm": "deflate"}, "415", "the body is compressed"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_errors_reach_the_clients_exception(client: Client, case: str) -> None:
    arguments, status, start = BAD[case]
    found, message = refused(lambda: client.infer(**{"model_name": "tiny", **arguments}))
    assert found == status
    assert message.startswith(start)
    assert "next: " in message
    # The connection is as good as before.
    assert client.infer("tiny", good()).as_numpy("class").shape == (2,)


@pytest.mark.parametrize("binary", [True, False])
def test_shared_memory_is_refused(client: Client, binary: bool) -> None:
    inputs = good(binary=binary)
    inputs[0].set_shared_memory("region", 16)
    status, message = refused(lambda: client.infer("tiny", inputs))
    assert (status, message.partition(" ")[0]) == ("422", "/inputs/0/parameters/shared_memory_region")


def test_extensions_that_are_not_here_are_told_so(client: Client) -> None:
    asks: list[Callable[[], Any]] = [
        client.get_model_repository_index,
        client.get_system_shared_memory_status,
        client.get_log_settings,
        lambda: client.get_model_config("tiny"),
        lambda: client.get_inference_statistics("tiny"),
        lambda: client.load_model("tiny"),
        lambda: client.get_trace_settings("tiny"),
    ]
    for ask in asks:
        status, message = refused(ask)
        assert (status, message.partition(";")[0]) == ("404", "there is no such path")


def test_a_client_that_takes_compressed_answers_gets_a_plain_one(client: Client) -> None:
    for algorithm in ("gzip", "deflate"):
        answer = client.infer("tiny", good(), response_compression_algorithm=algorithm)
        assert answer.as_numpy("probabilities").shape == (2, 2)


def test_many_requests_at_once_are_answered_each_with_its_own(served: Served) -> None:
    with triton.InferenceServerClient(served.address, concurrency=8) as client:
        delays = [float(number) for number in range(-10, 100)]
        asked = [
            client.async_infer("tiny", [tensor("delay", [delay]), tensor("carrier", ["UA"])], request_id=str(delay))
            for delay in delays
        ]
        answers = [request.get_result() for request in asked]
    assert [answer.get_response()["id"] for answer in answers] == [str(delay) for delay in delays]
    shares = [answer.as_numpy("probabilities")[0, 1] for answer in answers]
    # One linear layer: a straight line before the softmax, so no two are alike until it saturates.
    assert len(set(shares[:20])) == 20


def test_the_asyncio_client(served: Served) -> None:
    async def ask() -> None:
        async with triton_aio.InferenceServerClient(served.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("tiny"))["versions"] == ["7"]
            answer = await client.infer("tiny", good(), request_id="a")
            assert answer.get_response()["id"] == "a"
            assert [name.decode() for name in answer.as_numpy("class")] == [row["class"] for row in served.own()]
            with pytest.raises(triton.InferenceServerException) as caught:
                await client.infer("other", good())
            assert caught.value.status() == "404"

    asyncio.run(ask())
