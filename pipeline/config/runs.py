"""Sections about running and showing: run, precompute, evaluate, export, report, cluster, tracking."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section, runtime


class Run(Section):
    """The name under which results, report and references to artefacts are kept; default: recipe's stem and key."""

    name: str | None = runtime(None)


class Codec(Section):
    """How targets are stored."""

    dtype: Literal["float16", "float32"] = "float16"
    byte_stream_split: bool = Field(
        False, description="10–30 % smaller files, which DuckDB cannot read for half floats"
    )


class Precompute(Section):
    """Decoding and the teacher's pass. The reader, the device and the number type decide values and so enter keys."""

    reader: Literal["decord", "pyav"] = "decord"
    codec: Codec = Codec()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    deadline: float = runtime(20.0, gt=0)
    decoders: int = runtime(2, ge=1)
    decode_cpus: float = runtime(0.9, gt=0)
    teachers: int = runtime(1, ge=1)
    teacher_cpus: float = runtime(0.9, gt=0)


class Evaluate(Section):
    """Which split is read, and how sure the figures are."""

    split: Literal["val", "test"] = "test"
    bootstrap: int = Field(2000, ge=100)
    latency_runs: int = runtime(20, ge=3)


class Export(Section):
    """What the model card says and which formats are written beside safetensors."""

    licence: str | None = None
    data: str | None = None
    onnx: bool = False
    tolerance: float = Field(1e-3, gt=0)


class Report(Section):
    """The HTML page."""

    title: str | None = None
    gallery: int = Field(12, ge=0)


class Expect(Section):
    """What an autoscaling cluster may grow to."""

    CPU: float | None = runtime(None, ge=0)
    GPU: float | None = runtime(None, ge=0)


class Cluster(Section):
    """Which Ray cluster, and how much of it. `address: null` starts one on this machine."""

    address: str | None = runtime(None)
    max_cpus: float | None = runtime(None, gt=0)
    max_gpus: float | None = runtime(None, ge=0)
    expect: Expect = Expect()
    startup_timeout: float = runtime(600.0, gt=0)
    dashboard: bool = runtime(True)


class Tracking(Section):
    """MLflow: MLFLOW_TRACKING_URI, then `uri`, then SQLite in the workspace."""

    uri: str | None = runtime(None)
    experiment: str = runtime("stagedkd")
    enabled: bool = runtime(True)
