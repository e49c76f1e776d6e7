"""The prediction service: one ASGI application that checks, answers and logs each request in one hop.

It is written against bare ASGI: there are five fixed routes and the contract does the validation, so a web framework
would add time and nothing else (docs/decisions/0003-serving.md has the numbers). Nothing here knows Ray.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from millrace import openapi
from millrace.errors import DataError, FencedError, MillraceError, OverloadedError, ServiceError
from millrace.ids import new_request_id
from millrace.inference_log import (
    answer_record,
    compact,
    failure_record,
    failures_writer,
    outcome_record,
)
from millrace.log_writer import LogWriter
from millrace.open_inference import (
    HEADER_LENGTH,
    Route,
    find_route,
    model_metadata,
    model_ready,
    require_served,
    server_live,
    server_metadata,
    server_ready,
)
from millrace.pipeline import Pipeline
from millrace.request_values import check_request_id
from millrace.requests import ParsedRequest
from millrace.storage import ObjectStore
from millrace.traces.context import TRACEPARENT
from millrace.traces.records import NEVER, Call
from ray_jobs.serve import metrics
from ray_jobs.serve.asgi import Receive, Reply, Scope, Send, json_reply, lifespan, read_body
from ray_jobs.serve.batching import Turn
from ray_jobs.serve.door import NOBODY, Door
from ray_jobs.serve.live import Live, live_with_logs, logs_of, require_same_requests
from ray_jobs.serve.metrics import Metrics
from ray_jobs.serve.places import Places
from ray_jobs.serve.plan import Served, TrafficPlan, plan_of
from ray_jobs.serve.problems import MethodError, NoRouteError, problem
from ray_jobs.serve.replicas import ReplicaCounts
from ray_jobs.serve.serving import Serving
from ray_jobs.serve.tracing import Traces, traceparent_for
from ray_jobs.serve.versions import Answers, LoadedVersion, Target, load_version

_log = logging.getLogger(__name__)
_REQUEST_ID = b"x-request-id"
_SESSION_ID = b"x-session-id"
#: The header with which the ingress tells how many requests of this customer it has refused; `haproxy_config` sets it.
INGRESS_REFUSED = b"x-ingress-refused"
_REFUSED_DIGITS = 6


@dataclass(slots=True)
class _Asked:
    """A request and what is known of it so far. `started` is of `time.perf_counter`; `draw` is its random number, drawn
    once, so that asked twice which version answers it, the answer is the same. `is_counted` says whether it is one of
    its customer's quota."""

    started: float
    id: str
    draw: float
    customer: str = NOBODY
    session: str = ""
    named: str | None = None
    headers: Sequence[tuple[bytes, bytes]] = ()
    is_prediction: bool = False
    is_counted: bool = False
    version: str = ""
    num_rows: int = 0
    turn: Turn | None = None
    resumed: float = NEVER
    parent: bytes | None = None
    traceparent: bytes | None = None
    calls: list[Call] | None = None


@dataclass(frozen=True, slots=True)
class _Route:
    """How a path is asked, and what answers it. A GET needs no key, unless it is for who runs the service."""

    method: str
    handler: Callable[[bytes, _Asked], Awaitable[Reply]]
    is_prediction: bool = False
    is_for_operators: bool = False
    version: str | None = None


class PredictionService:
    """Answers `/predict`, `/outcomes`, `/health`, `/ready`, `/metrics`, `/openapi.json`, `/` and the Open Inference
    Protocol below `/v2`, for one pipeline.

    `door` says who may ask for predictions and send outcomes; none: everybody who gets here. All replicas of the
    pipeline on this host share `metrics_folder`; none: nothing is counted. `traces` keeps the traces of requests for
    predictions, and is closed with the service; none: no traces. `code` is the digest of the code that runs, for who
    asks what serves; `worked` is told of each batch (`Batcher.worked`); `count_replicas` is asked how many there are
    when somebody wants the metrics.

    Building it recovers what killed processes left in the inference log. It answers predictions once `load` has
    brought a version, or a plan of several.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: ObjectStore,
        log_folder: Path,
        *,
        door: Door | None = None,
        metrics_folder: Path | None = None,
        traces: Traces | None = None,
        echo_request_id: bool = True,
        code: str = "",
        worked: Callable[[float, int], None] | None = None,
        count_replicas: Callable[[], Awaitable[ReplicaCounts | None]] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._store = store
        self._folder = log_folder
        self._door = door
        self._metrics = None if metrics_folder is None else Metrics(pipeline.name, metrics_folder)
        self._traces = traces
        self._echo_request_id = echo_request_id
        self._code = code
        self._worked = worked
        self._count_replicas = count_replicas
        self._loading = asyncio.Lock()
        self._prepared: dict[Target, LoadedVersion] = {}
        self._live: Live | None = None
        self._newest_token = 0
        self._is_told = False
        self._places = Places(pipeline.spec.serving.max_ongoing_requests)
        self._draw = random.Random().random
        self._failures = failures_writer(log_folder, pipeline.spec.serving.log_rotate_seconds)
        self._routes = {
            "/predict": _Route("POST", self._predict, is_prediction=True),
            "/outcomes": _Route("POST", self._outcomes),
            "/health": _Route("GET", self._health),
            "/ready": _Route("GET", self._ready),
            "/metrics": _Route("GET", self._metrics_text, is_for_operators=True),
            "/openapi.json": _Route("GET", self._openapi),
            "/": _Route("GET", self._describe),
        }
        try:
            compact(log_folder)
        except DataError:
            # A damaged segment must not keep predictions from being answered; readers report it too.
            _log.exception("inference log of %s", pipeline.name)

    @property
    def plan(self) -> TrafficPlan | None:
        """What answers, and by which rules."""
        return self._live.plan if self._live else None

    @property
    def target(self) -> Target | None:
        """The version that answers where no rule names another."""
        return self._live.plan.primary if self._live else None

    async def prepare(self, served: Served) -> None:
        """Load what is missing of a plan beside what answers, without serving it yet; errors as in `load_version`.

        Raises:
            FencedError: a later token was shown already: who asks no longer decides what serves.
            PackageError: two of its versions take different requests.
        """
        async with self._loading:
            await self._prepare(plan_of(served))

    async def load(self, served: Served) -> None:
        """Serve by a plan from now on; on any error (see `prepare`) what answered before still does."""
        plan = plan_of(served)
        async with self._loading:
            await self._prepare(plan)
            before = self._live
            if before is not None and before.plan == plan:
                return
            # In one step: a request finds all of the plan, or all of the one before.
            live = self._live = await asyncio.to_thread(live_with_logs, plan, self._prepared, self._folder, before)
            self._prepared = {}
            spec = live.primary.version.predictor.spec.serving
            self._places.most = spec.max_ongoing_requests
            if self._traces is not None:
                self._traces.keep(spec.trace_days)
            if self._door is not None:
                limit = None if spec.customer_limit is None else spec.customer_limit.limit
                self._door.allow(limit, spec.customer_quota)
                if not self._is_told:
                    self._door.divide(spec.autoscaling.min_replicas if spec.autoscaling else spec.replicas)
        gone = [] if before is None else live.gone_since(before)
        for serving in gone:
            # When this returns, it has given its last answer, and nobody writes to what is closed.
            await serving.drained()
        if gone:
            in_use = logs_of(self._live.servings.values())
            await asyncio.to_thread(_close, logs_of(gone) - in_use)

    async def _prepare(self, plan: TrafficPlan) -> None:
        if plan.token < self._newest_token:
            raise FencedError(
                f"{plan} is not served: a later run decides",
                got=f"token {plan.token}",
                allowed=f"{self._newest_token} or later",
                next="nothing: the later run's version serves",
            )
        self._newest_token = plan.token
        # What an earlier plan left, and nobody has asked for since, makes room.
        self._prepared = {target: version for target, version in self._prepared.items() if target in plan.targets}
        loaded: dict[Target, LoadedVersion] = {}
        for target in plan.targets:
            found = (self._live and self._live.loaded(target)) or self._prepared.get(target)
            if found is None:
                found = await asyncio.to_thread(load_version, target, self._store, self.pipeline)
                if self._worked is not None:
                    found.batcher.worked = self._worked
                self._prepared[target] = found
            loaded[target] = found
        for other in plan.others:
            require_same_requests(loaded[plan.primary], loaded[other])

    def divide(self, replicas: int) -> None:
        """So many replicas answer now, this one among them; until this is called, the fewest that the spec says."""
        self._is_told = True
        if self._door is not None:
            self._door.divide(replicas)

    def close(self) -> None:
        """Close the logs, and give back what was counted in advance; later requests are refused."""
        live, self._live = self._live, None
        if live is not None:
            _close(logs_of(live.servings.values()))
        self._failures.close()
        if self._door is not None:
            self._door.close()
        if self._traces is not None:
            self._traces.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = _Asked(time.perf_counter(), new_request_id(), self._draw(), headers=scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") or "/"
        failure: Exception | None = None
        try:
            reply = await self._answer(path, scope, receive, asked)
            if reply is None:
                return
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the caller gets a problem document
            failure = error
            reply = problem(error, asked.id, by_open_inference=path.startswith("/v2"))
            if asked.is_counted and reply.status >= 500 and self._door is not None:
                self._door.forgive(asked.customer)
            # An overload is no fault of the version, and is counted; a line each would make it worse.
            if reply.status >= 500 and not isinstance(error, OverloadedError):
                _log.error("request %s failed", asked.id, exc_info=error)
                self._log_failure(asked, reply.status, error)
        traces = self._traces if asked.is_prediction else None
        more = [] if traces is None else [(TRACEPARENT, traceparent_for(asked))]
        if self._echo_request_id:
            more.append((_REQUEST_ID, asked.id.encode()))
        await reply.send(send, *more)
        done = time.perf_counter()
        if traces is not None:
            traces.ended(asked, reply.status, done)
        if self._metrics is not None and asked.is_prediction:
            outcome = metrics.outcome_of(reply.status, failure)
            self._metrics.count(asked.version, asked.customer, outcome, asked.num_rows, done - asked.started)
            if asked.turn is not None and failure is None:
                turn = asked.turn
                self._metrics.count_batch(asked.version, turn.began - turn.queued, turn.batch_rows, turn.cached_rows)

    async def _answer(self, path: str, scope: Scope, receive: Receive, asked: _Asked) -> Reply | None:
        """The answer; None when the caller went away."""
        for name, value in asked.headers:
            if name == _REQUEST_ID:
                asked.id = check_request_id(value.decode("latin-1"))
            elif name == TRACEPARENT:
                asked.parent = value if asked.parent is None else b""
            elif name == _SESSION_ID:
                asked.session = value.decode("latin-1")
        route = self._route(path)
        asked.is_prediction, asked.named = route.is_prediction, route.version
        if route.method != scope["method"]:
            raise MethodError("this path has another method", got=scope["method"], allowed=route.method)
        if self._door is not None and route.is_for_operators:
            self._door.check_operator(asked.headers)
        if route.method == "GET":
            return await route.handler(b"", asked)
        if self._door is not None:
            asked.customer = self._door.check(asked.headers)
            self._count_refused(asked)
            self._door.admit(asked.customer)
            if route.is_prediction:
                self._door.spend(asked.customer)
                asked.is_counted = True
        # Before its body is read and parsed: what waits or is refused should cost the others as little as can be.
        batcher = self._serving_of(asked).version.batcher if route.is_prediction and self._live is not None else None
        deadline = float("inf") if batcher is None else batcher.deadline(asked.started)
        await self._places.enter(asked.customer, deadline)
        try:
            if batcher is not None:
                batcher.require_time(asked.customer, deadline)
            body = await read_body(scope, receive, self._max_body_bytes)
            return None if body is None else await route.handler(body, asked)
        finally:
            self._places.leave()

    def _count_refused(self, asked: _Asked) -> None:
        """Count the requests of this customer that the ingress has refused since it last told."""
        count = next((value for name, value in asked.headers if name == INGRESS_REFUSED), b"")
        if count.isdigit() and len(count) <= _REFUSED_DIGITS and self._metrics is not None:
            self._metrics.count_limited(asked.customer, int(count))

    def _route(self, path: str) -> _Route:
        if (route := self._routes.get(path)) is not None:
            return route
        if (named := find_route(path)) is not None:
            handler, is_prediction = partial(self._open_inference, named), named.operation == "infer"
            return _Route(named.method, handler, is_prediction=is_prediction, version=named.version)
        raise NoRouteError("there is no such path", got=path, allowed=f"{', '.join(self._routes)}, /v2")

    @property
    def _max_body_bytes(self) -> int:
        spec = self._serving.version.predictor.spec if self._serving else self.pipeline.spec
        return spec.serving.max_body_bytes

    @property
    def _serving(self) -> Serving | None:
        return self._live.primary if self._live else None

    def _current(self) -> Live:
        if self._live is None:
            raise ServiceError("no version is loaded yet", next="wait until /ready answers 200, or deploy a version")
        return self._live

    def _serving_of(self, asked: _Asked) -> Serving:
        """What answers this request. Asked again after a wait: the plan may be another one by then."""
        live = self._current()
        if asked.named is None:
            serving = live.serving_of(asked.customer, asked.session, asked.id, asked.draw)
        else:
            serving = live.named(asked.named)
        asked.version = serving.version.target.version
        return serving

    async def _predict(self, body: bytes, asked: _Asked) -> Reply:
        with self._serving_of(asked).used() as serving:
            request = serving.version.contract.parse(body)
            answers = await self._answers(serving, request, asked)
        document = {"request_id": asked.id, "version": asked.version, "predictions": answers.predictions}
        return json_reply(200, document)

    async def _answers(self, serving: Serving, request: ParsedRequest, asked: _Asked) -> Answers:
        """The model's answers, which are in the log."""
        version = serving.version
        batcher = version.batcher
        turn = batcher.ask(request.batch, customer=asked.customer, deadline=batcher.deadline(asked.started))
        asked.turn = turn
        try:
            raw = await turn.done
        finally:
            asked.resumed = time.perf_counter()
        answers = version.told(raw)
        # The line is with the kernel before the answer leaves: what was answered is in the log, come what may.
        serving.answers.append(
            answer_record(
                request,
                request_id=asked.id,
                version=version.target.version,
                customer=asked.customer,
                answered_at=datetime.now(UTC),
                seconds=time.perf_counter() - asked.started,
                prediction=answers.headline,
                probabilities=answers.probabilities,
            )
        )
        asked.num_rows = request.num_rows
        return answers

    async def _open_inference(self, route: Route, body: bytes, asked: _Asked) -> Reply:
        """What the Open Inference Protocol asks for."""
        match route.operation:
            case "server":
                return json_reply(200, server_metadata())
            case "server_live":
                return json_reply(200, server_live())
        chosen = self._serving_of(asked) if route.operation == "infer" else self._current().named(route.version)
        with chosen.used() as serving:
            return await self._open_inference_of(serving, route, body, asked)

    async def _open_inference_of(self, serving: Serving, route: Route, body: bytes, asked: _Asked) -> Reply:
        version = serving.version
        spec = version.predictor.spec
        require_served(route, spec.name, version.target.version)
        match route.operation:
            case "model":
                return json_reply(200, model_metadata(spec, version.target.version))
            case "server_ready":
                return json_reply(200, server_ready())
            case "model_ready":
                return json_reply(200, model_ready(spec.name))
        header_length = next((value for name, value in asked.headers if name == HEADER_LENGTH), None)
        request = version.infer_contract.decode(body, header_length)
        answers = await self._answers(serving, request.rows, asked)
        encoded = version.infer_answers.encode(
            request,
            version=version.target.version,
            request_id=asked.id,
            prediction=answers.headline,
            probabilities=answers.probabilities,
        )
        (_, content_type), *headers = encoded.headers
        return Reply(200, encoded.body, content_type, tuple(headers))

    async def _openapi(self, body: bytes, asked: _Asked) -> Reply:
        version = self._current().primary.version
        return json_reply(200, openapi.document(version.predictor.spec, version.target.version))

    def _log_failure(self, asked: _Asked, status: int, error: Exception) -> None:
        """Keep for the guard that the version did not answer. No wait lies between its attempt and this line."""
        if self._serving is None:
            return
        version = asked.version or self._serving.version.target.version
        try:
            self._failures.append(failure_record(asked.id, version, datetime.now(UTC), status, error))
        except MillraceError:
            # A full disk, most likely: the caller must get the answer that tells the first error.
            _log.exception("the failure of request %s is not in the log", asked.id)

    async def _outcomes(self, body: bytes, asked: _Asked) -> Reply:
        serving = self._current().primary
        outcomes = serving.version.contract.parse_outcomes(body)
        serving.outcomes.append(outcome_record(outcomes))
        return json_reply(202, {"request_id": asked.id, "accepted": len(outcomes.rows)})

    async def _health(self, body: bytes, asked: _Asked) -> Reply:
        return json_reply(200, {"status": "alive"})

    async def _ready(self, body: bytes, asked: _Asked) -> Reply:
        return json_reply(200, {"status": "ready", "version": self._current().plan.primary.version})

    async def _metrics_text(self, body: bytes, asked: _Asked) -> Reply:
        if self._metrics is None:
            raise NoRouteError("this service keeps no metrics", next="give it a folder for them")
        replicas = None if self._count_replicas is None else await self._count_replicas()
        shares = {} if self._live is None else self._live.plan.rules.shares
        return Reply(200, self._metrics.text(replicas, shares), metrics.CONTENT_TYPE)

    async def _describe(self, body: bytes, asked: _Asked) -> Reply:
        live = self._current()
        version = live.primary.version
        spec = version.predictor.spec
        document = {
            "pipeline": spec.name,
            "description": spec.description,
            "version": version.target.version,
            "package_digest": version.target.package_digest,
            "code": self._code,
            "traffic": live.plan.described(),
            "contract": {
                "event_time": spec.table.event_time,
                "row_id": spec.table.row_id,
                "features": {name: feature.model_dump() for name, feature in spec.table.features.items()},
                "label": spec.table.label.kind,
                "max_rows": spec.serving.max_rows,
                "max_body_bytes": spec.serving.max_body_bytes,
            },
        }
        return json_reply(200, document)


def _close(writers: set[LogWriter]) -> None:
    for writer in writers:
        writer.close()
