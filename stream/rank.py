"""Stage 4, rank: one call for the whole micro-batch, and what to do when there is no answer."""

from collections.abc import Iterator

import structlog

from stream.fold import Folded
from stream.keys import PADDING_KEY
from stream.pipeline import Pipeline
from stream.ranking import NO_RANKING, Candidate, Ranked, RankerUnavailable, Ranking
from stream.recommendation import ModelVersion

log = structlog.get_logger()


async def rank(pipeline: Pipeline, folded: Folded) -> Ranking:
    """Rank the catalogue for every user who wants a slate and has a history."""
    deployment, rules = pipeline.deployment(), pipeline.rules
    inputs = {
        user: folded.rows[user].ranker_input(rules.history_length) for user in folded.wanting_slates
    }
    known = {user: history for user, history in inputs.items() if len(history.item_keys)}
    if deployment is None or not known:
        return NO_RANKING
    try:
        ranked = await pipeline.ranker.rank(
            list(known.values()),
            version=deployment.version,
            deadline_s=rules.ranker_deadline_s,
        )
    except RankerUnavailable as error:
        # The message begins with one of few words, which is what a metric's label may be.
        pipeline.observe.count_ranker_unavailable(str(error).partition(":")[0])
        log.warning("ranker_unavailable", reason=str(error), users=len(known))
        return NO_RANKING
    model = ModelVersion(name=deployment.model, version=deployment.version)
    return Ranking(dict(zip(known, _candidates(ranked), strict=True)), model)


def _candidates(ranked: Ranked) -> Iterator[list[Candidate]]:
    for keys, scores in zip(ranked.item_keys.tolist(), ranked.scores.tolist(), strict=True):
        yield [
            (key, score, "ranker")
            for key, score in zip(keys, scores, strict=True)
            if key != PADDING_KEY
        ]
