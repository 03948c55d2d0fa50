"""Sections about running and showing: run, storage, precompute, evaluate, export, report, cluster, tracking."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section, runtime
from pipeline.config.networks import GivenTeacher


class Run(Section):
    """The name under which results, report and references to artefacts are kept; default: recipe's stem and key."""

    name: str | None = runtime(None)


class Codec(Section):
    """How targets are stored: all logits, or the `top_k` largest with what is needed to sum over the rest.

    `temperatures` are those at which losses will read top-k targets: the tail's log-sum-exp is stored for each.
    """

    dtype: Literal["float16", "float32"] = "float16"
    byte_stream_split: bool = Field(
        False, description="10–30 % smaller files, which DuckDB cannot read for half floats"
    )
    top_k: int | None = Field(None, ge=1)
    temperatures: tuple[float, ...] = ()


class Limits(Section):
    """What a video may ask of a decoder before it is refused as too_large: against decompression bombs."""

    frame_pixels: int = runtime(16384 * 8192, ge=1)
    frames: int = runtime(1_000_000, ge=1)
    file_megabytes: int = runtime(4096, ge=1)
    memory_megabytes: int = runtime(2048, ge=256)


class Precompute(Section):
    """Decoding and the teacher's pass. The reader, the device and the number type decide values and so enter keys.

    `frames`: the cache of rasters, raw uint8 or one JPEG per frame; `none` keeps the targets alone, which nothing here
    can be trained from. `more_teachers` are taken as they are and label in the same decoding pass.

    `together`: one actor decodes and labels in turn, so that no pixels change hands. For teachers on the decoders' own
    CPUs; an accelerator, which would wait meanwhile, is refused. There are `decoders` + `teachers` such actors, as far
    as they fit, each with the larger of both numbers of CPUs and with the teachers in its memory. null: wherever the
    teachers are networks on CPUs with one thread each (`train.threads`) and ask for no more CPUs than the decoders,
    which ask for one at most.
    """

    frames: Literal["raw", "jpeg", "none"] = "raw"
    jpeg_quality: int = Field(95, ge=50, le=100)
    reader: Literal["decord", "pyav", "torchcodec"] = "decord"
    codec: Codec = Codec()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    more_teachers: tuple[GivenTeacher, ...] = ()
    limits: Limits = Limits()
    deadline: float = runtime(20.0, gt=0)
    max_bad_share: float = runtime(0.1, gt=0, le=1)
    decoders: int = runtime(2, ge=1)
    min_decoders: int = runtime(1, ge=1)
    decode_cpus: float = runtime(0.9, gt=0)
    teachers: int = runtime(1, ge=1)
    min_teachers: int = runtime(1, ge=1)
    teacher_cpus: float = runtime(0.9, gt=0)
    together: bool | None = runtime(None)
    open_shards: int = runtime(16, ge=1)


class Storage(Section):
    """Where artefacts lie: below the workspace, or at `root`, a folder or an s3:// address that every node reaches.

    Addresses and secrets of object stores come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …), never
    from a recipe. `single_writer` says that no second job writes there: only then will a store do that has no
    conditional writes.
    """

    root: str | None = runtime(None)
    single_writer: bool = runtime(False)


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
