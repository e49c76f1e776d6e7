"""MLServer with the signature that Millrace has: an input tensor a feature. For the comparison of protocols."""
# mypy: disable-error-code="import-not-found, misc"

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.serving.peers.servers.served_model import ServedModel


class ColumnsRuntime(MLModel):
    """What a runtime has to look at itself, it refuses as MLServer's guide shows: with its error, a status 400."""

    async def load(self) -> bool:
        self._served = ServedModel.of_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: tensor for tensor in payload.inputs}
        wanted = {*self._served.numeric, *self._served.categorical}
        if len(given) != len(payload.inputs) or given.keys() != wanted:
            raise InferenceError(f"inputs: {sorted(given)}; expected each of {sorted(wanted)} once")
        if any(output.name != "probability" for output in payload.outputs or ()):
            raise InferenceError("the only output is probability")
        rows = payload.inputs[0].shape[0]
        try:
            numbers = [NumpyCodec.decode_input(given[name]).reshape(rows) for name in self._served.numeric]
            names = [StringCodec.decode_input(given[name]) for name in self._served.categorical]
            answers = self._served.predict(np.stack(numbers, 1).astype(np.float32), list(zip(*names, strict=True)))
        except (TypeError, ValueError) as error:
            raise InferenceError(str(error)) from error
        output = ResponseOutput(name="probability", datatype="FP32", shape=[rows], data=answers)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
