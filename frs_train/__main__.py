"""`python -m frs_train` is `frs-train`."""

from frs_train import interrupt


def main() -> int:
    """Runs the command line of this process; returns the exit status. Imports wait until Ctrl-C is heard."""
    interrupt.listen(interrupt.leave)
    from frs_train.cli import main as command_line

    return command_line.main()


if __name__ == "__main__":
    raise SystemExit(main())
