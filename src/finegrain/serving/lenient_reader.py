"""Read a damaged archive as far as possible, or one without classes."""

from collections.abc import Iterator
from pathlib import Path

from finegrain.core.errors import UserError
from finegrain.sources.archive import open_archive
from finegrain.sources.layout import ArchiveImage, BadMember, Member


class LenientReader:
    """The images of an archive of any layout, whether or not all of it can be read.

    Raises:
        UserError: nothing of it can be read.
    """

    def __init__(self, file: Path) -> None:
        self._part = open_archive(file)
        self.ignored = self._part.ignored
        """The files that are not images."""
        self.damage: str | None = None
        """Why the list of images is incomplete; None if it is complete."""
        members: list[Member] = []
        try:
            for member in self._part.members(strict=False):
                members.append(member)
        except UserError as error:
            if not members:
                raise
            self.damage = str(error).removeprefix(f"{file}: ")
        self._members = sorted(members, key=lambda member: member.order)
        self.paths = [member.path for member in self._members]
        """In reading order."""

    def contents(self) -> Iterator[bytes | BadMember]:
        """The bytes of each image of ``paths``, or the reason why it cannot be read."""
        images = (
            (ArchiveImage(index, member.path, self._part.name, None, ""), member.entry)
            for index, member in enumerate(self._members)
        )
        return (data for _, data in self._part.contents(images))
