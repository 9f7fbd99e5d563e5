"""How long a request will take at each deployment of a group, given what is under way there.

Owns what was measured of a group's deployments and the counts of their outstanding tokens. The shape of a model's
latency is learnt from all of them together, each one's speed by itself: the deployments of a group serve one model, so
what differs is the machine. It chooses nothing. Read `LaneLoad.cost_seconds`.

Two lines make up the model. The first byte comes after ``a + p · x`` seconds, with x the prompt tokens outstanding at
the deployment, this request's included: prompts are read one after the other. Then each output token takes
``c + d · n`` seconds, with n the requests in flight: they share the machine.
"""

from __future__ import annotations

from collections.abc import Callable

PRIOR_FIRST_BYTE_SECONDS = 0.37
PRIOR_PROMPT_TOKENS = 550.0
PRIOR_TOKEN_SECONDS = 0.018
"""Before anything was measured: medians over five providers of Llama 2 (LLMPerf leaderboard, January 2024, Apache-2.0),
550 prompt tokens to the first byte and the time between two tokens."""

TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS = 1434.0, 154.0
"""Means of the Azure LLM inference trace of 2023, code and chat (CC BY 4.0)."""

_PRIOR_PROMPT_TOKEN_SECONDS = 0.0003  # a third of a second per thousand: the rest of the first byte is not the prompt
_PRIOR_SHARE_PER_REQUEST = 0.02  # each request in flight slows the others by so much of a token's time
_PRIOR_REQUESTS = 4.0
_PROMPT_RIDGE = 1e6  # squared tokens: one observation a thousand tokens from the mean counts as much as the prior
_REQUEST_RIDGE = 8.0  # squared requests
_SHAPE_MEMORY = 2000.0
_SPEED_MEMORY = 64.0
"""Observations after which one has lost all but 1/e of its weight. A shape changes with software, a speed with whoever
else uses the machine; in replays (bench/balancing.py) memories of 16 to 128 for the speed differ by less than 4 %."""

_MOST_AT_ONCE = 10.0  # times the prediction: more of one answer does not move a speed
_LEAST_SECONDS = 1e-6  # keeps quotients finite where everything takes no time
_STALE_SECONDS = 300.0


class _Line:
    """A straight line through observations that are forgotten, drawn towards a prior slope; never negative."""

    __slots__ = (
        "_count",
        "_cross",
        "_factor",
        "_memory",
        "_prior_slope",
        "_ridge",
        "_spread",
        "at_zero",
        "mean_x",
        "mean_y",
        "slope",
    )

    def __init__(
        self, x: float, y: float, *, prior_slope: Callable[[float], float], ridge: float, memory: float
    ) -> None:
        self.mean_x, self.mean_y = x, y
        self._count = 2.0
        self._spread = self._cross = 0.0
        self._prior_slope = prior_slope
        self._ridge = ridge
        self._memory = 1.0 - 1.0 / memory
        self._factor = 1.0
        self._fit()

    def at(self, x: float) -> float:
        return self.at_zero + self.slope * x

    def learn(self, x: float, y: float, factor: float) -> None:
        """Take one observation of a deployment with this factor into the means and products, and fit anew.

        The update is West's (Communications of the ACM 22, 1979). Divided by the deployment's factor alone, line and
        factors could drift away together; the mean factor ties them, so that it stays near 1.
        """
        kept = self._memory
        self._factor += (1.0 - kept) * (factor - self._factor)
        y = min(y * self._factor / factor, _MOST_AT_ONCE * self.at(x) + _LEAST_SECONDS)
        count = self._count = self._count * kept + 1.0
        step = x - self.mean_x
        self.mean_x += step / count
        self._cross = self._cross * kept + step * (y - self.mean_y) * (count - 1.0) / count
        self._spread = self._spread * kept + step * (x - self.mean_x)
        self.mean_y += (y - self.mean_y) / count
        self._fit()

    def _fit(self) -> None:
        slope = (self._cross + self._ridge * self._prior_slope(self.mean_y)) / (self._spread + self._ridge)
        highest = self.mean_y / self.mean_x if self.mean_x > 0.0 else 0.0
        self.slope = min(max(slope, 0.0), highest)
        self.at_zero = self.mean_y - self.slope * self.mean_x


class GroupPace:
    """The shape of the latency that the deployments of one group have in common."""

    __slots__ = ("first_byte", "token")

    def __init__(self) -> None:
        self.first_byte = _Line(
            PRIOR_PROMPT_TOKENS,
            PRIOR_FIRST_BYTE_SECONDS,
            prior_slope=lambda mean: _PRIOR_PROMPT_TOKEN_SECONDS,
            ridge=_PROMPT_RIDGE,
            memory=_SHAPE_MEMORY,
        )
        self.token = _Line(
            _PRIOR_REQUESTS,
            PRIOR_TOKEN_SECONDS,
            prior_slope=lambda mean: _PRIOR_SHARE_PER_REQUEST * mean,
            ridge=_REQUEST_RIDGE,
            memory=_SHAPE_MEMORY,
        )


class _Speed:
    """Measured over predicted time of one deployment: 1 is the group's mean, 2 is half as fast."""

    __slots__ = ("_measured", "_predicted", "factor")

    def __init__(self, weight_seconds: float) -> None:
        self._measured = self._predicted = weight_seconds
        self.factor = 1.0

    def learn(self, measured_seconds: float, predicted_seconds: float) -> None:
        kept = 1.0 - 1.0 / _SPEED_MEMORY
        most = _MOST_AT_ONCE * self.factor * predicted_seconds
        self._measured = self._measured * kept + min(max(measured_seconds, 0.0), most) + _LEAST_SECONDS
        self._predicted = self._predicted * kept + predicted_seconds + _LEAST_SECONDS
        self.factor = self._measured / self._predicted


class Passage:
    """One request on its way through a deployment.

    Attributes
    ----------
    input_tokens, output_tokens : float
        As predicted.
    prompt_tokens_ahead : float
        Outstanding when it began, its own included.
    in_flight : int
        Requests in flight when it began, then when its first byte came; itself included.
    first_byte_seconds : float or None
        None before, and for plain replies, whose first byte says nothing of when the answer began.
    """

    __slots__ = ("first_byte_seconds", "in_flight", "input_tokens", "output_tokens", "prompt_tokens_ahead")

    def __init__(self, input_tokens: float, output_tokens: float, prompt_tokens_ahead: float, in_flight: int) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.prompt_tokens_ahead = prompt_tokens_ahead
        self.in_flight = in_flight
        self.first_byte_seconds: float | None = None


class LaneLoad:
    """What is under way at one deployment, and how fast it is.

    Parameters
    ----------
    pace : GroupPace
        Shared by the deployments of a group.

    Attributes
    ----------
    in_flight : int
    prompt_tokens : float
        Of requests in flight whose first byte has not come; of plain ones until their end, since nobody sees more.
    output_tokens : float
        Predicted, of all requests in flight.
    """

    __slots__ = ("_first_byte", "_seen_at", "_token", "in_flight", "output_tokens", "pace", "prompt_tokens")

    def __init__(self, pace: GroupPace) -> None:
        self.pace = pace
        self.in_flight = 0
        self.prompt_tokens = 0.0
        self.output_tokens = 0.0
        self._first_byte = _Speed(1.0)
        self._token = _Speed(5.0)
        self._seen_at: float | None = None

    def own_seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Return how long a request would take here that began now."""
        first_byte = self._first_byte.factor * self.pace.first_byte.at(self.prompt_tokens + input_tokens)
        return first_byte + self._token.factor * output_tokens * self.pace.token.at(self.in_flight + 1)

    def cost_seconds(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a request would cost here: its own time and the delay of those in flight.

        Parameters
        ----------
        input_tokens, output_tokens : float, at least 0
            As predicted.

        Returns
        -------
        float
            Seconds.

        Notes
        -----
        ``F·(a + p·(P + i)) + T·o·(c + d·(n + 1)) + T·d·n·min(o, ½·O/n)``: F and T are the deployment's factors, P the
        outstanding prompt tokens, n the requests in flight and O their predicted output tokens, of which half are left
        on average; i and o are the request's own. The last term is what the others lose while they share the machine
        with it, so that the sum over all requests is kept small, not each one's own time.

        The plain sum of predicted seconds left, shrinking as time passes, was tried first and lost to least connections
        by 10 to 40 % at p99 in replays: it forgets the backlog of a deployment that is slower than it was, and its
        seconds mix reading prompts, which is serial, with writing answers, which is not.

        Examples
        --------
        >>> load = LaneLoad(GroupPace())
        >>> idle = load.cost_seconds(1000, 200)
        >>> passage = load.begin(1000, 200)
        >>> load.cost_seconds(1000, 200) > idle
        True
        """
        in_flight = self.in_flight
        own = self.own_seconds(input_tokens, output_tokens)
        if in_flight == 0:
            return own
        shared_tokens = min(output_tokens, 0.5 * self.output_tokens / in_flight)
        return own + self._token.factor * self.pace.token.slope * in_flight * shared_tokens

    def slowdown(self, in_flight: float, prompt_tokens: float) -> float:
        """Return how many times longer a typical request takes with this much under way than with nothing.

        Parameters
        ----------
        in_flight, prompt_tokens : float, at least 0
            Of one deployment.
        """
        first_byte, token = self.pace.first_byte, self.pace.token
        idle = first_byte.at(TYPICAL_INPUT_TOKENS) + TYPICAL_OUTPUT_TOKENS * token.at(1.0)
        prompts = prompt_tokens + TYPICAL_INPUT_TOKENS
        busy = first_byte.at(prompts) + TYPICAL_OUTPUT_TOKENS * token.at(in_flight + 1.0)
        return busy / idle if idle > 0.0 else 1.0

    def is_stale(self, now: float) -> bool:
        """Whether nothing is under way here and nothing was seen for minutes: then it is time to look again."""
        return self.in_flight == 0 and (self._seen_at is None or now - self._seen_at > _STALE_SECONDS)

    def begin(self, input_tokens: float, output_tokens: float) -> Passage:
        """Count a request that begins; it must come to `finish` or `abandon`."""
        self.prompt_tokens += input_tokens
        self.output_tokens += output_tokens
        self.in_flight += 1
        return Passage(input_tokens, output_tokens, self.prompt_tokens, self.in_flight)

    def note_first_byte(self, passage: Passage, seconds: float) -> None:
        """Learn from the first byte of a stream, `seconds` after it began."""
        passage.first_byte_seconds = seconds
        self.prompt_tokens -= passage.input_tokens
        line = self.pace.first_byte
        self._first_byte.learn(seconds, line.at(passage.prompt_tokens_ahead))
        line.learn(passage.prompt_tokens_ahead, seconds, self._first_byte.factor)
        passage.in_flight = self.in_flight

    def finish(self, passage: Passage, output_tokens: int, seconds: float, now: float) -> None:
        """Learn from a complete answer of so many tokens, `seconds` after it began.

        Of a plain reply only the whole time is known; it is divided as the prediction is.
        """
        in_flight = 0.5 * (passage.in_flight + self.in_flight)
        self._seen_at = now
        self._leave(passage)
        first_byte, token = self.pace.first_byte, self.pace.token
        tokens = max(1, output_tokens)
        predicted = tokens * token.at(in_flight)
        if passage.first_byte_seconds is not None:
            measured = seconds - passage.first_byte_seconds
        else:
            predicted_first = first_byte.at(passage.prompt_tokens_ahead)
            whole = self._first_byte.factor * predicted_first + self._token.factor * predicted
            ratio = seconds / whole if whole > 0.0 else 1.0
            measured_first = ratio * self._first_byte.factor * predicted_first
            measured = ratio * self._token.factor * predicted
            self._first_byte.learn(measured_first, predicted_first)
            first_byte.learn(passage.prompt_tokens_ahead, measured_first, self._first_byte.factor)
        self._token.learn(measured, predicted)
        token.learn(in_flight, max(0.0, measured) / tokens, self._token.factor)

    def abandon(self, passage: Passage, now: float) -> None:
        """Take a request out of the counts that has failed or was given up; nothing is learnt."""
        self._seen_at = now
        self._leave(passage)

    def _leave(self, passage: Passage) -> None:
        self.in_flight -= 1
        self.output_tokens = max(0.0, self.output_tokens - passage.output_tokens)
        if passage.first_byte_seconds is None:
            self.prompt_tokens = max(0.0, self.prompt_tokens - passage.input_tokens)
