"""The benches' own parts on tiny films: listing, rows, worker processes, the stand-in for an accelerator, /proc."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.bench.accelerator import build
from jobs.bench.arms import InProcess, Job, plan_rows
from jobs.bench.crew import run_crew
from jobs.bench.processes import STORE, WHOLE, Sampler, memory, process, tree
from jobs.bench.videos import Films, write_films, write_listing
from jobs.bench.workload import CORES, Workload, plain_teacher, pools
from pipeline.artifacts.commit import read_markers, read_object
from pipeline.artifacts.schemas import column
from pipeline.config.load import read_recipe
from pipeline.errors import InputError, JobError
from pipeline.flow.teacher_stage import TeacherJob
from pipeline.manifest.plan import extend_plan
from pipeline.manifest.scan import scan
from pipeline.video.views import draw, view_keys

VIDEOS = 12


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    work = tmp_path_factory.mktemp("bench")
    found = Workload(work, Films(3, 0.5, 64, 48), (16, 16), 2, 1, slots=2, batches=2)
    assert len(list(found.folder.glob("*.mp4"))) == 3
    return found


def test_a_listing_names_few_files_many_times(load: Workload, tmp_path: Path) -> None:
    write_listing(tmp_path / "root", load.folder, 7)
    entries = scan(tmp_path / "root", "csv")
    assert [entry.video_id for entry in entries] == [f"video-{number:08d}" for number in range(7)]
    assert [entry.uri for entry in entries][2:5] == ["films/00002.mp4", "films/00000.mp4", "films/00001.mp4"]
    assert {entry.split for entry in entries} == {"train"}
    with pytest.raises(InputError, match="holds no film"):
        write_listing(tmp_path / "root", tmp_path, 7)


def test_films_are_written_once(load: Workload) -> None:
    path = next(load.folder.glob("*.mp4"))
    before = path.stat().st_mtime_ns
    assert write_films(load.work / "films", load.films) == load.folder
    assert path.stat().st_mtime_ns == before


def test_the_recipe_is_one_that_precompute_takes(load: Workload) -> None:
    recipe = read_recipe(load.write("run", 8, plain_teacher(load.work)[1], pools(2, 1, separate=True)))
    assert (recipe.plan.shard_views, recipe.plan.micro_batch) == (4, 2)
    assert recipe.views.eval.splits == ()
    section = recipe.precompute
    used = section.decoders * section.decode_cpus + section.teachers * section.teacher_cpus
    assert CORES - 0.11 < used <= CORES - 0.1 + 1e-9  # all that reading leaves


def test_naive_workers_share_the_shards_and_store_what_the_teacher_says(load: Workload, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    sources = {f"video-{number:08d}": "1:1" for number in range(VIDEOS)}
    extend_plan(plan, sources, lambda video: view_keys(video, load.policy), shard_views=4, micro_batch=2)
    write_listing(tmp_path / "root", load.folder, VIDEOS)
    for name in ("claims", "out"):
        (tmp_path / name).mkdir()
    folder, _ = plain_teacher(load.work)
    places = {"plan": str(plan), "root": str(tmp_path / "root"), "claims": str(tmp_path / "claims")}
    job = Job("naive", load, 0, 1, TeacherJob(str(folder), load.slots), None, **places, out=str(tmp_path / "out"))
    found = run_crew(job, 2)
    assert (found.clips, found.processes) == (VIDEOS, 2)
    assert found.rate == pytest.approx(VIDEOS / found.seconds)
    table = pa.concat_tables([pq.read_table(path) for path in (tmp_path / "out").glob("*.parquet")])
    table = table.sort_by("clip_id").combine_chunks()
    assert table.column("video_id").to_pylist() == sorted(sources)
    assert np.array_equal(column(table, "logits"), expected(load))


def expected(load: Workload) -> np.ndarray:
    paths, rasters = sorted(load.folder.glob("*.mp4")), []
    for number in range(VIDEOS):
        views = [draw(load.policy, *key) for key in view_keys(f"video-{number:08d}", load.policy)]
        rasters += [view.frames for view in InProcess().decode(paths[number % 3], views, load.policy)]
    slots = [np.stack(rasters[start : start + load.slots]) for start in range(0, VIDEOS, load.slots)]
    return np.concatenate([build()(raster)["logits"] for raster in slots]).astype(np.float16)


def test_planned_rows_are_those_of_the_plan(load: Workload, tmp_path: Path) -> None:
    sources = {f"video-{number:08d}": "1:1" for number in range(4)}
    extend_plan(tmp_path, sources, lambda video: view_keys(video, load.policy), shard_views=4, micro_batch=2)
    (shard, marker), *_ = read_markers(tmp_path, "shard-").items()
    write_listing(tmp_path / "root", load.folder, 4)
    rows = plan_rows(read_object(tmp_path, marker.objects[0]), shard, tmp_path / "root")
    assert [row["video_ids"] for row in rows] == [
        ["video-00000000", "video-00000001"],
        ["video-00000002", "video-00000003"],
    ]
    assert [Path(uri).name for uri in rows[1]["uris"]] == ["00002.mp4", "00000.mp4"]


def test_a_timed_arm_works_until_its_time_is_over(load: Workload) -> None:
    folder, _ = plain_teacher(load.work, 0.05)
    decode = run_crew(Job("decode", load, 0, 1, None, 0.3), 1)
    assert decode.clips >= load.slots
    assert decode.cpu_seconds > 0  # of the child, too
    teacher = run_crew(Job("teacher", load, 0, 1, TeacherJob(str(folder), load.slots), 0.4), 2)
    assert 0 < teacher.rate < 1.5 * load.slots / 0.05  # two processes share one device; alone they would do twice


def test_a_worker_that_fails_is_reported(load: Workload) -> None:
    missing = replace(load, work=load.work / "nowhere", films=Films(0, 1.0, 16, 16))
    with pytest.raises(JobError, match="ended with code 1"):
        run_crew(Job("decode", missing, 0, 1, None, 0.1), 1)


def test_the_device_takes_one_micro_batch_at_a_time_and_no_processor(tmp_path: Path) -> None:
    raster = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16, 3), dtype=np.uint8)
    devices = [build(seconds=0.2, lock=str(tmp_path / "lock")) for _ in range(2)]
    began, cpu = time.monotonic(), time.process_time()
    threads = [threading.Thread(target=device, args=(raster,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    waited = time.monotonic() - began
    assert waited >= 0.4
    assert time.process_time() - cpu < waited / 2
    first = build()(raster)
    assert np.array_equal(first["logits"], devices[0](raster)["logits"])
    assert not np.array_equal(first["logits"], build()(raster[::-1].copy())["logits"])


def test_processes_are_told_apart_by_what_they_started() -> None:
    child = "import time; held = bytearray(60 << 20); print('up', flush=True); time.sleep(60)"
    parent = f"""import subprocess, sys
subprocess.run([sys.executable, '-c', {child!r}, 'pipeline.video.child'])"""
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        sampler = Sampler(started.pid, 0.02).start()
        until = time.monotonic() + 20
        while len(sampler.readings) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        found = tree(started.pid)
        sampler.stop()
        for pid in found:
            subprocess.run(["kill", "-9", str(pid)], check=False)
    assert sorted(sampler.kinds().values()) == ["decode child", "driver"]
    peaks = sampler.peaks()
    assert peaks["decode child"] > 60 << 20 > peaks["driver"]
    assert STORE in peaks
    assert peaks[WHOLE] >= peaks["decode child"]
    assert sampler.peaks(begin=time.time() + 10) == {}
    most = sampler.most()
    assert most["decode child"] > 60 << 20 > most["driver"]
    assert all(most[kind] >= peaks[kind] for kind in most)  # whole pages, and nothing missed
    assert process(started.pid) is None
    assert memory(started.pid) == (0, 0, 0)


def test_a_peak_that_is_over_still_counts() -> None:
    line = "held = bytearray(60 << 20); del held; print('up', flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", line], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        own, _, most = memory(started.pid)
        started.kill()
    assert own < 30 << 20
    assert most > 60 << 20


def test_jobs_survive_the_way_to_a_worker(load: Workload) -> None:
    from dataclasses import asdict

    job = Job("teacher", load, 1, 2, TeacherJob("folder", 4, "cuda"), 3.0, plan="p")
    assert Job.from_json(json.loads(json.dumps(asdict(job), default=str))) == job
