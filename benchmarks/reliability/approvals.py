"""Attacks on approvals, against a real ledger; `python -m benchmarks.reliability.approvals` counts what is refused.

Each attack does its worst to have `RUN` allowed to do what nobody may have approved. It may raise one of our errors, or
have written whatever it wants to the ledger; what counts is whether the run would go ahead afterwards.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from millrace.approvals import approvers, requests
from millrace.approvals.approvers import ADDED, EVERYWHERE
from millrace.approvals.code import Answer, ApprovalRequest, Code, sign
from millrace.approvals.keys import PrivateKey, decode, encode
from millrace.approvals.requests import DECIDED, REQUESTED, USED, Question
from millrace.errors import MillraceError
from millrace.ledger import Fact, Ledger
from millrace.spec import ApprovalsSpec
from millrace.storage import canonical_json

RUN = "run-1"
RULE = ApprovalsSpec(promote=True, expires_hours=24.0, max_tries=3)
QUESTION = Question("tiny", "promote", "a" * 64, "b" * 64, "millrace", "let version 2 serve", "evidence")

_ORDER = 2**252 + 27742317777372353535851937790883648493


@dataclass
class Scene:
    """An open request, two approvers, and an attacker who can write to the ledger and holds a key of his own."""

    ledger: Ledger
    alice: PrivateKey
    bob: PrivateKey
    mallory: PrivateKey
    request: ApprovalRequest
    question: Question = QUESTION
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def build(cls, ledger: Ledger) -> Scene:
        alice, bob = PrivateKey.new(), PrivateKey.new()
        approvers.add(ledger, "alice", alice.public, "alice", "alice", alice)
        approvers.add(ledger, "bob", bob.public, "robert", "alice", alice)
        return cls(ledger, alice, bob, PrivateKey.new(), requests.ask(ledger, QUESTION, RULE, RUN).request)

    def ask(self, question: Question, run: str = RUN) -> ApprovalRequest:
        """Ask another question; it becomes the one that the run must not do."""
        self.question = question
        self.request = requests.ask(self.ledger, question, RULE, run).request
        return self.request

    def code(self, answer: Answer = "approve") -> Code:
        """An honest answer by alice."""
        return sign(self.request, answer, "alice", self.alice, self.now)

    def signed(self, code: Code, key: PrivateKey) -> str:
        """`code`, whatever it says, signed with `key`."""
        return replace(code, signature=key.sign(code.content(self.request))).text

    def give(self, text: str, answer: Answer | None = None) -> None:
        requests.decide(self.ledger, self.request, text, answer=answer, now=self.now)

    @property
    def succeeded(self) -> bool:
        """Whether the run would go ahead."""
        found = requests.newest_of(self.ledger, self.question, self.now)
        return found is not None and found.approves(RUN)


Attack = Callable[[Scene], None]
ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__.strip("_").replace("_", " ")] = function
    return function


def _altered(name: str, change: Callable[[Code], Code]) -> None:
    def worst(scene: Scene) -> None:
        scene.give(change(scene.code()).text)

    ATTACKS[f"an honest answer, {name} altered"] = worst


_altered("its request", lambda code: replace(code, request="ask-" + "0" * 20))
_altered("its approver", lambda code: replace(code, approver="bob"))
_altered("its time, earlier,", lambda code: replace(code, issued_at=code.issued_at - timedelta(seconds=1)))
_altered("its time, later,", lambda code: replace(code, issued_at=code.issued_at + timedelta(seconds=1)))
_altered("its expiry, earlier,", lambda code: replace(code, expires_at=code.expires_at - timedelta(hours=1)))
_altered("its expiry, later,", lambda code: replace(code, expires_at=code.expires_at + timedelta(days=9)))
_altered("its nonce", lambda code: replace(code, nonce="0" * 16))
_altered("its signature, by a bit,", lambda code: replace(code, signature=_flipped(code.signature)))
_altered("its signature, truncated,", lambda code: replace(code, signature=code.signature[:-4]))
_altered("its signature, emptied,", lambda code: replace(code, signature=""))
_altered("its signature, all zero,", lambda code: replace(code, signature=encode(bytes(64))))
_altered("its signature, padded,", lambda code: replace(code, signature=code.signature + "=="))
_altered("its signature, in another spelling,", lambda code: replace(code, signature=_respelt(code.signature)))
_altered("its signature, with a larger scalar,", lambda code: replace(code, signature=_malleated(code.signature)))
_altered("its signature, in standard base64,", lambda code: replace(code, signature="+/" + code.signature[2:]))


def _flipped(signature: str) -> str:
    content = bytearray(decode(signature, 64))
    content[7] ^= 1
    return encode(bytes(content))


def _respelt(signature: str) -> str:
    """The last character carries four bits that decoding drops."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return signature[:-1] + letters[letters.index(signature[-1]) ^ 1]


def _malleated(signature: str) -> str:
    """S + L verifies where a library does not reduce; it would be a second code for the same answer."""
    content = decode(signature, 64)
    scalar = int.from_bytes(content[32:], "little") + _ORDER
    return encode(content[:32] + scalar.to_bytes(32, "little"))


def _spelt(name: str, change: Callable[[str], str]) -> None:
    def worst(scene: Scene) -> None:
        scene.give(change(scene.code().text))

    ATTACKS[f"a line {name}"] = worst


_spelt("that is empty", lambda _: "")
_spelt("that is long", lambda text: text * 100)
_spelt("with a part more", lambda text: text + ".x")
_spelt("with a part less", lambda text: text.rpartition(".")[0])
_spelt("in capitals", str.upper)
_spelt("with a NUL in it", lambda text: text[:40] + "\0" + text[40:])
_spelt("with a line break in it", lambda text: text.replace(".approve.", ".\napprove."))
_spelt("with a Cyrillic a in alice", lambda text: text.replace("alice", "\u0430lice"))
_spelt("with a full-width alice", lambda text: text.replace("alice", "\uff41lice"))
_spelt("with a zero-width space in alice", lambda text: text.replace("alice", "ali\u200bce"))
_spelt("with Arabic digits in its time", lambda text: text.replace(".20", ".\u0662\u0660", 1))
_spelt("with a day that does not exist", lambda text: text[:38] + "0231" + text[42:])
_spelt("that asks for something else", lambda text: text.replace(".approve.", ".promote."))
_spelt("that is percent-encoded", lambda text: text.replace(".", "%2E"))


@attack
def _a_rejection_turned_into_an_approval(scene: Scene) -> None:
    scene.give(replace(scene.code("reject"), answer="approve").text)


@attack
def _a_form_that_approves_with_the_code_of_a_rejection(scene: Scene) -> None:
    scene.give(scene.code("reject").text, "approve")


@attack
def _an_attacker_who_signs_for_alice(scene: Scene) -> None:
    scene.give(scene.signed(scene.code(), scene.mallory))


@attack
def _an_approver_who_signs_for_another(scene: Scene) -> None:
    scene.give(scene.signed(scene.code(), scene.bob))


@attack
def _an_attacker_under_his_own_name(scene: Scene) -> None:
    scene.give(scene.signed(replace(scene.code(), approver="mallory"), scene.mallory))


@attack
def _an_answer_to_another_request(scene: Scene) -> None:
    code = scene.code().text
    scene.ask(replace(QUESTION, subject="c" * 64))
    scene.give(code)


@attack
def _an_answer_to_another_request_with_its_name_changed(scene: Scene) -> None:
    code = scene.code()
    scene.give(replace(code, request=scene.ask(replace(QUESTION, subject="c" * 64)).id).text)


@attack
def _an_answer_about_the_package_before_it_changed(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, subject="c" * 64)


@attack
def _an_answer_about_the_verdict_before_it_changed(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, basis="c" * 64)


@attack
def _an_answer_about_another_action(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, action="change_threshold")


@attack
def _an_answer_about_another_pipeline(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, pipeline="other")


@attack
def _an_answer_to_somebody_else_who_asked(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, requested_by="person:alice")


@attack
def _an_older_request_for_the_same_package(scene: Scene) -> None:
    old = scene.code().text
    scene.give(scene.code("reject").text)
    requests.use(scene.ledger, requests.standing_of(scene.ledger, scene.request, scene.now), "run-0")
    scene.ask(QUESTION)
    scene.give(old)


@attack
def _an_approval_that_another_run_has_used(scene: Scene) -> None:
    scene.give(scene.code().text)
    requests.use(scene.ledger, requests.standing_of(scene.ledger, scene.request, scene.now), "run-0")
    requests.use(scene.ledger, requests.standing_of(scene.ledger, scene.request, scene.now), RUN)


@attack
def _an_approval_given_twice_for_two_runs(scene: Scene) -> None:
    code = scene.code().text
    scene.give(code)
    requests.use(scene.ledger, requests.standing_of(scene.ledger, scene.request, scene.now), "run-0")
    scene.ask(QUESTION)
    scene.give(code)


@attack
def _an_approval_after_a_rejection(scene: Scene) -> None:
    scene.give(scene.code("reject").text)
    scene.give(scene.code().text)


@attack
def _an_approval_after_too_many_wrong_codes(scene: Scene) -> None:
    for _ in range(RULE.max_tries):
        try:
            scene.give("wrong")
        except MillraceError:
            continue
    scene.give(scene.code().text)


@attack
def _an_approval_after_its_time(scene: Scene) -> None:
    code = scene.code().text
    scene.now = scene.request.expires_at
    scene.give(code)


@attack
def _an_approval_used_after_its_time(scene: Scene) -> None:
    scene.give(scene.code().text)
    scene.now = scene.request.expires_at + timedelta(seconds=1)


@attack
def _an_approver_whose_clock_is_ahead(scene: Scene) -> None:
    scene.give(sign(scene.request, "approve", "alice", scene.alice, scene.now + timedelta(minutes=3)).text)


@attack
def _an_approval_from_before_anybody_asked(scene: Scene) -> None:
    scene.give(sign(scene.request, "approve", "alice", scene.alice, scene.now - timedelta(minutes=3)).text)


@attack
def _an_approver_who_grants_himself_more_time(scene: Scene) -> None:
    longer = replace(scene.code(), expires_at=scene.request.expires_at.replace(microsecond=0) + timedelta(days=1))
    scene.give(scene.signed(longer, scene.alice))


def _asked_by(requested_by: str, name: str, approver: str) -> None:
    def worst(scene: Scene) -> None:
        scene.ask(replace(QUESTION, requested_by=requested_by))
        key = scene.alice if approver == "alice" else scene.bob
        scene.give(sign(scene.request, "approve", approver, key, scene.now).text)

    ATTACKS[f"who asked approves: {name}"] = worst


_asked_by("person:alice", "by his name", "alice")
_asked_by("person:robert", "under his name as an approver", "bob")
_asked_by("person:ALICE", "in capitals", "alice")
_asked_by("person:\uff41lice", "in full-width letters", "alice")
_asked_by("person: alice ", "with spaces around", "alice")
_asked_by("alice", "without saying that he is a person", "alice")


@attack
def _an_approver_who_is_removed_before_he_answers(scene: Scene) -> None:
    code = sign(scene.request, "approve", "bob", scene.bob, scene.now).text
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    scene.give(code)


@attack
def _an_approver_who_is_removed_after_he_answered(scene: Scene) -> None:
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)


@attack
def _an_approver_who_came_back_with_a_new_key(scene: Scene) -> None:
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    approvers.add(scene.ledger, "bob", PrivateKey.new().public, "robert", "alice", scene.alice)


@attack
def _an_approver_who_came_back_with_the_same_key(scene: Scene) -> None:
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    approvers.add(scene.ledger, "bob", scene.bob.public, "robert", "alice", scene.alice)


@attack
def _a_second_self_enrolled_after_the_question(scene: Scene) -> None:
    approvers.add(scene.ledger, "second", scene.mallory.public, "nobody", "bob", scene.bob)
    scene.give(sign(scene.request, "approve", "second", scene.mallory, scene.now).text)


@attack
def _an_attacker_who_enrols_himself(scene: Scene) -> None:
    approvers.add(scene.ledger, "mallory", scene.mallory.public, "mallory", "mallory", scene.mallory)


@attack
def _an_attacker_who_enrols_himself_in_the_name_of_alice(scene: Scene) -> None:
    approvers.add(scene.ledger, "mallory", scene.mallory.public, "mallory", "alice", scene.mallory)


def _enrolled(scene: Scene, by: str, head: str, key: PrivateKey) -> None:
    """Write an enrolment of mallory into the ledger by hand, then ask and answer as him."""
    said = {"public_key": scene.mallory.public, "person": "m", "by": by, "after": head}
    signature = key.sign(canonical_json(["millrace approvers 1", ADDED, "mallory", said]))
    scene.ledger.append(Fact(EVERYWHERE, ADDED, "mallory", {**said, "signature": signature}))
    scene.ask(replace(QUESTION, subject="c" * 64))
    scene.give(sign(scene.request, "approve", "mallory", scene.mallory, scene.now).text)


@attack
def _an_enrolment_written_by_hand_and_signed_by_the_attacker(scene: Scene) -> None:
    _enrolled(scene, "alice", approvers.read_roster(scene.ledger).head, scene.mallory)


@attack
def _an_enrolment_written_by_hand_as_if_it_were_the_first(scene: Scene) -> None:
    _enrolled(scene, "mallory", "nobody", scene.mallory)


@attack
def _an_enrolment_that_is_replayed(scene: Scene) -> None:
    entry = scene.ledger.entries(EVERYWHERE, ADDED, subject="bob")[0]
    approvers.remove(scene.ledger, "bob", "alice", scene.alice)
    scene.ledger.append(Fact(EVERYWHERE, ADDED, "bob", entry.detail))
    scene.ask(replace(QUESTION, subject="c" * 64))
    scene.give(sign(scene.request, "approve", "bob", scene.bob, scene.now).text)


def _written(scene: Scene, kind: str, detail: dict[str, object], actor: str = RUN) -> None:
    scene.ledger.append(Fact("tiny", kind, scene.request.id, detail, actor, scene.request.id))


@attack
def _a_decision_written_by_hand(scene: Scene) -> None:
    _written(scene, DECIDED, {"code": scene.signed(scene.code(), scene.mallory), "reason": ""})


@attack
def _a_decision_written_by_hand_that_is_no_code(scene: Scene) -> None:
    _written(scene, DECIDED, {"code": "approve", "reason": ""})


@attack
def _a_decision_written_by_hand_from_another_request(scene: Scene) -> None:
    other = requests.ask(scene.ledger, replace(QUESTION, subject="c" * 64), RULE, RUN).request
    code = sign(other, "approve", "alice", scene.alice, scene.now).text
    _written(scene, DECIDED, {"code": code, "reason": ""})


@attack
def _a_use_written_by_hand(scene: Scene) -> None:
    _written(scene, USED, {"state": "approved", "reason": "approved by alice", "approver": "alice"})


@attack
def _a_use_written_by_hand_after_a_rejection(scene: Scene) -> None:
    scene.give(scene.code("reject").text)
    _written(scene, USED, {"state": "approved", "reason": "approved by alice", "approver": "alice"})


@attack
def _a_use_written_by_hand_before_the_decision(scene: Scene) -> None:
    _written(scene, USED, {"state": "approved", "reason": "approved by alice"})
    _written(scene, DECIDED, {"code": scene.signed(scene.code(), scene.mallory), "reason": ""})


@attack
def _a_request_rewritten_to_be_about_another_package(scene: Scene) -> None:
    entry = scene.ledger.entries("tiny", REQUESTED, subject=scene.request.id)[0]
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, subject="c" * 64)
    scene.ledger.append(Fact("tiny", REQUESTED, scene.request.id, {**entry.detail, "subject": "c" * 64}))


@attack
def _a_request_written_by_hand_as_asked_by_nobody(scene: Scene) -> None:
    entry = scene.ledger.entries("tiny", REQUESTED, subject=scene.request.id)[0]
    planted = Fact("tiny", REQUESTED, "ask-" + "1" * 20, {**entry.detail, "subject": "c" * 64})
    scene.ledger.append(planted)
    scene.request = requests.find(scene.ledger, "ask-" + "1" * 20)
    scene.give(scene.code().text)
    scene.question = replace(QUESTION, subject="c" * 64, requested_by="person:alice")


def honest(scene: Scene) -> None:
    """What must succeed, or the attacks prove nothing."""
    scene.give(scene.code().text, "approve")


def play(folder: Path, worst: Attack) -> tuple[bool, str]:
    """Whether `worst` has the run go ahead, and what it was told."""
    shutil.copytree(_template(folder.parent), folder)
    with closing(Ledger(f"sqlite:///{folder}/ledger.db")) as ledger:
        scene = Scene.build(ledger)
        told = ""
        try:
            worst(scene)
        except MillraceError as error:
            told = error.what
        return scene.succeeded, told


def _template(folder: Path) -> Path:
    """A folder with an empty ledger, made once: migrating takes longer than an attack."""
    made = folder / "template"
    if not made.exists():
        with closing(Ledger(f"sqlite:///{made}/ledger.db")) as ledger:
            ledger.entries()
    return made


def measure() -> dict[str, int]:
    """Play every attack: how many there are, and how many were refused."""
    with tempfile.TemporaryDirectory() as folder:
        if not play(Path(folder) / "honest", honest)[0]:
            raise AssertionError("an honest approval is refused: the attacks prove nothing")
        refused = [not play(Path(folder) / str(number), worst)[0] for number, worst in enumerate(ATTACKS.values())]
    return {"approval_attacks": len(ATTACKS), "approval_refused": sum(refused)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure()) + "\n")
