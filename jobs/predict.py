"""`stagedkd predict`"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def main(
    videos: Annotated[list[str], Parameter(help="Video files of any format, in folders or at s3:// addresses")],
    /,
    *,
    model: Annotated[str, Parameter(help="Folder (or s3:// address) of an export or of a trained network")],
    top: Annotated[int, Parameter(help="How many classes to name")] = 5,
) -> None:
    """Top classes of video files, by name. Exit 1 where a file cannot be read; the others are still predicted."""
    from pipeline.artifacts.places import is_remote, place
    from pipeline.flow.predict import predict_videos

    paths = [place(video) if is_remote(video) else Path(video) for video in videos]
    found = predict_videos(paths, place(model), top=top)
    for prediction in found:
        print(prediction.path)
        for name, probability in prediction.classes:
            print(f"  {100 * probability:5.1f} %  {name}")
        if prediction.problem:
            print(f"  cannot be read: {prediction.problem}", file=sys.stderr)
    if any(prediction.problem for prediction in found):
        sys.exit(1)
