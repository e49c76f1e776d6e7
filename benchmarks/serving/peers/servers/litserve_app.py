"""LitServe: a `LitAPI` whose request is a pydantic model; one worker, one API server.

python -m benchmarks.serving.peers.servers.litserve_app PORT
"""
# mypy: disable-error-code="import-not-found, misc, no-untyped-def, valid-type, attr-defined"

import sys

import litserve

from benchmarks.serving.peers.servers.contract import Answers, request_model, row_model
from benchmarks.serving.peers.servers.served_model import ServedModel

# They travel to the worker by pickle, which finds a class by its module and name.
Row = row_model(ServedModel.of_environment().shape, __name__)
PredictRequest = request_model(Row, __name__)


class DelayApi(litserve.LitAPI):
    """Decode, predict, encode."""

    def setup(self, device):
        self._model = ServedModel.of_environment()

    def decode_request(self, request: PredictRequest):
        return [vars(row) for row in request.rows]

    def predict(self, rows):
        return self._model.predict_rows(rows)

    def encode_response(self, output) -> Answers:
        return Answers(predictions=output)


if __name__ == "__main__":
    server = litserve.LitServer(DelayApi(), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        generate_client_file=False,
        access_log=False,
        log_level="warning",
    )
