"""One planted fault."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One change in one file, and the tests of which at least one must fail with it."""

    name: str
    """What goes wrong, in a few words joined by hyphens."""
    file: str
    """Path from the root of the repository."""
    old: str
    """Text that occurs once in the file: as short as that allows, so that edits nearby do not touch it."""
    new: str
    tests: tuple[str, ...]
    """Files, or tests in files, as pytest takes them."""
    interpreted: bool = False
    """Whether the tests run in Triton's interpreter."""
    sanitizer: str = ""
    """Which of tests/sanitizers.py must find it while the tests run, whatever becomes of them; "": none."""

    def planted(self, text: str) -> str:
        """The file's text with the fault in it. Raises ValueError if `old` does not occur exactly once."""
        count = text.count(self.old)
        if count != 1:
            raise ValueError(
                f"{self.name}: its text occurs {count} times in {self.file} instead of once: {self.old!r}"
            )
        return text.replace(self.old, self.new)
