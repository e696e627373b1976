"""Stage 4, rank: who is ranked by which version, and what to do when there is no answer."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress, repeat
from time import perf_counter
from typing import NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from stream.deployments import Deployment
from stream.fold import Folded
from stream.history import ranker_inputs
from stream.keys import PADDING_KEY
from stream.pipeline import Pipeline
from stream.ranking import (
    NO_RANKING,
    Answer,
    Candidate,
    RankerInputs,
    RankerUnavailable,
    Ranking,
)
from stream.recommendation import ModelVersion

log = structlog.get_logger()

READ_AT_FIRST = 24  # candidates of each user; most slates are full by then


class _Group(NamedTuple):
    """Whom one version is asked about."""

    users: Mapping[str, int]  # to their places in `histories`
    histories: RankerInputs


async def rank(pipeline: Pipeline, folded: Folded) -> Ranking:
    """
    Rank the catalogue for every user who wants a slate and has a history.

    The users of a canary's share are asked of that version, all others of the serving one, both
    at once. Whom the canary fails, the serving version ranks.
    """
    deployment = pipeline.deployment()
    groups = _by_version(pipeline, deployment, folded) if deployment is not None else {}
    if deployment is None or not groups:
        return NO_RANKING
    asked = [
        _ask_or_fall_back(pipeline, deployment, version, group) for version, group in groups.items()
    ]
    answers = [answer for answer in await asyncio.gather(*asked) if answer is not None]
    return Ranking(
        candidates={user: found for answer in answers for user, found in _candidates(answer)},
        models={
            user: ModelVersion(name=deployment.model, version=answer.version)
            for answer in answers
            for user in answer.users
        },
        answers=answers,
        unanswered=sum(len(one.users) for one in groups.values())
        - sum(len(one.users) for one in answers),
    )


def _by_version(pipeline: Pipeline, deployment: Deployment, folded: Folded) -> Mapping[str, _Group]:
    users = list(folded.wanting_slates)
    histories = ranker_inputs([folded.rows[user] for user in users], pipeline.rules.history_length)
    versions = np.array([deployment.version_for(user) for user in users], object)
    versions[histories.lengths == 0] = None  # nobody is asked about those without a history
    groups = {}
    for version in set(versions.tolist()) - {None}:
        chosen = versions == version
        some = {user: place for place, user in enumerate(compress(users, chosen))}
        groups[version] = _Group(some, histories.where(chosen))
    return groups


async def _ask_or_fall_back(
    pipeline: Pipeline, deployment: Deployment, version: str, group: _Group
) -> Answer | None:
    answer = await _ask(pipeline, version, group)
    if answer is not None or version == deployment.version:
        return answer
    answer = await _ask(pipeline, deployment.version, group)
    if answer is not None:  # then it was the canary's own fault, and not Triton's
        pipeline.versions.fell_back(version)
    return answer


async def _ask(pipeline: Pipeline, version: str, group: _Group) -> Answer | None:
    started = perf_counter()
    try:
        ranked = await pipeline.ranker.rank(
            group.histories,
            version=version,
            deadline_s=pipeline.rules.ranker_deadline_s,
        )
    except RankerUnavailable as error:
        pipeline.versions.failed(version, error.kind)
        log.warning(
            "ranker_unavailable", version=version, reason=str(error), users=len(group.users)
        )
        return None
    pipeline.versions.answered(version, perf_counter() - started)
    return Answer(version, group.users, group.histories, ranked)


def _candidates(answer: Answer) -> Iterator[tuple[str, Iterable[Candidate]]]:
    ranked = answer.ranked
    has_any = (ranked.item_keys[:, 0] != PADDING_KEY).tolist()
    for place, (user, some) in enumerate(zip(answer.users, has_any, strict=True)):
        if some:
            yield user, _listed(ranked.item_keys[place], ranked.scores[place])


def _listed(keys: NDArray[np.int64], scores: NDArray[np.float32]) -> Iterator[Candidate]:
    # A slate reads some twenty of two hundred: lists of them all would be most of the work.
    for some in slice(READ_AT_FIRST), slice(READ_AT_FIRST, None):
        yield from zip(keys[some].tolist(), scores[some].tolist(), repeat("ranker"))
