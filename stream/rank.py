"""Stage 4, rank: who is ranked by which version, and what to do when there is no answer."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from time import perf_counter

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
    RankerInput,
    RankerUnavailable,
    Ranking,
)
from stream.recommendation import ModelVersion

log = structlog.get_logger()

READ_AT_FIRST = 24  # candidates of each user; most slates are full by then

Histories = Mapping[str, RankerInput]  # by user


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
        _ask_or_fall_back(pipeline, deployment, version, histories)
        for version, histories in groups.items()
    ]
    answers = [answer for answer in await asyncio.gather(*asked) if answer is not None]
    return Ranking(
        candidates={user: found for answer in answers for user, found in _candidates(answer)},
        models={
            user: ModelVersion(name=deployment.model, version=answer.version)
            for answer in answers
            for user in answer.histories
        },
        answers=answers,
        unanswered=sum(map(len, groups.values())) - sum(len(one.histories) for one in answers),
    )


def _by_version(
    pipeline: Pipeline, deployment: Deployment, folded: Folded
) -> Mapping[str, Histories]:
    groups: defaultdict[str, dict[str, RankerInput]] = defaultdict(dict)
    users = list(folded.wanting_slates)
    histories = ranker_inputs([folded.rows[user] for user in users], pipeline.rules.history_length)
    for user, history in zip(users, histories, strict=True):
        if len(history.item_keys):
            groups[deployment.version_for(user)][user] = history
    return groups


async def _ask_or_fall_back(
    pipeline: Pipeline, deployment: Deployment, version: str, histories: Histories
) -> Answer | None:
    answer = await _ask(pipeline, version, histories)
    if answer is not None or version == deployment.version:
        return answer
    answer = await _ask(pipeline, deployment.version, histories)
    if answer is not None:  # then it was the canary's own fault, and not Triton's
        pipeline.versions.fell_back(version)
    return answer


async def _ask(pipeline: Pipeline, version: str, histories: Histories) -> Answer | None:
    started = perf_counter()
    try:
        ranked = await pipeline.ranker.rank(
            list(histories.values()),
            version=version,
            deadline_s=pipeline.rules.ranker_deadline_s,
        )
    except RankerUnavailable as error:
        pipeline.versions.failed(version, error.kind)
        log.warning("ranker_unavailable", version=version, reason=str(error), users=len(histories))
        return None
    pipeline.versions.answered(version, perf_counter() - started)
    return Answer(version, histories, ranked)


def _candidates(answer: Answer) -> Iterator[tuple[str, Iterable[Candidate]]]:
    ranked = answer.ranked
    has_any = (ranked.item_keys[:, 0] != PADDING_KEY).tolist()
    for place, (user, some) in enumerate(zip(answer.histories, has_any, strict=True)):
        if some:
            yield user, _listed(ranked.item_keys[place], ranked.scores[place])


def _listed(keys: NDArray[np.int64], scores: NDArray[np.float32]) -> Iterator[Candidate]:
    # A slate reads some twenty of two hundred: lists of them all would be most of the work.
    for some in slice(READ_AT_FIRST), slice(READ_AT_FIRST, None):
        yield from zip(keys[some].tolist(), scores[some].tolist(), repeat("ranker"))
