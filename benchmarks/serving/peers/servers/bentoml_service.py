"""BentoML: a service with one worker; `bentoml serve benchmarks.serving.peers.servers.bentoml_service:DelayService`."""
# mypy: disable-error-code="import-not-found, misc, untyped-decorator, valid-type"

import bentoml

from benchmarks.serving.peers.servers.contract import Answers, row_model
from benchmarks.serving.peers.servers.served_model import ServedModel

_Row = row_model(ServedModel.of_environment().shape)


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class DelayService:
    """Its input is the JSON object of the method's parameters."""

    def __init__(self) -> None:
        self._model = ServedModel.of_environment()

    # On the event loop; BentoML runs what is not async in a thread, which costs more.
    @bentoml.api(route="/predict")
    async def predict(self, rows: list[_Row]) -> Answers:
        return Answers(predictions=self._model.predict_rows([vars(row) for row in rows]))
