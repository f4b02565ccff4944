"""The scenarios by name. Each is a function of a running `Deployment` that returns its figures, or raises what is wrong."""
import dataclasses
from typing import Callable


@dataclasses.dataclass
class Scenario:
    name: str
    sentence: str
    play: Callable
    figure: str                         # which of its figures the table shows
    lab_options: tuple = ()
    seat: dict = dataclasses.field(default_factory=dict)


SCENARIOS = {}


def scenario(name, sentence, figure, **more):
    def register(play):
        SCENARIOS[name] = Scenario(name, sentence, play, figure, **more)
        return play
    return register


from . import region_lost, leader_killed, cut_off, ledger_lost, fences_itself        # noqa: E402,F401  they register themselves
