"""The command line: lazy subcommands (heavy imports wait until a command needs them), logs on stderr, exit codes.

The last line of stdout is the artefact's path. Exit 0 done, 1 failed, 2 wrong configuration or input.
"""

import logging
import os
import sys

from cyclopts import App, CycloptsError

from pipeline.errors import StagedKDError

COMMANDS = {
    "run": "All steps in order; what is done is skipped.",
    "simulate": "Write the simulated videos of a recipe.",
    "manifest": "Scan the folder of videos and extend the plans.",
    "refine-labels": "Fit fold models and refine the labels.",
    "fit-teacher": "Fit the teacher on the refined labels.",
    "precompute": "Decode the views and store the teacher's targets.",
    "verify": "Check stored targets against plan, teacher and videos.",
    "distill": "Train assistants, student and controls from stored targets.",
    "evaluate": "Read the evaluation split once and write the metrics.",
    "report": "Write the HTML page of a run.",
    "export": "Write the student as safetensors and torch.export program, with a model card.",
    "sweep": "Search substage weights and cascade depth on the validation split.",
    "compact": "Gather small files of frames and targets in large ones.",
    "gc": "List, or delete, what no marker and no run refers to.",
    "predict": "Top-5 classes of any video file.",
    "bench": "Measure on this machine, and print tables.",
}


def build() -> App:
    """The application with all commands by name; a command's module is imported when it is used."""
    app = App(name="stagedkd", help="Staged knowledge distillation of video classifiers on a Ray cluster.")
    for name, line in COMMANDS.items():
        app.command(f"jobs.{name.replace('-', '_')}:main", name=name, help=line)
    return app


def main() -> None:
    """Entry point of the console command."""
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("STAGEDKD_LOG", "INFO"),
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for noisy in ("alembic", "mlflow", "ray", "matplotlib", "PIL", "torch", "urllib3", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        build()(exit_on_error=False, print_error=True)
    except CycloptsError:
        sys.exit(2)
    except StagedKDError as error:
        print(f"stagedkd: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stagedkd: interrupted; the same command goes on from what is done", file=sys.stderr)
        sys.exit(130)
