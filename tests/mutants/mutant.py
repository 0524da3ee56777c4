"""One planted fault."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change of one place in one file, and the tests of which one has to fail with it."""

    name: str
    """What goes wrong, in a few words joined by hyphens."""
    file: str
    """Path from the root of the repository."""
    old: str
    """Text that stands once in the file: short, so that work beside it does not move it."""
    new: str
    tests: tuple[str, ...]
    """Arguments of pytest: files, or tests in them."""

    def planted(self, text: str) -> str:
        """The file's text with the fault in it. Raises ValueError where `old` does not stand once."""
        found = text.count(self.old)
        if found != 1:
            raise ValueError(
                f"{self.name}: its text stands {found} times in {self.file}, not once: {self.old!r}"
            )
        return text.replace(self.old, self.new)
