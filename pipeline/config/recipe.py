"""The whole recipe."""

from pipeline.config.base import Section, runtime
from pipeline.config.data import Classes, Manifest, Plan, Simulate, Views
from pipeline.config.method import Cascade, Distill, Labels, Sweep
from pipeline.config.networks import Assistants, Network, Student, Teacher, Train
from pipeline.config.runs import Cluster, Evaluate, Export, Precompute, Report, Run, Storage, Tracking


class Recipe(Section):
    """Everything that one run needs. Sections without an entry in the YAML file take their defaults."""

    workspace: str = runtime("workspace")
    run: Run = Run()
    storage: Storage = Storage()
    simulate: Simulate | None = None
    manifest: Manifest = Manifest()
    classes: Classes = Classes()
    plan: Plan = Plan()
    views: Views = Views()
    teacher: Teacher = Teacher()
    assistants: Assistants = Assistants()
    student: Student = Student()
    precompute: Precompute = Precompute()
    labels: Labels = Labels()
    cascade: Cascade = Cascade()
    distill: Distill = Distill()
    train: Train = Train()
    sweep: Sweep | None = None
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    report: Report = Report()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @property
    def assistant_network(self) -> Network:
        """The network that assistants are: the section's own, or the student's, which is widened."""
        own = self.assistants
        if own.model is None:
            return self.student
        return Network(model=own.model, options=own.options, weights=own.weights, transform=own.transform)
