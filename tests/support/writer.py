"""A job that writes shards under a lease: `python -m tests.support.writer FOLDER OWNER ASK DURATION RENEW [SHARDS]`.

It says on stdout what it did (`wrote 2`: the data of a shard, not yet its marker; `committed 2`, `lost 2`). With ASK
`yes` it waits between the two for a line on stdin. It ends as the command line does: exit code 1 and one line on stderr
where it was refused or overtaken.
"""

import sys
from pathlib import Path

from pipeline.artifacts.commit import Marker, commit, new_attempt, read_marker, shard_name, write_table
from pipeline.artifacts.lease import Lease
from pipeline.errors import StagedKDError
from tests.support.protocol import frames_table, slot, views

SHARDS = 6


def say(what: str, number: int) -> None:
    print(what, number, flush=True)


def write_shards(folder: Path, lease: Lease, ask: bool, shards: int) -> None:
    """Every shard of the first `shards` that is not committed yet."""
    for number in range(shards):
        if read_marker(folder, shard_name(number)) is not None:
            continue
        rows = [
            {"video_id": video, "clip_id": clip, "view_id": view}
            for video in (f"v{number}a", f"v{number}b")
            for clip, view in views(video)
        ]
        attempt = new_attempt()
        table = frames_table([slot(row) for row in rows])
        written = write_table(folder, f"{shard_name(number)}.{attempt}.parquet", table)
        say("wrote", number)
        if ask:
            sys.stdin.readline()
        lease.check()
        won = commit(folder, Marker(shard_name(number), attempt, (written,), None, {"owner": lease.owner}))
        say("committed" if won else "lost", number)


def main(folder: str, owner: str, ask: str, duration: str, renew: str, shards: str = str(SHARDS)) -> None:
    try:
        with Lease(Path(folder), owner, duration=float(duration), renew=float(renew)) as lease:
            write_shards(Path(folder), lease, ask == "yes", int(shards))
    except StagedKDError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
