"""What inference costs the climate, by codecarbon where it is installed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..._extras import unmet


@dataclass(frozen=True)
class Carbon:
    """Of a thousand sequences, as codecarbon estimates it from the hardware's power and the country's electricity.

    Attributes:
        watt_hours: electricity.
        grams: of CO2 equivalents.
        country: three letters (ISO 3166).
        sequences: that were run to find out.
        tracker: what estimated it, with its version.
    """

    watt_hours: float
    grams: float
    country: str
    sequences: int
    tracker: str


def carbon_missing(country: str | None) -> str | None:
    """Why carbon cannot be told; None: it can."""
    missing = unmet("carbon", "an estimate of carbon")
    if missing:
        return missing
    return None if country else "the electricity's country is not given: carbon_country='DEU', for example"


def measure_carbon(run: Callable[[], object], sequences: int, country: str, seconds: float = 5.0) -> Carbon:
    """Run passes for some time under codecarbon's offline tracker, which asks no server.

    Args:
        run: one pass.
        sequences: in it.
        country: whose electricity it is, three letters.
        seconds: to measure for.

    Raises:
        OSError: when codecarbon gives no estimate; it has written down why.
    """
    import codecarbon

    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country, save_to_file=False, log_level="error", measure_power_secs=1, allow_multiple_runs=True
    )
    tracker.start()
    passes, end = 0, time.perf_counter() + seconds
    while not passes or time.perf_counter() < end:
        run()
        passes += 1
    kilograms = tracker.stop()
    if kilograms is None:
        raise OSError(f"codecarbon gives no estimate here: see what it logs, and whether {country!r} is a country")
    thousands = passes * sequences / 1000
    watt_hours = 1000 * tracker.final_emissions_data.energy_consumed
    return Carbon(
        watt_hours / thousands,
        1000 * kilograms / thousands,
        country,
        passes * sequences,
        f"codecarbon {codecarbon.__version__}",
    )
