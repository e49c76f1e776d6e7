"""What a person sees of a flow run in the Prefect UI: tables, plots, links."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from prefect.artifacts import create_markdown_artifact

from millrace.dataset import StagedSet
from millrace.faults import fault_point
from millrace.gate import Evaluation
from millrace.goodput import CLASSES, Goodput
from millrace.secrets import redact
from millrace.spec import TEXT_METRIC
from millrace.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GOODPUT_COLORS = ("#2f855a", "#ecc94b", "#4299e1", "#ed8936", "#c53030", "#a0aec0")


def key(pipeline: str, part: str) -> str:
    """A Prefect artifact key: lower case, digits and dashes."""
    return f"{pipeline}-{part}".replace("_", "-").lower()


def staged_set(staged: StagedSet, verdict: Verdict) -> None:
    reasons = table(["reason", "rows"], [[reason, f"{count:,}"] for reason, count in staged.reasons.items()])
    _create(
        key=key(staged.pipeline, "staged"),
        description="The staged data set and its quarantine",
        markdown=f"""# Staged data set

{_mark(verdict.passed)} {verdict.summary}

{
            table(
                ["", ""],
                [
                    ["window", str(staged.window)],
                    ["as known at", f"{staged.as_of:%Y-%m-%d %H:%M}"],
                    ["rows", f"{staged.num_rows:,}"],
                    ["of them without an outcome", f"{staged.num_unlabelled:,}"],
                    ["quarantined", f"{staged.num_quarantined:,}"],
                    ["shards", str(len(staged.shards))],
                    ["digest", f"`{staged.digest}`"],
                    ["manifest", f"`{staged.key}`"],
                ],
            )
        }

## Quarantine

{reasons if staged.reasons else "Nothing was quarantined."}
""",
    )


def training_curves(pipeline: str, history: Sequence[Mapping[str, float]], best_step: int) -> None:
    """Loss by step as a plot, and the numbers below it."""
    rows = [
        [
            f"{each['step']:,.0f}",
            f"{each['epoch']:.1f}",
            f"{each['training_loss']:.5f}",
            f"{each['validation_loss']:.5f}",
            f"{each['rows_per_second']:,.0f}",
            f"{each['mfu']:.1%}" if "mfu" in each else "",
            f"{each['peak_memory_bytes'] / 2**30:.2f}" if "peak_memory_bytes" in each else "",
        ]
        for each in history
    ]
    _create(
        key=key(pipeline, "training"),
        description="Training curves",
        markdown=f"""# Training curves

![loss by step]({_loss_plot(history, best_step)})

Best after step {best_step:,}

{table(["step", "epoch", "training loss", "validation loss", "rows per second", "MFU", "peak GiB"], rows)}

MFU: what the model asks for, as a share of what a large matrix product reaches on the same device.
""",
    )


def goodput(pipeline: str, found: Goodput, price_per_hour: float, currency: str) -> None:
    """Where the time of the training's workers went, as a plot by attempt, and in seconds, shares and money."""
    total = found.worker_seconds or 1.0
    rows = [
        [name, f"{seconds:,.1f}", f"{seconds / total:.1%}", f"{seconds / 3600 * price_per_hour:,.4f}"]
        for name, seconds in found.seconds.items()
    ]
    attempts = [
        [str(each.number + 1), str(each.world_size), f"{each.ended - each.began:,.1f}", each.outcome]
        for each in found.attempts
    ]
    _create(
        key=key(pipeline, "goodput"),
        description="Where the training's time went",
        markdown=f"""# {found.share:.1%} of the workers' time went to steps that count

![worker-seconds by attempt]({_goodput_plot(found)})

{table(["", "worker-seconds", "share", currency], rows)}

{table(["attempt", "workers", "seconds", "outcome"], attempts)}

compute: steps and validations that counted. data_wait: waiting for batches. checkpoint: what saves took from the
training. restart: from a loss until steps are taken again. lost: steps that had to be done again. idle: starting for
the first time, and waiting for others at the end.
""",
    )


def evaluation(pipeline: str, result: Evaluation) -> None:
    verdict = result.verdict
    names = sorted({name for metrics in result.metrics.values() for name in metrics})
    first = ("challenger", "champion", "baseline")
    models = [model for model in (*first, *sorted(set(result.metrics) - set(first))) if model in result.metrics]
    slices = "\n\n".join(
        f"### By {feature}\n\n"
        + table(
            [feature, "rows", *models],
            [
                [name, f"{part['rows']:,.0f}", *(f"{part[model]:.4f}" for model in models)]
                for name, part in sorted(parts.items(), key=lambda item: -item[1]["rows"])
            ],
        )
        for feature, parts in result.slices.items()
    )
    bins = table(
        ["rows", "said", "happened"],
        [[f"{part.num_rows:,}", f"{part.mean_answer:.3f}", f"{part.mean_label:.3f}"] for part in result.calibration],
    )
    _create(
        key=key(pipeline, "verdict"),
        description="The promotion gate's verdict",
        markdown=f"""# {_mark(verdict.passed)} {"Promoted" if verdict.passed else "Refused"}

{bullets(verdict.reasons)}

Judged on {result.num_rows:,} {"documents" if TEXT_METRIC in names else "labelled rows"} of {result.window}.

{
            table(
                ["metric", *models],
                [
                    [name, *(f"{result.metrics[model].get(name, float('nan')):.4f}" for model in models)]
                    for name in names
                ],
            )
        }

{slices}

{"## Calibration of the challenger" if result.calibration else ""}

{bins if result.calibration else ""}
""",
    )


def rollout(pipeline: str, version: str, lines: Mapping[str, str]) -> None:
    _create(
        key=key(pipeline, "rollout"),
        description=f"Version {version} serves",
        markdown=f"# Version {version} serves\n\n{table(['', ''], [[name, text] for name, text in lines.items()])}\n",
    )


def drift(
    pipeline: str, verdicts: Sequence[Verdict], columns: Mapping[str, tuple[float, bool]], report_url: str, brake: str
) -> None:
    """The drift table, worst first, with a link to Evidently's report."""
    rows = [
        [f"`{name}`", f"{score:.4f}", "**drifted**" if drifted else ""]
        for name, (score, drifted) in sorted(columns.items(), key=lambda item: -item[1][0])
    ]
    _create(
        key=key(pipeline, "check"),
        description="Drift and quality of the newest window",
        markdown=f"""# Check

{chr(10).join(f"- {_mark(verdict.passed)} {verdict.summary}" for verdict in verdicts)}

Brakes: {brake}

Evidently's report: [{report_url}]({report_url})

{table(["feature", "distance", ""], rows)}
""",
    )


def note(pipeline: str, part: str, description: str, markdown: str) -> None:
    _create(key=key(pipeline, part), description=description, markdown=markdown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; no cell can end its row, as people decide by what stands in it."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _create(*, key: str, description: str, markdown: str) -> None:
    with fault_point("prefect.artifact"):
        create_markdown_artifact(key=key, description=redact(description), markdown=redact(markdown))


def _mark(passed: bool) -> str:
    return "✅" if passed else "❌"


def _loss_plot(history: Sequence[Mapping[str, float]], best_step: int) -> str:
    """The losses by step as a data URL, so that the plot lives in the artifact itself."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = [each["step"] for each in history]
    axes.plot(steps, [each["training_loss"] for each in history], marker="o", label="training")
    axes.plot(steps, [each["validation_loss"] for each in history], marker="o", label="validation")
    axes.axvline(best_step, color="grey", linestyle=":", label="best")
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return _data_url(figure)


def _goodput_plot(found: Goodput) -> str:
    """A bar for each attempt, of its worker-seconds by class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.8 + 0.45 * max(1, len(found.attempts))), layout="constrained")
    axes = figure.subplots()
    names = [f"attempt {each.number + 1}" for each in found.attempts]
    left = [0.0] * len(names)
    for kind, color in zip(CLASSES, _GOODPUT_COLORS, strict=True):
        widths = [seconds[kind] for seconds in found.by_attempt]
        axes.barh(names, widths, left=left, label=kind, color=color)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="worker-seconds")
    figure.legend(loc="outside upper center", ncols=len(CLASSES), fontsize="small")
    return _data_url(figure)


def _data_url(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg")
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
