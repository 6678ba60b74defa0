"""Where values are computed: this process or worker processes. A study does not know which."""

from letitgo.execute.executor import Executor, Failure, Progress
from letitgo.execute.jobs import Job, plan_jobs

__all__ = ["Executor", "Failure", "Job", "Progress", "plan_jobs"]
