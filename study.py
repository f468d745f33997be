"""
A grid of runs by one command: arms x budgets x seeds, every run with the same compute at its budget.

    python study.py studies/cpu_growth.py                run what isn't done yet, then write the report
    python study.py studies/cpu_growth.py --slots=0,1    two GPUs, one run each; 0+1,2+3: two runs of two
                                                         GPUs; 0,0: two runs on one
    python study.py studies/cpu_growth.py --minutes=13   start nothing that would not end by then
    python study.py studies/cpu_growth.py --dry_run      what all of it costs; --tflops=X adds the hours
    python study.py studies/cpu_growth.py --status       a table of the runs; --watch: again every minute
    python study.py studies/cpu_growth.py --report       report.md, report.csv, report.png from what is there;
                                                         for a paper: compare.py out/cpu_growth --latex
    python study.py studies/cpu_growth.py --print        the commands instead, for another scheduler
    python study.py studies/cpu_growth.py --collect      the finished runs' records to results/, no weights

--only=ARM[,ARM], --scales=, --budgets=, --seeds= take a part of the grid; --out=DIR another place than
out/STUDY. grid/study_file.py says what a study file is. Every run is a command of train.py, the first line of
its console.txt. Typed again, the study goes on where it was. What results/STUDY holds isn't run again, unless
a part of the grid is named.

Runs that train their first steps alike train them once: the longest run trains them, the others branch off
there (train.py --branch_from) and end in the same bits as on their own. --separate shares nothing.
Warm-up-stable-decay runs of 1,000, 4,000 and 16,000 steps that decay over their last fifth cost .81 of
separate runs. """

import itertools
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import schedule
from core.common import Parser, UserError, locked, run_main, table
from grid.launch import Launcher, check_gpus, command_of, last_step, parse_slots, slot_environment
from grid.plan import (
    Run,
    all_tuning_runs,
    arm_config,
    last_state,
    load_study,
    out_folder,
    outcome_of,
    plan_runs,
    saved_prefix,
    spared_flops,
)
from grid.records import make_record, read_records, write_records
from grid.study_file import STUDY_NAMES, Study, did_you_mean, folder_of
from run.log import read_metrics

PART = ('only', 'scales', 'budgets', 'seeds')  # flags for a part of the grid
WATCH_SECONDS = 60

def main():
    args = parse_args()
    study = load_study(args.study, args.out)
    args.part = part_of(study, args)  # before hours of tuning
    try:
        if args.dry_run:
            print_costs(study, args)
        elif args.watch:
            watch(study, args)
        elif args.status:
            print_status(study, args)
        elif args.report:
            write_report(study)
        elif args.collect:
            collect(study)
        elif args.print:
            print_commands(study, args)
        else:
            launch(study, args)
    finally:
        for text in study.damaged.values():
            print(f'warning: {text}', file=sys.stderr)

def parse_args():
    names = '\n'.join(f'  {name:<13} {text}' for name, text in STUDY_NAMES.items())
    description = f'{__doc__}\nThe names in a study file:\n{names}'
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument('study', metavar='STUDY', type=os.path.expanduser, help='a study file')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--dry_run', action='store_true', help='print what the study costs')
    what.add_argument('--status', action='store_true', help='print how far each run is')
    what.add_argument('--watch', action='store_true',
                      help='print that, draw the learning curves and write the report, every minute')
    what.add_argument('--report', action='store_true', help='write the report from what is there')
    what.add_argument('--collect', action='store_true', help='put finished records into results/')
    what.add_argument('--print', action='store_true', help='print the commands, prefixes first')
    parser.add_argument('--slots', default='', help='cpu,cpu or 0,1 or 0+1,2+3 (default: GPUs, else cores)')
    parser.add_argument('--minutes', type=float, default=0.0, help='end by then; the rest goes on next time')
    parser.add_argument('--separate', action='store_true', help='share no prefixes')
    parser.add_argument('--tflops', type=float, default=0.0, help='1e12 FLOPs a second that a slot keeps up')
    parser.add_argument('--out', default='', metavar='DIR', type=os.path.expanduser,
                        help='folder of the runs (default: out/STUDY)')
    for name in PART:
        parser.add_argument(f'--{name}', default='', metavar='A[,B]', help='a part of the grid')
    args = parser.parse_args()
    for name in ('minutes', 'tflops'):
        if not 0 <= getattr(args, name) < float('inf'):
            raise UserError(f'--{name}={getattr(args, name)}: must be a positive number')
    return args

def write_report(study: Study):
    from grid import page  # here, since statistics and drawing take a moment to load

    page.write_report(study)

# ------------------------------------------------------------------------------------------------------------
# a part of the grid

@dataclass
class Part:
    """What the flags name of the grid, all of it where they name nothing."""

    is_all: bool
    places: set  # (arm, scale, budget)
    seeds: set

def part_of(study: Study, args) -> Part:
    """Raises UserError for a name that the study doesn't have, or a part of which it runs nothing."""
    there = {'only': study.arms, 'scales': study.scales, 'budgets': study.budgets,
             'seeds': study.seeds + study.more_seeds}
    chosen = []
    for option, values in there.items():
        text = getattr(args, option)
        by_name = {str(value): value for value in values}  # budgets and seeds are numbers in a study
        names = split_names(text, by_name) if text else by_name
        for name in names:
            if name not in by_name:
                hint = did_you_mean(name, by_name)
                raise UserError(f'--{option}={text}: there is no {name!r} in the study{hint}')
        chosen.append([by_name[name] for name in names])
    places, seeds = set(itertools.product(*chosen[:3])), set(chosen[3])
    flags = [f'--{option}={getattr(args, option)}' for option in PART if getattr(args, option)]
    for arm, scale, budget in places:
        first = study.seeds_at(arm, budget, scale)
        if first and seeds & {*first, *study.more_seeds}:
            return Part(not flags, places, seeds)
    raise UserError(f"{' '.join(flags)}: the study's `only` leaves all of that out")

def selected(grid: list[Run], part: Part) -> list[Run]:
    return [run for run in grid if run.place in part.places and run.seed in part.seeds]

def split_names(text: str, known) -> list[str]:
    """Names joined by commas, in quotes or not. A name that is known may hold commas of its own; the longest
    such one counts."""
    # 'Li, 8 stages,full depth': the shell has one text, the study the names to take it apart.
    for name in sorted(known, key=len, reverse=True):
        for typed in (name, f'"{name}"', f"'{name}'"):
            if text == typed:
                return [name]
            if text.startswith(f'{typed},'):
                return [name, *split_names(text[len(typed) + 1:], known)]
    first, comma, rest = text.partition(',')
    return [first, *split_names(rest, known)] if comma else [first]

def tuning_runs(study: Study, tunings: dict, part: Part) -> list[Run]:
    """The runs that tune the arms of a part at its cells, or whose values are taken there, and the arms that
    these start from the end of."""
    arms, cells = [], set()
    for arm, scale, budget in part.places:
        cells.add(study.tuned_like(arm, scale, budget))
        while arm is not None:
            arms.append(arm)
            arm = study.source_of(arm)
    return [run for run in all_tuning_runs(tunings) if run.arm in arms and run.place[1:] in cells]

def with_sources(study: Study, left: list[Run]) -> list[Run]:
    """Some runs, after what they start from the end of, where that isn't here: a record holds no weights."""
    found, folders = [], set()
    for run in left:
        chain = [run]
        while chain[0].source and not is_here(study, chain[0].source):
            chain.insert(0, chain[0].source)
        for one in chain:
            if one.folder not in folders:
                folders.add(one.folder)
                found.append(one)
    return found

def is_here(study: Study, run: Run) -> bool:
    return outcome_of(study, run, elsewhere=False) is not None

def left_to_tune(study: Study, tunings: dict, part: Part) -> list[Run]:
    """What isn't done of the tuning, and hasn't failed for good."""
    left = [run for run in tuning_runs(study, tunings, part) if outcome_of(study, run) is None]
    return [run for run in with_sources(study, left) if run.folder not in study.failed]

def left_of_grid(study: Study, grid: list[Run], part: Part) -> list[Run]:
    """What isn't done of a part of the grid.

    Records of runs that were finished elsewhere count as done, but where a part is named: that is run here
    again. """
    left = [run for run in selected(grid, part) if outcome_of(study, run, part.is_all) is None]
    return [run for run in with_sources(study, left) if run.folder not in study.failed]

# ------------------------------------------------------------------------------------------------------------
# launching

def launch(study: Study, args):
    """Tune, run the grid, report. Raises UserError if another launcher is at work here."""
    slots = parse_slots(args.slots)
    check_gpus(slots)
    check_data(study)
    # What is there is looked at under the lock: nobody finishes or starts a run meanwhile.
    with locked(study.out):
        launcher = Launcher(study, slots, args.separate, args.minutes)
        try:  # whatever happens, a full disk for one, no run is left behind
            tune(launcher, args)
            run_grid(launcher, args)
        finally:
            launcher.close()
    if launcher.signals and not launcher.clock.is_over:
        print('stopped; the runs have saved, and the same command goes on')
        sys.exit(130)  # as a shell says it of Ctrl-C
    if launcher.failed:
        failed = ', '.join(launcher.failed)
        print(f'{len(launcher.failed)} runs failed twice: {failed}; see console.txt in their folders')
    tunings, grid = plan_runs(study)
    left = left_to_tune(study, tunings, args.part) or left_of_grid(study, grid, args.part)
    if args.minutes and left:
        print(f'{len(left)} runs or more are left for the next time')
    # A part of the grid may have been all tuning, and then there is nothing to report yet.
    if any(outcome_of(study, run) for run in grid):
        write_report(study)
    if launcher.failed:
        sys.exit(1)  # so that a script that waits for the study sees it

def check_data(study: Study):
    """Raise UserError if records were made on other data than this machine has: they'd be no one grid."""
    from core import data  # here, since it loads torch

    fingerprints = {}
    for record in read_records(study.records_path).values():
        arm = next((arm for arm in study.arms if record['run'].startswith(f'{folder_of(arm)}/')), None)
        made_on = record['info'].get('data')
        if arm is None or not made_on:
            continue
        data_dir = arm_config(study, arm, next(iter(study.scales))).data_dir
        if data_dir not in fingerprints:
            fingerprints[data_dir] = data.fingerprint(data_dir) if os.path.isdir(data_dir) else None
        here = fingerprints[data_dir]
        if here and any(here[split]['sha256'] != made_on[split]['sha256'] for split in here):
            raise UserError(f'{study.records_path}: {record["run"]} was trained on other data than '
                            f'{data_dir} holds: get that data, or rename the study')

def tune(launcher: Launcher, args):
    """Run what tunes the arms, in rounds, since what is finished may ask for further values."""
    study = launcher.study
    tunings, _ = plan_runs(study)
    while not launcher.signals:
        left = left_to_tune(study, tunings, args.part)
        if not left:
            break
        print(f'tuning: {sharing_text(study, left, args.separate)}', flush=True)
        launcher.execute(left)
        if launcher.waiting:  # for which there is no time
            break
        tunings, _ = plan_runs(study)
    asked = {run.place for run in tuning_runs(study, tunings, args.part)}
    for place, tuning in tunings.items():
        if place in asked:  # one line, and the edge of the grid in it
            print(f'tuned  {place_text(study, place)}: {tuning}', flush=True)

def place_text(study: Study, place: tuple) -> str:
    """An arm, and the cell where it isn't the only one."""
    arm, scale, budget = place
    if study.is_ladder:
        return f'{arm}, {scale} at {budget}'
    return f'{arm} at {budget:,}' if len(study.tune_at['']) > 1 else arm

def run_grid(launcher: Launcher, args):
    """Run what isn't done of the grid, in rounds: a question that is open may ask for further seeds. An arm
    whose tuning failed has no runs in it. What is held out comes last, after its prediction."""
    study = launcher.study
    while not launcher.signals:
        _, grid = plan_runs(study)
        left = left_of_grid(study, grid, args.part)
        now = [run for run in left if run.scale not in study.held_out]
        if left and not now and not may_run_held_out(study, grid):
            break
        now = now or left
        if not now:
            break
        print(sharing_text(study, now, args.separate), flush=True)
        launcher.execute(now)
        if launcher.waiting:
            break

def may_run_held_out(study: Study, grid: list[Run]) -> bool:
    """Whether the prediction for what is held out is written down already; if not it is written now, to be
    kept before it is tested."""
    held_out = [run for run in grid if run.scale in study.held_out]
    if any(outcome_of(study, run) or last_step(out_folder(study, run)) for run in held_out):
        return True  # it has begun
    # The page is a function of what is finished: if it stays as it was, the prediction was there.
    before = pages(study)
    write_report(study)
    page = pages(study)[-1]
    if '## Prediction' not in page:
        print(f'{", ".join(study.held_out)} is held out: what it is predicted from comes first')
        return False
    if page in before:
        return True
    print(f'the prediction for {", ".join(study.held_out)} is written: keep it (commit it), then the same '
          'command tests it')
    return False

def pages(study: Study) -> list[str]:
    """The text of report.md, here and in results/, as far as it is there; the newest one last."""
    paths = [os.path.join(folder, 'report.md') for folder in (study.out, study.results)]
    texts = []
    for path in sorted(filter(os.path.exists, paths), key=os.path.getmtime):
        with open(path, encoding='utf-8') as f:
            texts.append(f.read())
    return texts

# ------------------------------------------------------------------------------------------------------------
# what to do without launching

def sharing_text(study: Study, runs: list[Run], separate: bool) -> str:
    """What some runs cost, with and without shared prefixes."""
    alone = sum(run.flops() for run in runs)
    spared = sum(spared_flops(study, runs))
    share = spared / max(1, alone)
    if separate:
        return f'{len(runs)} runs, {alone:.4g} FLOPs; sharing prefixes would spare {share:.1%}'
    return (f'{len(runs)} runs, {alone - spared:.4g} FLOPs: shared prefixes spare {share:.1%} of the '
            f'{alone:.4g} of separate runs')

def print_costs(study: Study, args):
    """What all of a study costs. Where the tuning isn't finished, as if all arms kept their first values."""
    tunings, grid = plan_runs(study, guess=True)
    runs = tuning_runs(study, tunings, args.part) + selected(grid, args.part)
    rows = {}  # seeds, and the values that are tried, cost the same
    for run in runs:
        rows.setdefault((*run.place, run.is_tuning), []).append(run)
    lines = []
    for (arm, scale, budget, is_tuning), some in rows.items():
        run = some[0]
        tokens = run.total * run.config.total_batch_size
        lines.append([arm, scale, 'tuning' if is_tuning else '', budget, run.total, f'{tokens:.3g}',
                      f'{run.flops():.3g}', len(some)])
    print(table(['arm', 'scale', '', 'budget', 'steps', 'tokens', 'FLOPs', 'runs'], lines, 'lllrrrrr'))
    print('\n' + sharing_text(study, runs, args.separate))
    if not all(tuning.decided for tuning in plan_runs(study)[0].values()):
        print('the tuning is still to come: counted as if every arm kept its first values')
    if study.more_seeds:
        print(f'an open question asks for up to {len(study.more_seeds)} more seeds, which are not counted')
    if args.tflops:
        flops = sum(run.flops() for run in runs)
        if not args.separate:
            flops -= sum(spared_flops(study, runs))
        hours = flops / args.tflops / 3.6e15  # 1e12 FLOPs a second times 3,600 seconds
        n_slots = len(parse_slots(args.slots))
        print(f'{hours:.1f} hours of one slot at {args.tflops} TFLOP/s, {hours / n_slots:.1f} of {n_slots}')
    gigabytes = sum(disk_bytes(run) for run in runs) / 1e9
    print(f'at most {gigabytes:.1f} GB on the disk once all are done')

def disk_bytes(run: Run) -> int:
    """At most what a run leaves on the disk: its newest checkpoints, those that others branch from, each
    stage's weights."""
    size = schedule.memory(run.config)
    # At the end of each stage and of the run, then at every interval.
    saves = run.config.n_stages + 1
    if run.config.checkpoint_interval:
        saves += run.total // run.config.checkpoint_interval
    checkpoints = min(saves, run.config.keep_checkpoints) + len(run.save_at)
    return checkpoints * (size['weights'] + size['optimizer']) + run.config.n_stages * size['weights']

def print_status(study: Study, args):
    """One row a run: done, diverged, running, failed, damaged, stopped on its way, or waiting."""
    tunings, grid = plan_runs(study)
    state = last_state(study)
    # A launcher that was killed has left its last state.
    running = state['running'] if is_launcher(state['pid']) else {}
    lines, count = [], Counter()
    for run in tuning_runs(study, tunings, args.part) + selected(grid, args.part):
        outcome = outcome_of(study, run)
        step = last_step(out_folder(study, run))
        word = 'stopped' if step else 'waiting'
        loss = ''
        if outcome:
            word = 'diverged' if outcome.diverged else 'done'
            loss = '' if outcome.diverged else f'{outcome.loss:.4f}'
            step = step if outcome.diverged else run.total
        elif run.folder in running:
            word = 'running'
        elif run.folder in study.damaged:
            word = 'damaged'
        elif run.folder in state['failed']:
            word = 'failed'
        count[word] += 1
        lines.append([run.folder, word, step, run.total, loss])
    print(table(['run', 'state', 'step', 'of', 'val loss'], lines, 'llrrr'))
    print(', '.join(f'{n} {word}' for word, n in count.items()))
    for place, tuning in tunings.items():
        if not tuning.decided:
            print(f'{place_text(study, place)}: its grid waits for its tuning')
    for folder, why in state['failed'].items():
        print(f'{folder} failed: {why}')

def watch(study: Study, args):
    """The status, the learning curves so far and the report of what is finished, every minute until
    Ctrl-C."""
    while True:
        print_status(study, args)
        tunings, grid = plan_runs(study)
        draw_curves(study, tuning_runs(study, tunings, args.part) + selected(grid, args.part))
        if any(outcome_of(study, run) for run in grid):
            write_report(study)
        sys.stdout.flush()
        time.sleep(WATCH_SECONDS)

def draw_curves(study: Study, runs: list[Run]):
    """curves.png: validation loss against FLOPs of every run that lies here, also of those under way; a panel
    a cell, a color an arm."""
    from core.plot import new_figure

    curves = {}  # (scale, budget): [(arm, FLOPs, losses)]
    for run in runs:
        records, _ = read_metrics(os.path.join(out_folder(study, run), 'metrics.jsonl'))
        lines = [line for line in records if 'val_loss' in line and line['flops']]
        if lines:
            x, y = [line['flops'] for line in lines], [line['val_loss'] for line in lines]
            curves.setdefault(run.place[1:], []).append((run.arm, x, y))
    if not curves:
        return
    path = os.path.join(study.out, 'curves.png')
    arms = list(study.arms)
    with new_figure(path, 4 * len(curves), 3.5) as figure:
        panels = figure.subplots(1, len(curves), squeeze=False)[0]
        for panel, ((scale, budget), some) in zip(panels, curves.items()):
            for arm, x, y in some:
                is_first = arm not in [line.get_label() for line in panel.lines]
                panel.plot(x, y, 'o-', ms=2, lw=1, color=f'C{arms.index(arm) % 10}',
                           label=arm if is_first else '')
            panel.set(title=f'{scale} {budget:,}', xlabel='FLOPs', ylabel='validation loss', xscale='log')
            panel.legend(fontsize=6)
    print(f'the learning curves are in {path}')

def is_launcher(pid: int) -> bool:
    """Whether a process of this machine is a study's launcher: a number is given to others, later."""
    if pid <= 0:
        return False
    asked = subprocess.run(['ps', '-p', str(pid), '-o', 'args='], capture_output=True, text=True)
    return any(os.path.basename(word) == os.path.basename(__file__) for word in asked.stdout.split())

def print_commands(study: Study, args):
    """The commands of what isn't done, one a line, in levels: each needs only what stands in the levels above
    it."""
    tunings, grid = plan_runs(study)
    study.failed.clear()  # to be tried again, as by a launcher
    runs = left_to_tune(study, tunings, args.part)
    is_tuning = bool(runs)
    if not is_tuning:
        runs = left_of_grid(study, grid, args.part)
        now = [run for run in runs if run.scale not in study.held_out]
        runs = now if now or (runs and not may_run_held_out(study, grid)) else runs
    slot = parse_slots(args.slots)[0]
    environment = ''
    if slot.startswith('cpu'):  # which GPU a command gets is the scheduler's to say
        environment = ''.join(f'{name}={value} ' for name, value in slot_environment(slot).items())
    # A scheduler knows when a job has ended, not when it has passed a step.
    levels = levels_of(runs, args.separate)
    for level in range(1, 1 + max(levels.values(), default=0)):
        print(f'# level {level}')
        for run in runs:
            if levels[run] != level:
                continue
            branch_from = ''
            if not args.separate:
                branch_from, _ = saved_prefix(study, run)
                if run.parent in levels:  # which is done by then
                    branch_from = out_folder(study, run.parent)
            print(environment + shlex.join(command_of(study, run, slot, branch_from, args.separate)))
    if is_tuning:
        print('# these tune the arms; when they are done, --print again for the grid')

def levels_of(runs: list[Run], separate: bool) -> dict:
    """run: 1 if it needs none of the others, else one more than what it needs, its prefix or what it starts
    from."""
    levels = {}
    left = list(runs)
    while left:
        run = left.pop(0)
        # What isn't in the list is finished, or not wanted.
        needs = [other for other in (run.source, run.parent) if other in runs]
        if separate:
            needs = [other for other in needs if other is run.source]
        if any(other not in levels for other in needs):
            left.append(run)  # until they have theirs; there is no circle
            continue
        levels[run] = 1 + max((levels[other] for other in needs), default=0)
    return levels

# ------------------------------------------------------------------------------------------------------------
# records

def collect(study: Study):
    """Put the records of the runs that are over into results/, without weights, beside those that are
    there."""
    os.makedirs(study.results, exist_ok=True)
    records = dict(read_records(study.records_path))
    tunings, grid = plan_runs(study)
    for run in all_tuning_runs(tunings) + grid:
        outcome = outcome_of(study, run, elsewhere=False)
        if outcome:
            records[run.folder] = make_record(study.name, study.out, run.folder, outcome.folder)
    write_records(study.records_path, records)
    print(f'{len(records)} finished runs are in {study.records_path}')

if __name__ == '__main__':
    run_main(main)
