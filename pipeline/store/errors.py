"""What can go wrong with stored objects."""

from __future__ import annotations

from pipeline.errors import PipelineError


class StoreError(PipelineError):
    """The store cannot do what was asked."""


class ObjectMissing(StoreError):
    """No whole object of this sha256 is in the store."""

    def __init__(self, sha256: str, where: str) -> None:
        super().__init__(f"There is no object {sha256} in {where}: store its content there, or look in the right store")
        self.sha256 = sha256


class ObjectDamaged(StoreError):
    """The bytes of an object are not those that its sha256 promises."""

    def __init__(self, sha256: str, where: str, what: str) -> None:
        super().__init__(
            f"The object {sha256} in {where} is damaged ({what}): restore the store from a backup, "
            "or delete the object and store its content again"
        )
        self.sha256 = sha256


class StoreUnavailable(StoreError):
    """The store cannot be reached, is full or refuses this user."""


class ContentChanged(StoreError, ValueError):
    """The content was modified while it was being stored."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(
            f"The content changed while it was being stored (sha256 {expected} became {found}): "
            "store it again when nobody writes to it"
        )


class NotAnAddress(StoreError, ValueError):
    """A text is neither a sha256 in lower-case hex nor `trainloom://` followed by one."""


class UploadSwept(StoreError):
    """An upload took so long that a garbage collection took it for one whose process had died."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"Parts of an upload to {where} were removed before it ended: store the content again, "
            "and collect garbage with a longer grace period"
        )
