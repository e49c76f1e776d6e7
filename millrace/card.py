"""The model card: what a person should know of a version before trusting it (Mitchell et al., FAT* 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from millrace.spec import PipelineSpec


def text_card(
    spec: PipelineSpec,
    *,
    num_documents: int,
    num_parameters: int,
    windows: Mapping[str, str],
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
) -> str:
    """The card of a language model as Markdown."""
    texts = spec.texts
    return f"""# {spec.name}

{spec.description}

- **Predicts** each byte of a document (`{texts.text}`) from up to {texts.sequence_length:,} bytes before it
- **Owner** {spec.owner or "not named"}
- **Size** {num_parameters:,} parameters
- **Fitted on** the training window of {num_documents:,} documents

## Windows of event time

{_table({name: str(window) for name, window in windows.items()})}

## Metrics on the validation window

{_table({name: f"{value:.5g}" for name, value in metrics.items()})}

## Lineage

{_table({name: str(value) for name, value in lineage.items()})}

## Limits

It has seen the windows above and nothing later; it goes on as such texts go on, whether that is true or not. It was
judged in bits per byte, against the champion and the frequencies of bytes, on the evaluation window: the verdict lies
beside the version in the registry. It does not answer requests; `millrace export` writes it for other programs.
"""


def model_card(
    spec: PipelineSpec,
    *,
    num_rows: int,
    num_unlabelled: int,
    windows: Mapping[str, str],
    metrics: Mapping[str, float],
    lineage: Mapping[str, Any],
) -> str:
    """The card as Markdown."""
    features = "\n".join(
        f"| `{name}` | {feature.kind} | {_range(feature)} | {'yes' if feature.nullable else 'no'} "
        f"| {_cell(feature.description)} |"
        for name, feature in spec.table.features.items()
    )
    known_at = spec.table.label.known_at or spec.table.event_time
    return f"""# {spec.name}

{spec.description}

- **Predicts** `{spec.table.label.column}` ({spec.table.label.kind}), known at `{known_at}`
- **Owner** {spec.owner or "not named"}
- **Fitted on** {num_rows:,} labelled rows; {num_unlabelled:,} rows had no outcome and were counted, not guessed

## Windows of event time

{_table({name: str(window) for name, window in windows.items()})}

## Metrics on the validation tail

{_table({name: f"{value:.5g}" for name, value in metrics.items()})}

## Feature contract

| feature | kind | allowed | may be missing | meaning |
|---|---|---|---|---|
{features}

## Lineage

{_table({name: str(value) for name, value in lineage.items()})}

## Limits

It has seen the windows above and nothing later. Its answers are for rows that keep the feature contract; others are
refused. It was judged against the champion and a trivial baseline on the evaluation window before it was promoted:
the verdict lies beside the version in the registry.
"""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _range(feature: Any) -> str:
    if feature.kind == "categorical":
        return f"{len(feature.values)} categories{', open' if feature.open else ''}"
    return f"{'' if feature.min is None else f'{feature.min:g}'} … {'' if feature.max is None else f'{feature.max:g}'}"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
