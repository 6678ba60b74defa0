"""The grammar of reports: what is shown is data, and one renderer each makes text, a page and figures of it."""

from letitgo.report.grammar import NEW as NEW
from letitgo.report.grammar import TEST as TEST
from letitgo.report.grammar import TRAINING as TRAINING
from letitgo.report.grammar import Column as Column
from letitgo.report.grammar import N as N
from letitgo.report.grammar import Report as Report
from letitgo.report.grammar import Section as Section
from letitgo.report.grammar import Table as Table
from letitgo.report.grammar import by_block as by_block
from letitgo.report.grammar import pivot as pivot
