"""A pipeline's folder: its spec and its code.

The code is loaded by path under a name of its own, so that folders may live anywhere and two pipelines may both
have a `model.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from millrace.errors import ConfigError, MillraceError, SourceError, UnknownNameError, nearest
from millrace.secrets import resolve
from millrace.spec import PipelineSpec
from millrace.spec.load import load_spec, pipeline_dir
from millrace.storage import digest_bytes

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from millrace.encoding import TableInputs
    from millrace.export import Exported
    from millrace.parallel import ParallelPlan
    from millrace.texts import TextInputs

    Inputs = TableInputs | TextInputs
    BuildModel = Callable[[Inputs, Mapping[str, object]], torch.nn.Module]


@runtime_checkable
class Source(Protocol):
    """Where a pipeline's rows come from. A pipeline's `source.py` has one class of this shape."""

    def extent(self) -> tuple[datetime, datetime]:
        """The half-open interval of event time that the source has rows for."""
        ...

    def fingerprint(self) -> str:
        """A digest of the raw data: equal fingerprints promise equal rows."""
        ...

    def rows(self, start: datetime, end: datetime, as_of: datetime) -> pd.DataFrame:
        """The rows whose event lies in [start, end), as they were known at `as_of`: no later outcome, no later fact."""
        ...


@runtime_checkable
class WindowedSource(Protocol):
    """A source that knows which of its data a window is made from: a new period makes no old shard another."""

    def window_fingerprint(self, start: datetime, end: datetime) -> str:
        """A digest of the raw data of [start, end): equal ones promise equal rows of that window."""
        ...


@dataclass(frozen=True)
class Pipeline:
    """A spec and the folder it was read from."""

    spec: PipelineSpec
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def code_digest(self) -> str:
        """Digest of the folder's Python files: it changes when the pipeline's code does."""
        parts = [f"{path.name}:{digest_bytes(path.read_bytes())}" for path in sorted(self.folder.glob("*.py"))]
        return digest_bytes("\n".join(parts).encode())

    @cached_property
    def source(self) -> Source:
        """The pipeline's source, built with its options.

        Raises:
            ConfigError: the module or class cannot be loaded.
            SourceError: the class refuses its options.
        """
        factory = self._load(self.spec.data.source, "data.source")
        try:
            source = factory(**self._source_options())
        except MillraceError:
            raise
        except Exception as error:
            raise SourceError(
                f"pipeline '{self.name}': {self.spec.data.source} cannot be built with data.source_options",
                got=f"{type(error).__name__}: {error}",
                next=f"correct data.source_options or {self.folder}/source.py",
            ) from error
        if not isinstance(source, Source):
            raise SourceError(
                f"pipeline '{self.name}': {self.spec.data.source} is no source",
                allowed="a class with extent(), fingerprint() and rows(start, end, as_of)",
            )
        return source

    def _source_options(self) -> dict[str, Any]:
        try:
            options: dict[str, Any] = resolve(self.spec.data.source_options)
        except KeyError as error:
            raise ConfigError(
                f"pipeline '{self.name}': data.source_options names an environment variable that is not set",
                got=error.args[0],
                next="set it where the stack is started, and start the stack again: `millrace down`, `millrace up`",
            ) from None
        return options

    @property
    def build_model(self) -> BuildModel:
        """The pipeline's build function, (inputs, options) -> torch module."""
        build: BuildModel = self._load(self.spec.model.build, "model.build")
        return build

    def parallel_plan(self, inputs: Inputs) -> ParallelPlan:
        """How the module can be cut; without `model.plan` in the spec, nowhere.

        Raises:
            ConfigError: the function cannot be loaded, or gives no plan.
        """
        from millrace.parallel import ParallelPlan

        reference = self.spec.model.plan
        if reference is None:
            return ParallelPlan()
        plan = self._load(reference, "model.plan")(inputs, self.spec.model.options)
        if not isinstance(plan, ParallelPlan):
            raise ConfigError(
                f"model.plan: {reference} gives no plan",
                got=type(plan).__name__,
                allowed="a millrace.parallel.ParallelPlan",
                next=f"correct {self.folder}/{reference.partition(':')[0]}.py",
            )
        return plan

    def exported(self, inputs: Inputs, options: Mapping[str, object], weights: Mapping[str, torch.Tensor]) -> Exported:
        """The model that was built with these inputs and options and has these weights, as other programs know it.

        Raises:
            ConfigError: the spec names no function for it, it cannot be loaded, or gives something else.
        """
        from millrace.export import Exported

        reference = self.spec.model.export
        if reference is None:
            raise ConfigError(
                f"pipeline '{self.name}' does not say what its model is called elsewhere",
                allowed="model.export in its pipeline.yaml: module:function that gives a millrace.export.Exported",
                next="add it; pipelines/byte_lm has one for models like Llama",
            )
        exported = self._load(reference, "model.export")(inputs, options, weights)
        if not isinstance(exported, Exported):
            raise ConfigError(
                f"model.export: {reference} gives nothing that can be written",
                got=type(exported).__name__,
                allowed="a millrace.export.Exported",
                next=f"correct {self.folder}/{reference.partition(':')[0]}.py",
            )
        return exported

    def _load(self, reference: str, field: str) -> Any:
        module_name, _, attribute = reference.partition(":")
        module = load_module(self.folder, module_name, field)
        if not hasattr(module, attribute):
            public = [name for name in vars(module) if not name.startswith("_")]
            raise UnknownNameError(
                f"{field}: {module_name}.py has no '{attribute}'",
                allowed=nearest(attribute, public),
                next=f"correct {field}",
            )
        return getattr(module, attribute)


def load_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline `name` below `pipelines_dir`; its code is loaded only when it is used."""
    folder = pipeline_dir(name, pipelines_dir)
    return Pipeline(load_spec(folder), folder)


def load_module(folder: Path, module_name: str, field: str) -> ModuleType:
    """`folder`/`module_name`.py as a module.

    Raises:
        ConfigError: the file is missing or raises when imported.
    """
    path = folder / f"{module_name}.py"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.py")]
        raise UnknownNameError(
            f"{field}: {path} does not exist", allowed=nearest(module_name, known), next=f"correct {field}"
        )
    identity = digest_bytes(str(path.resolve()).encode() + path.read_bytes())
    qualified = f"millrace_pipelines.{folder.name}.{identity[:12]}.{module_name}"
    if qualified in sys.modules:
        return sys.modules[qualified]
    spec = importlib.util.spec_from_file_location(qualified, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{field}: {path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[qualified] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[qualified]
        raise ConfigError(
            f"{field}: {path} raises when it is imported",
            got=f"{type(error).__name__}: {error}",
            next="correct the file",
        ) from error
    return module
