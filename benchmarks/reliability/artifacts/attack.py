"""One hostile artifact, and the ways in which most of them are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.reliability.artifacts.world import Document, Signer, World, redigest

ANYBODY: tuple[Signer, ...] = ("nobody", "a stranger", "the trusted key")
UNSIGNED = ("is not signed", "by a key that is not trusted", "changed after it was signed", "more than 16777216 bytes")


@dataclass(frozen=True)
class Attack:
    """One hostile artifact. It is tried with each of `signers`; signed by the trusted key (or, where that makes no
    difference, in any case) it must be refused with one of `reasons`, otherwise before anything is parsed."""

    name: str
    opener: str
    spoil: Callable[[World, Signer], None]
    reasons: tuple[str, ...]
    signers: tuple[Signer, ...] = ANYBODY

    def expected(self, signer: Signer) -> tuple[str, ...]:
        return self.reasons if signer == "the trusted key" else UNSIGNED


def with_files(
    name: str,
    opener: str,
    key: str,
    files: Mapping[str, bytes | None] | Callable[[World], Mapping[str, bytes]],
    *reasons: str,
) -> Attack:
    """An artifact with files of the attacker's, and a manifest that fits them."""

    def spoil(world: World, signer: Signer) -> None:
        world.forge(key, signer, files(world) if callable(files) else files)

    return Attack(name, opener, spoil, reasons)


def with_manifest(
    name: str, key: str, edit: Callable[[Document], object], *reasons: str, opener: str = "serve"
) -> Attack:
    return Attack(name, opener, lambda world, signer: world.forge(key, signer, {}, edit), reasons)


def updates_summary(change: Mapping[str, Any]) -> Callable[[Document], None]:
    def edit(document: Document) -> None:
        document["summary"].update(change)
        redigest(document)

    return edit
