"""The commands by which people approve: `millrace approvals`, `approve`, `reject`, `approvers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

Request = Annotated[str, typer.Argument(help="The request, as `millrace approvals` lists it.")]
As = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Which approver you are; default: the only key you have.")
]
Reason = Annotated[str, typer.Option("--reason", help="A note for the record.")]
OnlyCode = Annotated[
    bool, typer.Option("--code", help="Only print the signed line for the form in the Prefect UI; decide nothing.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout, for scripts.")]

Tell = Callable[[Any, bool, str], None]


def register(app: typer.Typer, tell: Tell) -> None:
    """Add the commands to `app`; `tell` prints an answer (what, as JSON, by which function of `flows.show`)."""

    @app.command()
    def approvals(
        context: typer.Context,
        name: Annotated[str | None, typer.Argument(help="Only of this pipeline.")] = None,
        everything: Annotated[bool, typer.Option("--all", help="Answered and expired ones too.")] = False,
        as_json: Json = False,
    ) -> None:
        """List what waits for a person, with the evidence."""
        from flows.approve import list_requests

        tell(list_requests(context.obj, name, everything), as_json, "approvals")

    @app.command()
    def approve(
        context: typer.Context,
        request: Request,
        approver: As = None,
        reason: Reason = "",
        code: OnlyCode = False,
        as_json: Json = False,
    ) -> None:
        """Approve a request with your key; the flow run that waits for it goes on."""
        _answer(context, request, "approve", approver, reason, code, as_json)

    @app.command()
    def reject(
        context: typer.Context,
        request: Request,
        approver: As = None,
        reason: Reason = "",
        code: OnlyCode = False,
        as_json: Json = False,
    ) -> None:
        """Reject a request with your key; the flow run that waits for it goes on, and what serves stays."""
        _answer(context, request, "reject", approver, reason, code, as_json)

    def _answer(
        context: typer.Context, request: str, answer: Any, approver: str | None, reason: str, code: bool, as_json: bool
    ) -> None:
        from flows.approve import answer_request, print_code

        if code:
            printed = print_code(context.obj, request, answer, approver)
            tell(printed, as_json, "code")
        else:
            tell(answer_request(context.obj, request, answer, approver, reason), as_json, "answered")

    app.add_typer(
        _approvers(tell),
        name="approvers",
        help="Who may approve what waits: list them, add one, remove one.",
    )


def _approvers(tell: Tell) -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None)

    @app.command("list")
    def list_(context: typer.Context, as_json: Json = False) -> None:
        """List who may approve, and who vouched for them."""
        from flows.approve import list_approvers

        tell(list_approvers(context.obj), as_json, "approvers")

    @app.command()
    def add(
        context: typer.Context,
        name: Annotated[str, typer.Argument(help="Name of the approver: lower case, digits, - and _.")],
        public_key: Annotated[
            str | None, typer.Option("--public-key", help="His public key, when he made his key on another machine.")
        ] = None,
        person: Annotated[
            str | None, typer.Option("--person", help="His name in the operating system; default: yours.")
        ] = None,
        by: Annotated[
            str | None, typer.Option("--by", metavar="NAME", help="The approver who vouches for him; default: you.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Enrol an approver. His private key is written to a file that only you can read, below MILLRACE_APPROVER_KEYS.

        The first approver vouches for himself, every later one needs the key of one who is enrolled.
        """
        from flows.approve import add_approver

        tell(add_approver(context.obj, name, public=public_key, person=person, by=by), as_json, "approver_added")

    @app.command()
    def remove(
        context: typer.Context,
        name: Annotated[str, typer.Argument(help="Name of the approver.")],
        by: Annotated[
            str | None, typer.Option("--by", metavar="NAME", help="The approver who signs it; default: you.")
        ] = None,
        as_json: Json = False,
    ) -> None:
        """Take an approver off the list; what he approved and nobody has used yet is void."""
        from flows.approve import remove_approver

        tell(remove_approver(context.obj, name, by), as_json, "approver_removed")

    return app
