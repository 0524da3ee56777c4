"""Programs that the trainer's signal handling has to end, each the function named on the command line.

interrupted.py command ARGUMENT ...     # frs-train with these arguments; says "started" first
interrupted.py closing                  # a signal while something is open, and another one after it
interrupted.py importing                # a signal during an import, by a module that swallows exceptions
interrupted.py twice                    # a second signal while the first one closes what is open
interrupted.py ignoring                 # SIGTERM, which was ignored before
"""

import importlib
import os
import signal
import sys

from frs_train.interrupt import leave, listen, unwinding


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def command(arguments: list[str]) -> None:
    from frs_train.__main__ import main

    sys.argv[1:] = arguments
    print("started", flush=True)
    raise SystemExit(main())


def closing() -> None:
    listen(leave)
    try:
        with unwinding():
            send(signal.SIGTERM)
    except KeyboardInterrupt as interrupted:
        print("closed", interrupted.args[0])
    send(signal.SIGINT)
    print("too late")


def importing() -> None:
    listen(leave)
    with unwinding():
        try:
            importlib.import_module("interrupted_import")
        except BaseException:
            print("swallowed")


def twice() -> None:
    listen(leave)
    with unwinding():
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt:
            send(signal.SIGINT)
            print("too late")


def ignoring() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listen(leave)
    with unwinding():
        send(signal.SIGTERM)
    print("done")


if sys.argv[1] == "command":
    command(sys.argv[2:])
else:
    {"closing": closing, "importing": importing, "twice": twice, "ignoring": ignoring}[sys.argv[1]]()
