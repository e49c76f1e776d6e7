"""Who may approve. Each change of the roster is an entry signed by somebody who is on it; the first one signs himself.

So whoever can write to the ledger and has no approver's key cannot make himself an approver: an entry without a valid
signature changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from millrace.approvals.keys import NAME, NAME_RULE, PrivateKey, is_signed
from millrace.errors import ApprovalError, ConfigError, ConflictError, UnknownNameError, nearest
from millrace.ledger import Entry, Fact, Ledger
from millrace.storage import canonical_json

ADDED: Final = "approver_added"
REMOVED: Final = "approver_removed"

#: Approvers are approvers of all pipelines.
EVERYWHERE = ""

_PURPOSE = "millrace approvers 1"
_NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Approver:
    """`person` is who the approver is to the operating system; `since` the number of the entry that enrolled him."""

    name: str
    public_key: str
    person: str
    since: int
    is_first: bool
    vouched_by: str


@dataclass(frozen=True, slots=True)
class Roster:
    """The approvers by name, and the entries that claim a change without the right to it."""

    approvers: Mapping[str, Approver]
    ignored: tuple[Entry, ...]
    #: The digest of the newest entry that counted: the next change says that it comes after it.
    head: str

    def find(self, name: str) -> Approver:
        """The approver.

        Raises:
            ApprovalError: nobody of that name is one now.
        """
        if name not in self.approvers:
            raise ApprovalError(
                f"'{name}' is no approver",
                allowed=nearest(name, self.approvers),
                next="`millrace approvers list` shows who is",
            )
        return self.approvers[name]


def read_roster(ledger: Ledger, before: int | None = None) -> Roster:
    """Who may approve now, or might before the entry with number `before` was written."""
    approvers: dict[str, Approver] = {}
    ignored: list[Entry] = []
    head, first = _NOBODY, True
    for entry in ledger.entries(EVERYWHERE, ADDED, REMOVED):
        if before is not None and entry.sequence >= before:
            break
        if not _counts(entry, approvers, head, first):
            ignored.append(entry)
            continue
        detail = entry.detail
        if entry.kind == ADDED:
            approvers[entry.subject] = Approver(
                entry.subject, detail["public_key"], detail["person"], entry.sequence, first, detail["by"]
            )
        else:
            del approvers[entry.subject]
        head, first = entry.digest, False
    return Roster(approvers, tuple(ignored), head)


def add(ledger: Ledger, name: str, public_key: str, person: str, by: str, key: PrivateKey) -> Approver:
    """Enrol `name`; `by` is who vouches for him with his key, which is he himself when he is the first.

    Raises:
        ConfigError: the name or the person is not spelt as it must be.
        ConflictError: there is an approver of that name or with that key, or somebody else changed the roster.
        ApprovalError: `by` is no approver, or the key is not his.
    """
    roster = read_roster(ledger)
    if not NAME.fullmatch(name):
        raise ConfigError("this is no name of an approver", got=name, allowed=NAME_RULE, next="correct it")
    if not person or len(person) > 64:
        raise ConfigError("a person needs a name", got=person, allowed="1 to 64 characters", next="give --person NAME")
    for known in roster.approvers.values():
        if known.name == name or known.public_key == public_key:
            raise ConflictError(
                f"approver '{known.name}' is enrolled already", next="choose another name, or remove the old one first"
            )
    _change(ledger, roster, ADDED, name, {"public_key": public_key, "person": person}, by, key)
    return read_roster(ledger).find(name)


def remove(ledger: Ledger, name: str, by: str, key: PrivateKey) -> None:
    """Take `name` off the roster; what he approved and nobody has used is void.

    Raises:
        UnknownNameError: he is no approver.
        ConflictError: he is the last one.
        ApprovalError: `by` is no approver, or the key is not his.
    """
    roster = read_roster(ledger)
    if name not in roster.approvers:
        raise UnknownNameError(
            f"'{name}' is no approver",
            allowed=nearest(name, roster.approvers),
            next="`millrace approvers list` shows who is",
        )
    if len(roster.approvers) == 1:
        raise ConflictError(f"'{name}' is the last approver", next="add another one first")
    _change(ledger, roster, REMOVED, name, {}, by, key)


def _change(
    ledger: Ledger, roster: Roster, kind: Literal["approver_added", "approver_removed"], name: str,
    said: Mapping[str, Any], by: str, key: PrivateKey,
) -> None:  # fmt: skip
    detail = {**said, "by": by, "after": roster.head}
    signer = said.get("public_key") if roster.head == _NOBODY else roster.find(by).public_key
    if signer != key.public:
        raise ApprovalError(
            f"the key is not the one of approver '{by}' in the ledger",
            next="the first approver signs with his own key" if roster.head == _NOBODY else "use the key he enrolled",
        )
    signature = key.sign(_content(kind, name, detail))
    # Of two changes of the same roster the first counts.
    fact = Fact(EVERYWHERE, kind, name, {**detail, "signature": signature}, f"person:{by}", f"{roster.head}:{name}")
    entry, _ = ledger.append(fact)[0]
    if read_roster(ledger).head != entry.digest:
        raise ConflictError("somebody else changed the roster of approvers meanwhile", next="look at it and try again")


def _counts(entry: Entry, approvers: Mapping[str, Approver], head: str, first: bool) -> bool:
    """Whether an entry was signed by one who might, for this very state of the roster."""
    detail = entry.detail
    if detail.get("after") != head or not NAME.fullmatch(entry.subject):
        return False
    if entry.kind == REMOVED and entry.subject not in approvers:
        return False
    by = str(detail.get("by"))
    if first:
        signer = str(detail.get("public_key")) if by == entry.subject and entry.kind == ADDED else ""
    else:
        signer = approvers[by].public_key if by in approvers else ""
    said = {name: value for name, value in detail.items() if name != "signature"}
    return is_signed(signer, str(detail.get("signature")), _content(entry.kind, entry.subject, said))


def _content(kind: str, name: str, detail: Mapping[str, Any]) -> bytes:
    return canonical_json([_PURPOSE, kind, name, detail])
