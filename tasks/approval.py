"""What waits for a person: a training, a promotion, a change of thresholds.

Each asks in the ledger, suspends the flow run until there is an answer, and is called again from the flow's top when
there is one. Nothing is approved here: what stands is read from the ledger, where an answer counts by its signature.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NoReturn

from prefect.input import RunInput
from prefect.runtime import deployment
from pydantic import Field, ValidationError

from millrace.approvals import requests, thresholds
from millrace.approvals.code import ApprovalRequest
from millrace.approvals.requests import Question, Standing
from millrace.errors import ApprovalError, ConfigError, ConflictError, SpecError
from millrace.gate import Evaluation
from millrace.logs import get_logger
from millrace.spec import ApprovalsSpec
from millrace.storage import digest_json
from millrace.verdict import Verdict
from tasks import artifacts
from tasks.registry import Registry, Version
from tasks.run import Run
from tasks.suspending import filled_forms, suspend

GATE = "approval"


class ApprovalForm(RunInput):
    """What the Prefect UI asks for."""

    decision: Literal["approve", "reject"] = Field(description="What the code below says.")
    code: str = Field(
        max_length=400, description="The line that `millrace approve REQUEST --code` prints, or `millrace reject`."
    )
    reason: str = Field(default="", max_length=500, description="A note for the record.")


def refused_training(run: Run, incident: str | None) -> str | None:
    """Wait until a person has approved this training, where the spec asks for it; why it was refused, or None."""
    rule = run.pipeline.spec.approvals
    if not rule.retrain:
        return None
    document = run.pipeline.spec.model_dump(mode="json")
    why = {"incident": incident, "as_of": run.as_of.isoformat()}
    found = None if incident is None else run.ledger.outbox.find(incident)
    question = _question(
        run,
        "retrain",
        digest_json([document, run.pipeline.code_digest]),
        digest_json(why),
        f"train '{run.pipeline.name}' on what was known at {run.as_of:%Y-%m-%d %H:%M}",
        [
            ("asked by the incident", incident or "none"),
            ("which says", "; ".join(found.evidence.get("reasons", [])) if found is not None else ""),
            ("data as known at", run.as_of.isoformat()),
        ],
    )
    standing = _answered(run, question, rule)
    if standing.state != "used":
        requests.use(run.ledger, standing, run.id)
    return None if standing.approves(run.id) else standing.reason


def approved_evaluation(run: Run, version: Version, evaluation: Evaluation) -> Evaluation:
    """The evaluation, once a person has approved the promotion that it recommends, where the spec asks for it.

    Refused or not answered in time, its verdict is that of the approval, and failed: the champion stays.
    """
    rule = run.pipeline.spec.approvals
    if not rule.promote or not evaluation.verdict.passed:
        return evaluation
    standing = _answered(run, _promotion(run, version, evaluation), rule)
    if standing.approves(run.id):
        return evaluation
    if standing.state != "used":
        requests.use(run.ledger, standing, run.id, token=run.proof)
    verdict = evaluation.verdict
    reasons = (standing.reason, *verdict.reasons)
    refused = Verdict(GATE, False, verdict.metric, verdict.observed, verdict.threshold, reasons, verdict.evidence)
    return replace(evaluation, verdict=refused)


def use_approval(run: Run, version: Version, evaluation: Evaluation) -> str | None:
    """Prove, just before `version` serves, that this very package was approved, and use the approval up.

    Returns:
        The request's identifier; None where no approval is asked for.

    Raises:
        ApprovalError: it was not, not any more, or the package has changed since.
    """
    if not run.pipeline.spec.approvals.promote:
        return None
    question = _promotion(run, version, evaluation)
    standing = requests.newest_of(run.ledger, question)
    if standing is None:
        raise ApprovalError(f"nobody was asked whether version {version.version} may serve", next="start it again")
    stored = run.store.get(version.package_key).digest
    known = Registry(run.settings).version(run.pipeline.name, version.version).package_digest
    for where, digest in (("the object store", stored), ("the registry", known)):
        if digest != standing.request.subject:
            raise ApprovalError(
                f"the package of version {version.version} has changed in {where} since it was approved",
                got=digest,
                allowed=standing.request.subject,
                next="find out who changed it; train again for a package to approve",
            )
    if not standing.approves(run.id):
        raise ApprovalError(f"version {version.version} may not serve: {standing.reason}", next="start it again")
    if standing.state != "used":
        requests.use(run.ledger, standing, run.id, token=run.proof)
    return standing.request.id


def approved_thresholds(run: Run) -> Run:
    """The run, once the thresholds in its pipeline.yaml are the accepted ones.

    Raises:
        ApprovalError: their change was rejected, or nobody approved it in time.
    """
    change = _change(run)
    if change is None:
        return run
    question, rule, _ = change
    standing = _answered(run, question, rule)
    if not standing.approves(run.id):
        if standing.state != "used":
            requests.use(run.ledger, standing, run.id)
        raise ApprovalError(
            f"the changed thresholds of '{run.pipeline.name}' are not accepted: {standing.reason}",
            got=question.summary,
            next="put them back in its pipeline.yaml; or start a training again, which asks again",
        )
    _accept(run, standing)
    return run


def accepted_thresholds(run: Run) -> Run:
    """The run under the accepted thresholds: those in pipeline.yaml once they are, till then those before. Never waits.

    Raises:
        SpecError: a change waits, and the thresholds before do not fit the rest of the spec any more.
    """
    change = _change(run)
    if change is None:
        return run
    question, rule, before = change
    standing = requests.ask(run.ledger, question, rule, run.id)
    if standing.approves(run.id):
        _accept(run, standing)
        return run
    if standing.is_open:
        _publish(run, standing.request)
    get_logger().warning("the thresholds accepted before stay in force", change=question.summary, why=standing.reason)
    spec = thresholds.with_thresholds(run.pipeline.spec, before)
    return replace(run, pipeline=replace(run.pipeline, spec=spec))


def _change(run: Run) -> tuple[Question, ApprovalsSpec, dict[str, object]] | None:
    """The question whether the thresholds may change, the rule for it, and those before; None when there is none."""
    spec = run.pipeline.spec
    before = thresholds.accepted(run.ledger, spec.name)
    if before is None:
        run.ledger.append(thresholds.acceptance(run.ledger, spec, run.id, "the first"))
        return None
    try:
        # Fields that came with a newer Millrace have their defaults on both sides.
        before = thresholds.thresholds(thresholds.with_thresholds(spec, before))
    except SpecError as error:
        get_logger().info("the thresholds accepted before do not fit the spec any more", error=str(error))
    after = thresholds.thresholds(spec)
    changes = thresholds.differences(before, after)
    if not changes:
        return None
    rule = ApprovalsSpec.model_validate(before["approvals"])
    if not rule.change_threshold:
        run.ledger.append(thresholds.acceptance(run.ledger, spec, run.id, "no approval is asked for"))
        return None
    question = _question(
        run,
        "change_threshold",
        digest_json(after),
        digest_json(before),
        "; ".join(changes),
        [(name, change) for name, _, change in (text.partition(": ") for text in changes)],
    )
    return question, rule, dict(before)


def _accept(run: Run, standing: Standing) -> None:
    spec = run.pipeline.spec
    fact = thresholds.acceptance(run.ledger, spec, run.id, standing.request.id)
    requests.use(run.ledger, standing, run.id, fact)


def _promotion(run: Run, version: Version, evaluation: Evaluation) -> Question:
    rule, metrics = run.pipeline.spec.evaluation, evaluation.metrics
    measured = [(f"{rule.metric} of the {model}", f"{values[rule.metric]:.4f}") for model, values in metrics.items()]
    return _question(
        run,
        "promote",
        version.package_digest,
        digest_json(evaluation.as_dict()),
        f"let version {version.version} of '{version.pipeline}' serve",
        [
            ("version", version.version),
            ("package", version.package_digest),
            ("in the registry", Registry(run.settings).url(version)),
            ("replaces", evaluation.champion_version or "nothing"),
            ("verdict", evaluation.verdict.summary),
            *measured,
            ("judged on", f"{evaluation.num_rows:,} rows of {evaluation.window}"),
        ],
    )


def _question(
    run: Run,
    action: Literal["retrain", "promote", "change_threshold"],
    subject: str,
    basis: str,
    summary: str,
    evidence: list[tuple[str, str]],
) -> Question:
    if run.requested_by is None:
        raise ConfigError(
            f"nobody is named who asks: {summary}",
            next="start it with `millrace run`, or fill in requested_by (person:NAME): who asks may not approve",
        )
    rows = [*evidence, ("asked by", run.requested_by), ("digest of what", subject), ("digest of why", basis)]
    return Question(
        run.pipeline.name,
        action,
        subject,
        basis,
        run.requested_by,
        summary,
        artifacts.table(["", ""], [[name, text] for name, text in rows]),
    )


def _answered(run: Run, question: Question, rule: ApprovalsSpec) -> Standing:
    """The standing of the question, once it is answered or over. Till then the run waits, and begins anew after."""
    standing = requests.ask(run.ledger, question, rule, run.id)
    if standing.is_open and deployment.get_id() is not None:
        _take_answers(run, standing.request)
        standing = requests.ask(run.ledger, question, rule, run.id)
    if standing.is_open:
        _wait(run, standing)
    get_logger().info("answered", request=standing.request.id, state=standing.state, reason=standing.reason)
    return standing


def _take_answers(run: Run, request: ApprovalRequest) -> None:
    """Record what was filled in in the run's forms; what does not count is one more try."""
    for filled in filled_forms(request.id):
        try:
            form = ApprovalForm(**filled.values)
        except ValidationError:
            form = ApprovalForm(decision="reject", code="")
        try:
            requests.decide(
                run.ledger,
                request,
                form.code,
                reason=form.reason,
                answer=form.decision,
                once=f"{run.id}:{filled.key}",
            )
        except ApprovalError as error:
            get_logger().warning("an answer that does not count", request=request.id, why=error.what)
        except ConflictError:
            # Answered or closed by what came before it.
            return


def _wait(run: Run, standing: Standing) -> NoReturn:
    request = standing.request
    _publish(run, request)
    requests.await_answer(run.ledger, request, run.id)
    if deployment.get_id() is None:
        raise ConflictError(
            f"a person must approve: {request.summary}",
            got=f"request {request.id}, {standing.reason}",
            next=f"have it approved with `millrace approve {request.id}`, then start this again",
        )
    left = request.max_tries - len(standing.tries_refused)
    problem = f"**Not taken: {standing.tries_refused[-1]}.** {left} tries left.\n\n" if standing.tries_refused else ""
    suspend(ApprovalForm.with_initial_data(description=problem + described(request)), request.id)


def _publish(run: Run, request: ApprovalRequest) -> None:
    artifacts.note(run.pipeline.name, GATE, f"Waits for a person: {request.summary}", described(request))


def described(request: ApprovalRequest) -> str:
    """The evidence of a request and how it is answered, in Markdown."""
    return f"""# Approve? {request.summary}

{request.evidence}

Waits until {request.expires_at:%Y-%m-%d %H:%M} UTC; without an answer nothing is done.

At a terminal, as an approver: `millrace approve {request.id}` or `millrace reject {request.id}`.

For the form here, have the code printed: `millrace approve {request.id} --code`, or
`millrace reject {request.id} --code`.
"""
