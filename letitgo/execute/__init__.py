"""Where values are computed: this process or worker processes. A study does not know which."""

from letitgo.execute.executor import Executor as Executor
from letitgo.execute.executor import Failure as Failure
from letitgo.execute.executor import Progress as Progress
from letitgo.execute.jobs import Job as Job
from letitgo.execute.jobs import plan_jobs as plan_jobs
