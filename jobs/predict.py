"""`stagedkd predict`"""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def main(
    videos: Annotated[list[Path], Parameter(help="Video files of any format")],
    /,
    *,
    model: Annotated[Path, Parameter(help="Folder of an export or of a trained network")],
    top: Annotated[int, Parameter(help="How many classes to name")] = 5,
) -> None:
    """Top classes of video files, by name. Exit 1 where a file cannot be read; the others are still predicted."""
    from pipeline.flow.predict import predict_videos

    found = predict_videos(videos, model, top=top)
    for prediction in found:
        print(prediction.path)
        for name, probability in prediction.classes:
            print(f"  {100 * probability:5.1f} %  {name}")
        if prediction.problem:
            print(f"  cannot be read: {prediction.problem}", file=sys.stderr)
    if any(prediction.problem for prediction in found):
        sys.exit(1)
