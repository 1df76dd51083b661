from hypothesis import given
from hypothesis import strategies as st

from instep_streams.delivery.budget import Budget, Lane, spend


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Bucket:
    """Keeps the level in memory, by the test's clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.level, self.at = clock, 10.0, clock()

    async def spend(self, cost: float, rate: float, burst: float, floor: float) -> float:
        self.level, wait = spend(self.level, self.clock() - self.at, cost, rate, burst, floor)
        self.at = self.clock()
        return wait


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.1, 30)), max_size=50), st.floats(1, 20))
def test_no_more_calls_than_the_rate_allows(calls: list[tuple[float, float]], rate: float) -> None:
    level, clock, taken = rate, 0.0, 0.0
    for elapsed, cost in calls:
        wait = 1.0
        while wait > 0:
            level, wait = spend(level, elapsed, cost, rate, rate)
            clock += elapsed
            elapsed = wait
        taken += cost
    largest = max((cost for _, cost in calls), default=0)
    assert taken <= rate + clock * rate * 1.001 + largest


async def test_it_waits_for_the_budget() -> None:
    clock = Clock()
    budget = Budget(Bucket(clock), 10, clock=clock)
    for _ in range(5):
        await budget.take(10, clock.sleep)
    assert 3.99 < clock.now - 1000 < 4.01


async def test_a_replay_leaves_half_of_it_to_live_documents() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    replay = Budget(bucket, 10, Lane.REPLAY, clock=clock)
    live = Budget(bucket, 10, clock=clock)
    await replay.take(5, clock.sleep)
    assert bucket.level == 5
    await live.take(5, clock.sleep)
    assert clock.now == 1000
    await replay.take(1, clock.sleep)
    assert clock.now > 1000.5


async def test_without_a_limit_nothing_is_asked() -> None:
    clock = Clock()
    budget = Budget(Bucket(clock), 0, clock=clock)
    await budget.take(1e9, clock.sleep)
    assert clock.now == 1000


async def test_a_pause_of_the_target_holds_everyone_back() -> None:
    clock = Clock()
    budget = Budget(Bucket(clock), 0, clock=clock)
    budget.pause("account", 30)
    budget.pause("account", 5)
    assert budget.paused == 30
    await budget.take(1, clock.sleep)
    assert clock.now == 1030
