"""From a pipeline's folder to its `PipelineSpec`, with messages a person can act on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from millrace.errors import SpecError, UnknownNameError, nearest, shorten, shown
from millrace.spec import PipelineSpec

FILE_NAME = "pipeline.yaml"
_MAX_PROBLEMS = 8
_MAX_CHARS = 300
_MAX_BYTES = 1_000_000
# Aliases let a few lines name billions of values; a spec of this many is beyond what a person writes.
_MAX_VALUES = 200_000
# For tags written out (`!!bool maybe`) PyYAML raises what its code happens to hit. ValueError: also no UTF-8, or a date
# like 2013-02-30. RecursionError: hundreds of nested brackets.
_UNREADABLE = (
    OSError, ValueError, yaml.YAMLError, LookupError, AttributeError, TypeError, ArithmeticError, RecursionError,
)  # fmt: skip


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; this one refuses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise SpecError(
                    f"{FILE_NAME}: key '{shorten(key)}' appears twice",
                    got=f"line {key_node.start_mark.line + 1}",
                    next="keep one of the two",
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def pipeline_names(pipelines_dir: Path) -> list[str]:
    """Names of the folders that hold a `pipeline.yaml`."""
    return sorted(path.parent.name for path in pipelines_dir.glob(f"*/{FILE_NAME}"))


def pipeline_dir(name: str, pipelines_dir: Path) -> Path:
    """Folder of the pipeline `name`.

    Raises:
        UnknownNameError: there is no such folder.
    """
    known = pipeline_names(pipelines_dir)
    if name not in known:
        raise UnknownNameError(
            f"no pipeline '{name}' in {pipelines_dir}",
            allowed=nearest(name, known),
            next="write one with `millrace new`, or point MILLRACE_PIPELINES_DIR at its parent folder",
        )
    return pipelines_dir / name


def require_served(name: str, pipelines_dir: Path) -> None:
    """Refuse a pipeline whose models answer no requests.

    Raises:
        UnknownNameError: there is no such pipeline.
        SpecError: its pipeline.yaml is broken.
        ConfigError: its models answer none.
    """
    load_spec(pipeline_dir(name, pipelines_dir)).require_served()


def load_spec(folder: Path) -> PipelineSpec:
    """The spec in `folder`/pipeline.yaml.

    Raises:
        SpecError: it cannot be read, or a field is unknown, of a wrong type or contradicts another.
    """
    path = folder / FILE_NAME
    try:
        document = _document(path)
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist", next="write one with `millrace new`") from None
    except _UNREADABLE as error:
        raise SpecError(f"{path} cannot be read", got=_told(error), next="correct the YAML") from error
    spec = parse_spec(document, str(path))
    if spec.name != folder.name:
        raise SpecError(
            f"{path}: field 'name' differs from its folder's",
            got=spec.name,
            allowed=f"'{folder.name}'",
            next="rename one",
        )
    return spec


def _document(path: Path) -> object:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
    loader = _UniqueKeyLoader(content.decode("utf-8"))
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _size(node, {})) > _MAX_VALUES:
            raise ValueError(f"with its aliases it has {size:.3g} values, at most {_MAX_VALUES:,} are allowed")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, sizes: dict[int, float]) -> float:
    """The number of values in the document under `node`, each alias written out; infinite where it holds itself."""
    if id(node) not in sizes:
        sizes[id(node)] = math.inf  # what an alias to a node that is still open finds
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1.0 + sum(_size(child, sizes) for child in children)
    return sizes[id(node)]


def _told(error: Exception) -> str:
    """One line of what PyYAML tells in several."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else str(error)


def parse_spec(document: object, where: str = FILE_NAME) -> PipelineSpec:
    """The spec in a parsed YAML document.

    Raises:
        SpecError: naming each wrong field by its dotted path.
    """
    if not isinstance(document, dict):
        raise SpecError(
            f"{where} must be a mapping of sections", got=document, allowed=", ".join(PipelineSpec.model_fields)
        )
    try:
        return PipelineSpec.model_validate(document)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise _spec_error(where, problems) from None


def _spec_error(where: str, problems: Sequence[ErrorDetails]) -> SpecError:
    shown = [_describe(problem) for problem in problems[:_MAX_PROBLEMS]]
    more = f"\n  … and {len(problems) - _MAX_PROBLEMS} more problems" if len(problems) > _MAX_PROBLEMS else ""
    count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
    return SpecError(
        f"{where}: {count}\n  " + "\n  ".join(shown) + more,
        next="correct the file; `millrace schema` lists every field",
    )


def _describe(problem: ErrorDetails) -> str:
    dotted = shorten(".".join(_path(problem["loc"])))
    kind, got = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"field '{dotted}' is not known: {nearest(str(problem['loc'][-1]), _siblings(problem['loc']))}"
    if kind == "missing":
        return f"field '{dotted}' is required and missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        message = shorten(message, _MAX_CHARS)
        return f"in '{dotted}': {message}" if dotted else message
    rule = message[0].lower() + message[1:]
    text = shown(got)
    return f"field '{dotted}': got {text if len(text) < 80 else text[:77] + '…'}, {shorten(rule, _MAX_CHARS)}"


def _path(location: tuple[int | str, ...]) -> Iterator[str]:
    """The location without the discriminator values that pydantic puts into it."""
    model: Any = PipelineSpec
    for part in location:
        model, is_tag = _step(model, part)
        if not is_tag:
            yield str(part)


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    model: Any = PipelineSpec
    for part in location[:-1]:
        model, _ = _step(model, part)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _step(model: Any, part: int | str) -> tuple[Any, bool]:
    """What lies under `part` of `model`, and whether `part` is the tag of a union, not a key."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(str(part))
        return (None if field is None else field.annotation), False
    arguments = get_args(model)
    tagged = {
        str(value): argument
        for argument in _flatten(arguments)
        if isinstance(argument, type) and issubclass(argument, BaseModel) and "kind" in argument.model_fields
        for value in get_args(argument.model_fields["kind"].annotation)
    }
    if part in tagged and getattr(model, "__origin__", None) is not dict:
        return tagged[str(part)], True
    return (arguments[-1] if arguments else None), False


def _flatten(arguments: tuple[Any, ...]) -> Iterator[Any]:
    for argument in arguments:
        inner = get_args(argument)
        yield argument
        yield from _flatten(inner)
