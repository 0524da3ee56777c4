"""What a user can put right: one paragraph that names the file or record and says what to do."""


class UserError(Exception):
    """Shown as one paragraph without a traceback; the process then exits with code 2."""


class Stopped(Exception):
    """The run was asked to stop by a signal and has saved itself; `code` is the exit status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
