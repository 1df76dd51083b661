import io

from rich.console import Console

from instep_ops.demo.figures import Figures, Pair, Stage, line, milliseconds
from instep_ops.demo.latency import Percentiles, Series, percentiles
from instep_ops.demo.screen import draw

FIGURES = Figures(
    phase="the shop is open",
    seconds=42,
    rate=15.2,
    changes=640,
    stages=[
        Stage("topic", Percentiles(12.3, 45.0), 640, "changes"),
        Stage("CRM", Percentiles(340.0, 4210.0), 200, "outcomes"),
    ],
    outcomes={"written": 190, "rejected": 2, "waiting": 3},
    pairs=[Pair("product_card", "SKU-00001", "name", "Blue Mug", "Blue Mug"), Pair("", "", "price", "4.20", "4.10")],
    processes={"capture:shop": 17, "worker:shop": None},
    restarts={"worker:shop": 3},
    event="worker:shop was killed",
    places=[("Kafka", "127.0.0.1:19092")],
)


def drawn(figures: Figures) -> str:
    out = io.StringIO()
    Console(file=out, width=120, color_system=None).print(draw(figures))
    return out.getvalue()


def test_the_picture_shows_every_figure() -> None:
    text = drawn(FIGURES)
    for word in ("15.2 changes/s", "640 since", "190 written", "2 rejected", "commit → topic", "12 ms", "4.2 s"):
        assert word in text
    for word in ("SKU-00001", "Blue Mug", "4.10", "worker:shop (restarted 3x)", "was killed", "127.0.0.1:19092"):
        assert word in text


def test_the_picture_is_drawn_before_anything_was_measured() -> None:
    assert "the shop opens" in drawn(Figures("the shop opens"))


def test_values_are_shown_as_they_are_not_as_markup() -> None:
    odd = Figures("x", pairs=[Pair("f", "[red]k", "name", "[bold]a\nb", "[/]")])
    assert "[red]k" in drawn(odd)
    assert "[bold]a · b" in drawn(odd)


def test_a_line_says_it_in_short() -> None:
    assert line(FIGURES) == (
        "the shop is open:   42 s; 15.2 changes/s (640); topic 12 ms, CRM 340 ms; 190 written, 2 rejected, 3 waiting"
    )


def test_latencies_read_well() -> None:
    assert [milliseconds(value) for value in (None, 0.4, 999.4, 1000, 61_000)] == [
        "-",
        "0 ms",
        "999 ms",
        "1.0 s",
        "61.0 s",
    ]


def test_percentiles_of_few_and_many() -> None:
    assert percentiles([]) == Percentiles(None, None)
    assert percentiles([7.0]) == Percentiles(7.0, 7.0)
    assert percentiles([float(n) for n in range(101)]) == Percentiles(50.0, 99.0)


def test_a_series_measures_from_the_commit_to_now() -> None:
    import time

    series = Series()
    series.add(time.time_ns() // 1000 - 250_000)
    measured = series.overall().p50
    assert measured is not None
    assert 250 <= measured < 1250
