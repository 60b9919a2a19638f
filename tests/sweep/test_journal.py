"""What runs next: every run has one turn, whoever is killed, and rows count more than the journal."""

import json
import os
import signal
import time

import pytest

from tests.processes import start_python
from tests.sweep.conftest import needs_optuna

pytestmark = needs_optuna
GRID = {"budget": ["4bits", "3bits"], "seed": [0, 1]}
OPEN = {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}, "budget": ["4bits", "3bits"], "bits": [[2, 4], 3]}


@pytest.fixture
def journal(tmp_path):
    """Opens the journal of a plan in one folder, as a process of its own would."""
    from hf_mpq.sweep.journal import Journal

    return lambda plan: Journal(tmp_path, plan)


def row_of(plan, turn, score=50.0):
    key = plan.key(turn.task, turn.point)
    return {**key, "score": score, "megabytes": 1.0, "run": turn.name, "point": dict(turn.point)}


def finish(journal, plan, *turns):
    for turn in turns:
        journal.done(turn, row_of(plan, turn))


def states(journal):
    return [(one["name"], one["state"]) for one in journal.states()]


def test_two_processes_share_the_runs_in_the_order_of_the_plan(journal, plan):
    made = plan(tasks=("sst2", "cola"), space=GRID)
    first, second = journal(made), journal(made)
    turns = [(first, second)[number % 2].take() for number in range(8)]
    asked = [(turn.task, turn.point["budget"], turn.point["seed"]) for turn in turns]
    assert asked == [(task, point["budget"], point["seed"]) for task, point in made.points()]
    assert first.take() is None and {state for _, state in states(second)} == {"running"}
    finish(second, made, *turns)
    assert states(first) == [] and first.take() is None and len(first.results.rows) == 8
    assert all(turn.point["max_steps"] == 2 for turn in turns), "what is the same in all is there too"


KILLED = """
import sys, time
from hf_mpq.sweep import Plan
from hf_mpq.sweep.journal import Journal
turn = Journal(sys.argv[1], Plan.load(sys.argv[1])).take()
print(turn.name, flush=True)
time.sleep(600)
"""


def test_the_run_of_a_killed_process_gets_another_turn_and_no_other_is_lost(journal, plan, tmp_path):
    made = plan(space=GRID)
    made.keep(tmp_path)
    process = start_python(["-c", KILLED, tmp_path], tmp_path)
    try:
        name = _first_line(tmp_path / "stdout", process)
        mine = journal(made)
        (other,) = [mine.take()]
        assert other.name != name and (name, "running") in states(mine)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert (name, "waiting") in states(mine) and (other.name, "running") in states(mine)
    finish(mine, made, other)
    names = []
    while (turn := mine.take()) is not None:
        names.append(turn.name)
        finish(mine, made, turn)
    assert len(names) == 3 and names.count(name) == 1 and states(mine) == []


def _first_line(file, process):
    while process.is_alive() and not (file.exists() and file.read_text().endswith("\n")):
        time.sleep(0.05)
    return file.read_text().strip()


def test_a_row_that_was_written_before_its_process_was_killed_counts(journal, plan):
    made = plan(space=GRID)
    killed = journal(made)
    turn = killed.take()
    killed.results.add(**row_of(made, turn))
    turn.lock.release()  # as the system does
    assert turn.name not in dict(states(journal(made))) and len(states(journal(made))) == 3


def test_half_a_line_of_a_killed_process_is_dropped(journal, plan, tmp_path):
    made = plan(space=GRID)
    first = journal(made)
    finish(first, made, first.take())
    for name in ("journal.log", "results.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"op_code": 4, "tas')
    again = journal(made)
    finish(again, made, again.take())
    finish(first, made, first.take())
    assert len(journal(made).results.rows) == 3 and len(states(journal(made))) == 1
    assert [json.loads(line)["budget"] for line in (tmp_path / "results.jsonl").open()] == ["4bits", "3bits", "4bits"]


def test_a_damaged_journal_is_named_and_made_again_from_the_rows(journal, plan, tmp_path):
    made = plan(space=GRID)
    first, file = journal(made), tmp_path / "journal.log"
    finish(first, made, first.take())
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0][:9] + "\n", *lines[1:]]))
    with pytest.raises(ValueError, match=r"journal\.log is damaged .*: delete it .*results\.jsonl"):
        journal(made)
    file.unlink()
    assert len(states(journal(made))) == 3


def test_a_damaged_row_is_named(journal, plan, tmp_path):
    (tmp_path / "results.jsonl").write_text('{"task": "sst2"\n{}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 1 is damaged .*remove it"):
        journal(plan(space=GRID))
    (tmp_path / "results.jsonl").write_text("3\n")
    with pytest.raises(ValueError, match=r"line 1 is no row"):
        journal(plan(space=GRID))


def test_what_failed_is_told_and_gets_another_turn_when_it_is_asked_for(journal, plan):
    made = plan(space=GRID)
    first = journal(made)
    turn = first.take()
    first.failed(turn, ValueError("too\nsmall"))
    finish(first, made, *(first.take() for _ in range(3)))
    (one,) = journal(made).states()
    assert (one["name"], one["state"], one["error"]) == (turn.name, "failed", "ValueError: too small")
    assert first.take() is None
    journal(made).retry()
    journal(made).retry()
    again = first.take()
    assert again.name == turn.name and again.point == turn.point and first.take() is None
    finish(first, made, again)
    assert states(first) == []


def test_an_open_search_tries_as_many_points_as_were_asked_for(journal, plan):
    made = plan(tasks=("sst2", "cola"), space=OPEN, trials=4)
    first = journal(made)
    turns = [first.take() for _ in range(8)]
    assert first.take() is None and [turn.task for turn in turns].count("cola") == 4
    for turn in turns:
        assert 1e-5 <= turn.point["learning_rate"] <= 1e-3 and turn.point["bits"] in ([2, 4], 3)
    assert len({turn.point["learning_rate"] for turn in turns}) == 8 == len({turn.name for turn in turns})
    finish(first, made, *turns[:-2])
    first.failed(turns[-1], RuntimeError("no"))
    turns[-2].lock.release()  # killed
    again = journal(made).take()
    assert again.name == turns[-2].name and again.point == turns[-2].point
    more = plan(tasks=("sst2", "cola"), space=OPEN, trials=6)
    assert [state for _, state in states(journal(more))].count("waiting") == 4
    (sst2, _) = journal(more)._studies.values()
    assert {len(trial.values) for trial in sst2.best_trials} == {2}, "all objectives at once"


def test_a_point_that_has_a_row_is_not_run_again(journal, plan, tmp_path):
    made = plan(space={"budget": ["4bits", "3bits"]}, trials=12)
    first, count = journal(made), 0
    while (turn := first.take()) is not None:
        finish(first, made, turn)
        count += 1
    assert count == 2 and len(first.results.rows) == 2
    (tmp_path / "journal.log").unlink()
    assert len(states(journal(made))) == 10, "a new journal has learned from the rows"


def test_a_journal_of_another_space_is_refused_and_rows_that_do_not_fit_are_left_alone(journal, plan, tmp_path):
    made = plan(space=GRID)
    first = journal(made)
    finish(first, made, first.take())
    other = plan(space={"budget": ["4bits", "2bits"], "seed": [0, 1]})
    with pytest.raises(ValueError, match="of another space: delete it"):
        journal(other)
    (tmp_path / "journal.log").unlink()
    second = journal(other)
    assert len(states(second)) == 3, "the row at 4 bits is of both"
