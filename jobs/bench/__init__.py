"""`stagedkd bench`: measurements that anyone can repeat. Each prints Markdown tables and the path of a JSON file.

They need a quiet machine; `--quick` only shows that they run.
"""

from cyclopts import App

main = App(name="bench", help="Measure on this machine, and print tables.")
precompute = App(name="precompute", help="Precompute against what its parts allow.")
precompute.command(
    "jobs.bench.commands:throughput",
    name="throughput",
    help="Pipeline, bound and a plain loop of processes, in clips per second.",
)
precompute.command("jobs.bench.commands:memory", name="memory", help="Peak memory over few and over many clips.")
precompute.command(
    "jobs.bench.commands:resume", name="resume", help="A resume with nothing to do, and a plan of ten million views."
)
main.command(precompute)
main.command("jobs.bench.heads:main", name="heads", help="Heads on a frozen backbone, by cross-validation over groups.")
main.command("jobs.bench.figures:main", name="figures", help="Write README's figures from a finished run of the demo.")
main.command(
    "jobs.bench.frame_cache:main", name="frame-cache", help="Bytes, speed and accuracy of raw and of JPEG frames."
)
