"""MLServer: a custom runtime that takes the Open Inference Protocol's two tensors, numbers and category names."""
# mypy: disable-error-code="import-not-found, misc"

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.serving.peers.servers.served_model import ServedModel


class DelayRuntime(MLModel):
    """Built once by MLServer; `predict` runs on its event loop."""

    async def load(self) -> bool:
        self._served = ServedModel.of_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: tensor for tensor in payload.inputs}
        numeric = np.asarray(NumpyCodec.decode_input(given["numeric"]), np.float32)
        names = StringCodec.decode_input(given["categorical"])
        width = len(self._served.categorical)
        categories = [names[at : at + width] for at in range(0, len(names), width)]
        answers = np.asarray(self._served.predict(numeric, categories), np.float32)
        outputs = [NumpyCodec.encode_output("probability", answers)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
