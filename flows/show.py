"""Answers as tables for people, on stdout. Whatever is not of this file is escaped: a reason, a path or a command line
may have square brackets, which would be markup."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def _out() -> Console:
    console = Console()
    # Without a terminal there is no width to keep to: a log is read where lines may be long.
    return console if console.is_terminal else Console(width=max(console.width, 120))


def stack(answer: Mapping[str, Any]) -> None:
    table = Table("part", "state", "address", "pid", "detail", title="stack", title_justify="left")
    for name, part in answer["parts"].items():
        state = (
            "[green]ready[/green]" if part["ready"] else "[yellow]starting[/yellow]" if part["running"] else "stopped"
        )
        facts = (str(part["address"]), str(part["pid"] or ""), str(part["detail"] or ""))
        table.add_row(escape(name), state, *map(escape, facts))
    _out().print(table)
    for name, serving in answer.get("pipelines", {}).items():
        told = f"serves version {serving['version']}" if serving else "serves nothing"
        if name in answer.get("unserved", {}):
            version = answer["unserved"][name]
            told = f"has the champion {version}, which is not served" if version else "has no champion yet"
        _out().print(f"pipeline [bold]{escape(name)}[/bold] {escape(told)}")


def validation(answer: Mapping[str, Any]) -> None:
    table = _facts(f"{answer['pipeline']} is sound")
    table.add_row("folder", escape(answer["folder"]))
    table.add_row("source", f"{answer['extent']['start']} to {answer['extent']['end']}")
    table.add_row("newest rows tried", f"{answer['rows']:,}")
    table.add_row("without an outcome", f"{answer['unlabelled']:,}")
    table.add_row("quarantined", f"{answer['quarantined']:,}")
    for reason, count in answer["quarantine_reasons"].items():
        table.add_row("", escape(f"{reason} ({count:,})"))
    if (texts := answer.get("texts")) is not None:
        table.add_row("texts", f"{texts['num_bytes']:,} bytes, learned {texts['sequence_length']:,} at a time")
    else:
        features = answer["features"]
        table.add_row("features", f"{features['numeric']} numeric, {features['categorical']} categorical")
    table.add_row("model", f"{answer['model_parameters']:,} parameters")
    _out().print(table)


def training(answer: Mapping[str, Any]) -> None:
    if answer["outcome"] == "waiting":
        approvals(answer)
        return
    table = _facts(f"{answer['pipeline']}: {answer['outcome']}")
    if answer["version"] is not None:
        table.add_row("version", escape(answer["version"]))
        trained = f"{answer['train_seconds']:.1f} s" if answer["trained"] else "no: an identical run did it before"
        table.add_row("trained", trained)
    for reason in answer["reasons"]:
        table.add_row("", escape(reason))
    if answer["outcome"] == "rolling out":
        table.add_row("its way", escape(f"millrace rollout {answer['pipeline']}"))
    for model, metrics in (answer["evaluation"] or {}).items():
        table.add_row(escape(model), escape(", ".join(f"{name} {value:.4f}" for name, value in metrics.items())))
    _out().print(table)


def check(answer: Mapping[str, Any]) -> None:
    table = _facts(f"window {answer['window']['start'][:10]} to {answer['window']['end'][:10]}")
    table.add_row("version", escape(answer["version"]))
    table.add_row("answered rows", f"{answer['rows']:,}, {answer['outcomes']:,} of them with an outcome")
    for verdict in answer["verdicts"]:
        state = "[green]passed[/green]" if verdict["passed"] else "[red]failed[/red]"
        table.add_row(escape(verdict["gate"]), f"{state} {escape('; '.join(verdict['reasons']))}")
    table.add_row("incident", escape(answer["incident"] or "none"))
    table.add_row("brakes", escape(answer["brake"]))
    if answer["report"]:
        table.add_row("report", escape(answer["report"]))
    _out().print(table)


def replay(answer: Mapping[str, Any]) -> None:
    table = _facts(f"replayed {answer['window']['start'][:10]} to {answer['window']['end'][:10]}")
    table.add_row("requests", f"{answer['num_requests']:,}, {answer['failed']:,} failed")
    table.add_row("rows", f"{answer['num_rows']:,}")
    table.add_row("outcomes", f"{answer['num_outcomes']:,}")
    table.add_row("latency", f"median {answer['median_ms']:.1f} ms, p99 {answer['p99_ms']:.1f} ms")
    _out().print(table)


def rollback(answer: Mapping[str, Any]) -> None:
    told = f"{answer['pipeline']}: version {answer['version']} serves, after {answer['seconds']:.1f} s"
    _out().print(escape(told))


def traffic(answer: Mapping[str, Any]) -> None:
    table = _facts(f"{answer['pipeline']} serves version {answer['version']}")
    for version, share in sorted(answer["shares"].items()):
        table.add_row(f"version {escape(version)}", f"{share:.2%} of the requests, by {answer['sticky']}")
    for customer, version in answer["pins"].items():
        table.add_row(f"customer {escape(customer)}", f"version {escape(version)}")
    for name in ("canary", "shadow"):
        if (found := answer[name]) is not None:
            table.add_row(name, f"version {escape(found['version'])}, {found['share']:.2%} of the requests")
    _out().print(table)
    if "switch_seconds" in answer:
        _out().print(f"changed in {answer['seconds']:.1f} s, of which {answer['switch_seconds']:.2f} s to change over")


def rollout(answer: Mapping[str, Any]) -> None:
    outcome = answer["outcome"] if answer["ended_by"] is None else f"{answer['outcome']} by {answer['ended_by']}"
    title = f"{answer['pipeline']}: version {answer['version']} beside version {answer['champion']}, {outcome}"
    table = Table("step", "share", "since", "requests", "decided", "why", title=escape(title), title_justify="left")
    for step in answer["steps"]:
        since = "" if step["since"] is None else _moment(step["since"])
        requests = "" if step["requests"] is None else f"{step['requests']:,}"
        told = (step["decided"] or "", escape(step["reason"] or ""))
        table.add_row(str(step["step"]), f"{step['share']:.2%}", since, requests, *told)
    _out().print(table)
    for test in answer["tests"].values():
        _out().print(escape(f"{test['reason']}; e-value {test['e_value']:.3g}, a breach at {1 / test['alpha']:,.0f}"))
    for reason in answer["reasons"]:
        _out().print(escape(f"{answer['outcome']}: {reason}"))
    if "serving" in answer:
        _out().print(f"version {answer['serving']} answers all requests, after {answer['seconds']:.1f} s")


def shadow(answer: Mapping[str, Any]) -> None:
    verdict = answer["verdict"]
    table = _facts(f"{answer['pipeline']}: version {answer['version']} as a shadow")
    table.add_row("verdict", "[green]passed[/green]" if verdict["passed"] else "[red]failed[/red]")
    for reason in verdict["reasons"]:
        table.add_row("", escape(reason))
    table.add_row("compared with", escape(", ".join(f"version {version}" for version in answer["answered_by"])))
    for name, value in verdict["evidence"].items():
        if value is not None:
            table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    _out().print(table)


def versions(answer: Mapping[str, Any]) -> None:
    name = escape(answer["pipeline"])
    table = Table("version", "aliases", "decision", "registered", "verdict", title=name, title_justify="left")
    for version in answer["versions"]:
        made = datetime.fromtimestamp(version["created_at"], UTC)
        verdict = version["tags"].get("millrace.verdict", "")
        told = (version["version"], ", ".join(version["aliases"]), version["decision"])
        table.add_row(*map(escape, told), f"{made:%Y-%m-%d %H:%M}", escape(verdict))
    _out().print(table if answer["versions"] else f"{name} has no version yet: `millrace run {name}`")


def history(answer: Mapping[str, Any]) -> None:
    name, serving = answer["pipeline"], answer["serving"]
    if answer.get("entries"):
        table = Table(title=escape(name), title_justify="left")
        for head in ("entry", "at", "what", "of", "why", "decided by"):
            table.add_column(head, justify="right" if head == "entry" else "left", overflow="fold")
        for entry in answer["entries"]:
            told = (entry["kind"], entry["subject"], entry["why"], entry["actor"])
            table.add_row(str(entry["entry"]), _moment(entry["at"]), *map(escape, told))
        _out().print(table)
    if serving is None:
        when = "yet" if answer["at"] is None else f"at {_moment(answer['at'])}"
        _out().print(f"{escape(name)}: no version served {when}")
    else:
        title = f"{name} serves" if answer["at"] is None else f"{name} at {_moment(answer['at'])}"
        facts, cause = _facts(title), serving["because"]
        facts.add_row("version", escape(serving["version"]))
        facts.add_row("package", escape(serving["package"]))
        facts.add_row("since", _moment(serving["since"]))
        facts.add_row("why", "not recorded" if cause is None else escape(f"{cause['kind']}: {cause['why']}"))
        facts.add_row("decided by", escape(serving["decided_by"]))
        _out().print(facts)
    if "chain" in answer:
        chain = answer["chain"]
        _out().print(f"the ledger is whole: {chain['entries']:,} entries, head {chain['digest']}", soft_wrap=True)


def approvals(answer: Mapping[str, Any]) -> None:
    out = _out()
    for request in answer["requests"]:
        table = _facts(f"{request['request']}: {request['summary']}")
        table.add_row("state", escape(f"{request['state']}: {request['reason']}"))
        for line in request["evidence"].splitlines()[2:]:
            name, _, text = line.strip("| ").partition(" | ")
            table.add_row(escape(name), escape(text))
        for why in request["refused_tries"]:
            table.add_row("[yellow]not taken[/yellow]", escape(why))
        out.print(table)
        if request["state"] == "open":
            name = escape(request["request"])
            out.print(f"Answer it: millrace approve {name}, or millrace reject {name}")
    if not answer["requests"]:
        out.print("nothing waits for a person")


def code(answer: Mapping[str, Any]) -> None:
    """The line alone: it is copied, or piped."""
    _out().print(answer["code"], soft_wrap=True, markup=False, highlight=False)


def answered(answer: Mapping[str, Any]) -> None:
    done = {"approve": "[green]approved[/green]", "reject": "[red]rejected[/red]"}[answer["answer"]]
    _out().print(f"{done} by {escape(answer['approver'])}: {escape(answer['summary'])}")
    for run in answer["resumed"]:
        _out().print(f"flow run {escape(run)} goes on")
    if answer["note"]:
        _out().print(escape(answer["note"]))


def approvers(answer: Mapping[str, Any]) -> None:
    table = Table("name", "person", "vouched for by", "public key", title="approvers", title_justify="left")
    for approver in answer["approvers"]:
        table.add_row(*(escape(approver[name]) for name in ("name", "person", "vouched_by", "public_key")))
    _out().print(table if answer["approvers"] else "nobody may approve yet: millrace approvers add NAME")
    for entry in answer["ignored"]:
        told = escape(f"entry {entry['entry']} ({entry['kind']} {entry['name']}) is not signed: ignored")
        _out().print(f"[red]{told}[/red]")


def approver_added(answer: Mapping[str, Any]) -> None:
    table = _facts(f"{answer['name']} may approve")
    table.add_row("person", escape(answer["person"]))
    table.add_row("vouched for by", escape(answer["vouched_by"]))
    table.add_row("public key", escape(answer["public_key"]))
    table.add_row("private key", escape(answer["key"] or "where it was made"))
    _out().print(table)


def approver_removed(answer: Mapping[str, Any]) -> None:
    _out().print(escape(f"{answer['name']} may not approve any more"))


def created(answer: Mapping[str, Any]) -> None:
    name = answer["name"]
    table = _facts(f"{name}: written to {answer['folder']}")
    for key, value in answer["inferred"].items():
        table.add_row(escape(key), escape(str(value)))
    for note in answer["notes"]:
        table.add_row("[yellow]note[/yellow]", escape(note))
    _out().print(table)
    _out().print(escape(f"Next: millrace validate {name}; then millrace demo {name} closes the loop on it."))


def keys(answer: Mapping[str, Any]) -> None:
    table = Table("id", "customer", "created", "revoked")
    for key in answer["keys"]:
        told = (key["id"], key["customer"], key["created_at"], key["revoked_at"] or "")
        table.add_row(*map(escape, told))
    _out().print(table if answer["keys"] else "there is no key yet: `millrace keys create CUSTOMER`")
    if answer["limits"]:
        limits = Table("customer", "requests a second", "at once")
        for customer, limit in answer["limits"].items():
            limits.add_row(escape(customer), f"{limit['rate']:g}", str(limit["burst"]))
        _out().print(limits)
    if answer["usage"]:
        usage = Table("customer", "pipeline", "requests today (UTC)", "of")
        for row in answer["usage"]:
            usage.add_row(
                escape(row["customer"]), escape(row["pipeline"] or "each"), _count(row["used"]), _count(row["quota"])
            )
        _out().print(usage)


def limited(answer: Mapping[str, Any]) -> None:
    match answer["limit"]:
        case None:
            told = "as often as each pipeline's spec says"
        case limit:
            told = f"{limit['rate']:g} times a second, {limit['burst']} at once"
    daily = "" if answer["daily"] is None else f", {answer['daily']:,} times a day of each pipeline"
    _out().print(escape(f"{answer['customer']} may ask {told}{daily}; replicas know it within a second."))


def created_key(answer: Mapping[str, Any]) -> None:
    _out().print(escape(f"Key {answer['id']} of {answer['customer']}, shown only now:"))
    # Not through the console: it would break a long word at the terminal's edge.
    sys.stdout.write(f"{answer['key']}\n")


def exported(answer: Mapping[str, Any]) -> None:
    table = _facts(f"{answer['pipeline']}: version {answer['version']} for other programs")
    for path, size in answer["files"].items():
        table.add_row(escape(path), f"{size:,} bytes")
    _out().print(table)


def demo(answer: Mapping[str, Any]) -> None:
    metric = answer["metric"]
    title = escape(f"{answer['pipeline']}: {metric} by {answer['period']}")
    table = Table(title=title, title_justify="left")
    for head in ("", "rows", "frozen", "live", "version", "incident", "retraining", "cost"):
        table.add_column(head, justify="right" if head in ("rows", "frozen", "live", "cost") else "left")
    for month in answer["months"]:
        gain = "" if month["improvement"] is None else f" ({month['improvement']:+.4f})"
        retraining = "" if month["outcome"] is None else f"{month['outcome']}{gain}"
        table.add_row(
            escape(month["month"]),
            f"{month['rows']:,}",
            _number(month["static"]),
            _number(month["live"]),
            escape(month["version"]),
            escape(month["incident_kind"] or ""),
            escape(retraining),
            f"{month['cost']:.4f}",
        )
    table.add_section()
    table.add_row(
        "mean", "", _number(answer["static_mean"]), _number(answer["live_mean"]), "", "", "", f"{answer['cost']:.4f}"
    )
    _out().print(table)
    _out().print(
        f"{answer['incidents']} incidents, {answer['retrains']} retrainings: {answer['promotions']} promoted, "
        f"{answer['refused']} refused. First prediction after {_seconds(answer['seconds_to_first_prediction'])}, "
        f"everything after {_seconds(answer['seconds_total'])}. Cost in {escape(answer['currency'])}."
    )
    for what, where in answer["look_at"].items():
        _out().print(escape(f"  {what:<18} {where}"), soft_wrap=True)


def _facts(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", show_header=False)


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _seconds(value: float | None) -> str:
    return "(an earlier run)" if value is None else f"{value:.0f} s"
