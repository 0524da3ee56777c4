"""The subcommands by name, in the order of `--help`."""

from frs_train.cli.benchmark import BENCHMARK
from frs_train.cli.digits import DEMO, MAKE_DIGITS
from frs_train.cli.evaluation import EVAL, VISUALIZE
from frs_train.cli.export import EXPORT
from frs_train.cli.predict import PREDICT
from frs_train.cli.report import REPORT
from frs_train.cli.study import STUDY
from frs_train.cli.training import DISTILL, TRAIN

COMMANDS = {
    "train": TRAIN,
    "distill": DISTILL,
    "eval": EVAL,
    "visualize": VISUALIZE,
    "predict": PREDICT,
    "report": REPORT,
    "study": STUDY,
    "benchmark": BENCHMARK,
    "export": EXPORT,
    "demo": DEMO,
    "make-digits": MAKE_DIGITS,
}
