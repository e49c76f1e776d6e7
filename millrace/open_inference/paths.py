"""The protocol's paths, below the address of a pipeline's service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from millrace.errors import UnknownNameError

Operation = Literal["server", "server_live", "server_ready", "model", "model_ready", "infer"]

#: The paths as templates, by what they do; each but `infer` is asked with GET. A version may be named or not.
PATHS: dict[str, Operation] = {
    "/v2": "server",
    "/v2/health/live": "server_live",
    "/v2/health/ready": "server_ready",
    "/v2/models/{model}": "model",
    "/v2/models/{model}/ready": "model_ready",
    "/v2/models/{model}/infer": "infer",
    "/v2/models/{model}/versions/{version}": "model",
    "/v2/models/{model}/versions/{version}/ready": "model_ready",
    "/v2/models/{model}/versions/{version}/infer": "infer",
}


@dataclass(frozen=True, slots=True)
class Route:
    """What a path asks for."""

    operation: Operation
    model: str | None = None
    version: str | None = None

    @property
    def method(self) -> str:
        """The method it is asked with."""
        return "POST" if self.operation == "infer" else "GET"


def find_route(path: str) -> Route | None:
    """The route of a decoded `path` without a slash at its end; None when it is none of the protocol's."""
    match path.split("/"):
        case ["", "v2"]:
            return Route("server")
        case ["", "v2", "health", "live"]:
            return Route("server_live")
        case ["", "v2", "health", "ready"]:
            return Route("server_ready")
        case ["", "v2", "models", model, *rest] if model:
            return _model_route(model, rest)
    return None


def _model_route(model: str, rest: list[str]) -> Route | None:
    version = None
    if len(rest) >= 2 and rest[0] == "versions" and rest[1]:
        version, rest = rest[1], rest[2:]
    match rest:
        case []:
            return Route("model", model, version)
        case ["ready"]:
            return Route("model_ready", model, version)
        case ["infer"]:
            return Route("infer", model, version)
    return None


def require_served(route: Route, model: str, version: str) -> None:
    """Make sure that what `route` names is the pipeline's `model`, in the `version` that answers, or in none.

    Raises:
        UnknownNameError: it names another.
    """
    if route.model not in (None, model):
        raise UnknownNameError(
            "this service has another model",
            got=route.model,
            allowed=model,
            next="correct the path, or ask its service",
        )
    if route.version not in (None, version):
        raise UnknownNameError(
            f"another version of {model} answers",
            got=route.version,
            allowed=version,
            next="ask without a version: the one that passed its gate last answers",
        )
