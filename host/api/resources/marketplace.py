"""What the indexes have, over HTTP: search, and how the installed plugins stand to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import Field

from host.api.endpoint import Answer, Call, Endpoint, View
from host.identity.access import Role
from host.supply.index.findings import Installed, Problem, Standing
from host.supply.index.index_client import MAX_FOUND, Indexes

BASE: Final = "/api/v1/marketplace"


class SearchQuery(View):
    """Words that are all in the plugin's id; all plugins where there are none."""

    q: Annotated[str, Field(max_length=200)] = ""
    limit: Annotated[int, Field(ge=1, le=MAX_FOUND)] = 20


class UpdatesQuery(View):
    """`all` has the plugins, too, of which there is nothing to say."""

    all: bool = False


class ProblemView(View):
    """Why an index could not be asked, or a plugin not looked up."""

    index: str | None
    code: str
    message: str


class FoundView(View):
    """A plugin of an index; `version` is what would be installed, `installed` what is."""

    id: str
    index: str
    version: str | None
    installed: str | None


class SearchView(View):
    """What was found; `more` where that is not all."""

    plugins: list[FoundView]
    more: bool
    problems: list[ProblemView]


class UpdateView(View):
    """An installed plugin and what its index has.

    `yanked` is why the index took the installed version back, which may be empty; null where it did not.
    """

    id: str
    version: str
    index: str | None
    latest: str | None
    outdated: bool
    yanked: str | None
    quarantined: bool
    problem: ProblemView | None


class Marketplace:
    """The handlers.

    Args:
        indexes: What is asked.
        installed: The plugins of this host, with the index that each is bound to.
    """

    def __init__(self, indexes: Indexes, installed: Callable[[], Sequence[Installed]]) -> None:
        self._indexes = indexes
        self._installed = installed

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The rows of the table."""
        return (
            Endpoint(
                "GET",
                BASE,
                "searchMarketplace",
                "Search the indexes for plugins.",
                Role.VIEWER,
                self.search,
                query=SearchQuery,
                response=SearchView,
            ),
            Endpoint(
                "GET",
                BASE + "/updates",
                "listUpdates",
                "List the installed plugins that are outdated, yanked or in quarantine.",
                Role.VIEWER,
                self.updates,
                query=UpdatesQuery,
                response=UpdateView,
                many=True,
            ),
        )

    async def search(self, call: Call) -> Answer:
        """Plugins by words of their ids."""
        query: SearchQuery = call.query
        result = await self._indexes.search(query.q, limit=query.limit)
        versions = {one.plugin: one.version for one in self._installed()}
        found = [
            FoundView(id=one.plugin, index=one.index, version=one.version, installed=versions.get(one.plugin))
            for one in result.found
        ]
        return Answer(SearchView(plugins=found, more=result.more, problems=[_problem(one) for one in result.problems]))

    async def updates(self, call: Call) -> Answer:
        """Plugins that somebody should do something about, or all."""
        query: UpdatesQuery = call.query
        found = await self._indexes.latest(self._installed())
        return Answer([_update(one) for one in found if query.all or _notable(one)])


def _notable(one: Standing) -> bool:
    return one.outdated or one.quarantined or one.yanked is not None or one.problem is not None


def _update(one: Standing) -> UpdateView:
    return UpdateView(
        id=one.plugin,
        version=one.version,
        index=one.index,
        latest=one.latest,
        outdated=one.outdated,
        yanked=one.yanked,
        quarantined=one.quarantined,
        problem=None if one.problem is None else _problem(one.problem),
    )


def _problem(one: Problem) -> ProblemView:
    return ProblemView(index=one.index, code=one.code, message=one.message)
