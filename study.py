"""
A grid of runs by one command: arms x budgets x seeds, every run with the same compute at its budget.

    python study.py studies/cpu_growth.py                run what isn't done yet, then write the report
    python study.py studies/cpu_growth.py --slots=0,1    two GPUs, one run each; 0+1,2+3: two runs of two GPUs
    python study.py studies/cpu_growth.py --dry_run      what all of it costs; --tflops=X adds the hours
    python study.py studies/cpu_growth.py --status       a table of the runs, at any time
    python study.py studies/cpu_growth.py --report       report.md, report.csv, report.png from what is there
    python study.py studies/cpu_growth.py --print        the commands instead, for another scheduler
    python study.py studies/cpu_growth.py --collect      the finished runs' records to results/, no weights

--only=ARM[,ARM], --budgets=, --seeds= take a part of the grid; --out=DIR another place than out/STUDY.
study_file.py says what a study file is. Every run is a command of train.py, the first line of its
console.txt. Typed again, the study goes on where it was. What results/STUDY holds isn't run again, unless a
part of the grid is named.

Runs that train their first steps alike train them once: the longest run trains them, the others branch off
there (train.py --branch_from) and end in the same bits as on their own. --separate shares nothing.
Warm-up-stable-decay runs of 1,000, 4,000 and 16,000 steps that decay over their last fifth cost .81 of
separate runs. """

import itertools
import os
import shlex
import sys
from collections import Counter

import schedule
from core.common import Parser, UserError, locked, run_main
from grid.launch import Launcher, command_of, parse_slots, slot_environment
from grid.plan import (
    Run,
    all_tuning_runs,
    final_loss,
    finished_folder,
    last_state,
    last_step,
    load_study,
    out_folder,
    plan_runs,
    saved_prefix,
    spared_flops,
)
from grid.records import make_record, read_records, write_records
from grid.study_file import STUDY_NAMES, Study, did_you_mean

PART = ('only', 'budgets', 'seeds')  # the flags that name a part of the grid


def main():
    args = parse_args()
    study = load_study(args.study, args.out)
    check_part(study, args)  # before hours of tuning
    if args.dry_run:
        print_costs(study, args)
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


def parse_args():
    names = '\n'.join(f'  {name:<12} {text}' for name, text in STUDY_NAMES.items())
    description = f'{__doc__}\nThe names in a study file:\n{names}'
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_argument('study', metavar='STUDY', type=os.path.expanduser, help='a study file')
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--dry_run', action='store_true', help='print what the study costs')
    what.add_argument('--status', action='store_true', help='print how far each run is')
    what.add_argument('--report', action='store_true', help='write the report from what is there')
    what.add_argument('--collect', action='store_true', help='copy finished records into results/')
    what.add_argument('--print', action='store_true', help='print the commands, prefixes first')
    parser.add_argument('--slots', default='', help='cpu,cpu or 0,1 or 0+1,2+3 (default: GPUs, else cores)')
    parser.add_argument('--separate', action='store_true', help='share no prefixes')
    parser.add_argument('--tflops', type=float, default=0.0, help='1e12 FLOPs a second that a slot keeps up')
    parser.add_argument('--out', default='', metavar='DIR', type=os.path.expanduser,
                        help='folder of the runs (default: out/STUDY)')
    for name in PART:
        parser.add_argument(f'--{name}', default='', metavar='A[,B]', help='a part of the grid')
    return parser.parse_args()


def write_report(study: Study):
    from grid import page  # here, since statistics and drawing take a moment to load

    page.write_report(study)


# ------------------------------------------------------------------------------------------------------------
# a part of the grid


def named_part(study: Study, args) -> dict[str, list[str]]:
    """The arms, budgets and seeds that --only, --budgets and --seeds name, all where a flag is missing.

    Raises UserError for a name that the study doesn't have.
    """
    part = {}
    for option, name, known in (('only', 'arm', study.arms), ('budgets', 'budget', study.budgets),
                                ('seeds', 'seed', study.seeds)):
        text = getattr(args, option)
        # Budgets and seeds are numbers in a study, and text in a flag.
        known = [str(value) for value in known]
        part[name] = split_names(text, known) if text else known
        for value in part[name]:
            if value not in known:
                hint = did_you_mean(value, known)
                raise UserError(f'--{option}={text}: the study has no {name} {value!r}{hint}')
    return part


def check_part(study: Study, args):
    """Raise UserError if the flags name something that the study doesn't have, or nothing that it runs."""
    part = named_part(study, args)
    for arm, budget in itertools.product(part['arm'], study.budgets):
        seeds = [str(seed) for seed in study.seeds_at(arm, budget)]
        if str(budget) in part['budget'] and set(seeds) & set(part['seed']):
            return
    flags = [f'--{option}={getattr(args, option)}' for option in PART if getattr(args, option)]
    raise UserError(f"{' '.join(flags)}: the study's `only` leaves all of that out")


def selected(study: Study, grid: list[Run], args) -> list[Run]:
    """The runs of the part that the flags name: a new list, to which others add."""
    part = named_part(study, args)
    chosen = []
    for run in grid:
        if run.arm in part['arm'] and str(run.budget) in part['budget'] and str(run.seed) in part['seed']:
            chosen.append(run)
    return chosen


def split_names(text: str, known) -> list[str]:
    """Names joined by commas. A name that is known may hold commas of its own; the longest such one
    counts."""
    # 'Li, 8 stages,full depth': the shell has one text, the study the names to take it apart.
    for name in sorted(known, key=len, reverse=True):
        if text == name:
            return [name]
        if text.startswith(f'{name},'):
            return [name, *split_names(text[len(name) + 1:], known)]
    first, comma, rest = text.partition(',')
    return [first, *split_names(rest, known)] if comma else [first]


def tuning_runs(study: Study, tunings: dict, args) -> list[Run]:
    """The runs that tune the arms of --only, and the arms that these start from the end of."""
    arms = split_names(args.only, study.arms) if args.only else list(study.arms)
    for arm in arms:
        source = study.source_of(arm)
        if source and source not in arms:
            arms.append(source)  # whose own source the loop then comes to
    return [run for run in all_tuning_runs(tunings) if run.arm in arms]


def left_to_tune(study: Study, tunings: dict, args) -> list[Run]:
    """What isn't done of the tuning, and hasn't failed for good."""
    left = []
    for run in tuning_runs(study, tunings, args):
        if final_loss(study, run) is None and run.folder not in study.failed:
            left.append(run)
    return left


def left_of_grid(study: Study, grid: list[Run], args) -> list[Run]:
    """What isn't done of the grid, or of the part of it that is named, and what that starts from the end of.

    Records of runs that were finished elsewhere count as done, unless a part is named: then it is run here
    again. """
    wanted = selected(study, grid, args)
    for run in wanted:
        if run.source and run.source not in wanted:
            wanted.append(run.source)  # whose own source the loop then comes to
    sources = {run.source for run in wanted}
    part = args.only or args.budgets or args.seeds
    left = []
    for run in wanted:
        elsewhere = not part and run not in sources  # records hold no weights to start from
        if finished_folder(study, run, elsewhere) is None:
            left.append(run)
    return left


# ------------------------------------------------------------------------------------------------------------
# launching


def launch(study: Study, args):
    """Tune, run the grid, report. Raises UserError if another launcher is at work here."""
    slots = parse_slots(args.slots)
    # What is there is looked at under the lock: nobody finishes or starts a run meanwhile.
    with locked(study.out):
        launcher = Launcher(study, slots, args.separate)
        try:  # whatever happens, a full disk for one, no run is left behind
            tune(launcher, args)
            run_grid(launcher, args)
        finally:
            launcher.close()
    if launcher.signals:
        print('stopped; the runs have saved, and the same command goes on')
        sys.exit(130)  # as a shell says it of Ctrl-C
    if launcher.failed:
        failed = ', '.join(launcher.failed)
        print(f'{len(launcher.failed)} runs failed twice: {failed}; see console.txt in their folders')
    # A part of the grid may have been all tuning, and then there is nothing to report yet.
    if any(finished_folder(study, run) for run in plan_runs(study)[1]):
        write_report(study)
    if launcher.failed:
        sys.exit(1)  # so that a script that waits for the study sees it


def tune(launcher: Launcher, args):
    """Run what tunes the arms, in rounds, since what is finished may ask for further values."""
    study = launcher.study
    while not launcher.signals:
        tunings, grid = plan_runs(study)
        left = left_to_tune(study, tunings, args)
        if not left:
            break
        everything = grid + all_tuning_runs(tunings)
        print(f'tuning: {sharing_text(study, left, everything, args.separate)}', flush=True)
        launcher.execute(left, everything)
    for run in tuning_runs(study, tunings, args):
        tuning = tunings[run.arm]
        if run is tuning.runs[-1]:  # one line an arm, and the edge of the grid in it
            print(f'tuned  {run.arm}: {tuning}', flush=True)


def run_grid(launcher: Launcher, args):
    """Run what isn't done of the grid. An arm whose tuning failed has no runs in it."""
    study = launcher.study
    tunings, grid = plan_runs(study)
    left = left_of_grid(study, grid, args)
    if left and not launcher.signals:
        everything = grid + all_tuning_runs(tunings)
        print(sharing_text(study, left, everything, args.separate), flush=True)
        launcher.execute(left, everything)


# ------------------------------------------------------------------------------------------------------------
# what to do without launching


def sharing_text(study: Study, runs: list[Run], everything: list[Run], separate: bool) -> str:
    """What some runs cost, with and without shared prefixes."""
    alone = sum(run.flops() for run in runs)
    spared = sum(spared_flops(study, runs, everything))
    share = spared / max(1, alone)
    if separate:
        return f'{len(runs)} runs, {alone:.4g} FLOPs; sharing prefixes would spare {share:.1%}'
    return (f'{len(runs)} runs, {alone - spared:.4g} FLOPs: shared prefixes spare {share:.1%} of the '
            f'{alone:.4g} of separate runs')


def print_costs(study: Study, args):
    """What all of a study costs. Where the tuning isn't finished, as if all arms kept their first values."""
    tunings, grid = plan_runs(study, guess=True)
    everything = grid + all_tuning_runs(tunings)
    runs = tuning_runs(study, tunings, args) + selected(study, grid, args)
    rows = {}  # seeds, and the values that are tried, cost the same
    for run in runs:
        what = 'tuning' if run.seed == study.tune_seed else ''
        rows.setdefault((run.arm, what, run.budget), []).append(run)
    print(f'{"arm":<34}{"budget":>14}{"steps":>9}{"tokens":>10}{"FLOPs":>10}{"runs":>6}')
    for (arm, what, budget), some in rows.items():
        run = some[0]
        tokens = run.total * run.config.total_batch_size
        print(f'{arm:<34}{what:>7}{budget:>7}{run.total:>9}{tokens:>10.3g}{run.flops():>10.3g}{len(some):>6}')
    print('\n' + sharing_text(study, runs, everything, args.separate))
    if not all(tuning.decided for tuning in plan_runs(study)[0].values()):
        print('the tuning is still to come: counted as if every arm kept its first values')
    if args.tflops:
        flops = sum(run.flops() for run in runs)
        if not args.separate:
            flops -= sum(spared_flops(study, runs, everything))
        hours = flops / args.tflops / 3.6e15  # 1e12 FLOPs a second times 3,600 seconds
        n_slots = len(parse_slots(args.slots))
        print(f'{hours:.1f} hours of one slot at {args.tflops} TFLOP/s, {hours / n_slots:.1f} of {n_slots}')
    gigabytes = sum(disk_bytes(run) for run in runs) / 1e9
    print(f'at most {gigabytes:.1f} GB on the disk once all are done')


def disk_bytes(run: Run) -> int:
    """At most what a run leaves on the disk: its newest checkpoints, those that others branch from, each
    stage's weights."""
    size = schedule.as_json(schedule.plan(run.config))['totals']['bytes']
    # At the end of each stage and of the run, then at every interval.
    saves = run.config.n_stages + 1
    if run.config.checkpoint_interval:
        saves += run.total // run.config.checkpoint_interval
    checkpoints = min(saves, run.config.keep_checkpoints) + len(run.save_at)
    return checkpoints * (size['weights'] + size['optimizer']) + run.config.n_stages * size['weights']


def print_status(study: Study, args):
    """One row a run: done, running, failed, stopped on its way, or waiting."""
    tunings, grid = plan_runs(study)
    state = last_state(study)
    # A launcher that was killed has left its last state.
    running = state['running'] if is_alive(state['pid']) else {}
    runs = tuning_runs(study, tunings, args) + selected(study, grid, args)
    width = max([len(run.folder) for run in runs], default=0) + 2
    print(f'{"run":<{width}}{"state":<10}{"step":>8}{"of":>8}{"val loss":>10}')
    count = Counter()
    for run in runs:
        folder = finished_folder(study, run)
        # Not by asking for the run's lock, which could get into the way of one that is just starting.
        step = last_step(folder or out_folder(study, run))
        word = 'stopped' if step else 'waiting'
        loss = ''
        if folder:
            word = 'done'
            loss = f'{final_loss(study, run):.4f}'
        elif run.folder in running:
            word = 'running'
        elif run.folder in state['failed']:
            word = 'failed'
        count[word] += 1
        print(f'{run.folder:<{width}}{word:<10}{step:>8}{run.total:>8}{loss:>10}')
    print(', '.join(f'{n} {word}' for word, n in count.items()))
    for arm, tuning in tunings.items():
        if not tuning.decided:
            print(f'{arm}: its grid waits for its tuning')
    for folder, why in state['failed'].items():
        print(f'{folder} failed: {why}')


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is alive."""
    try:
        os.kill(pid, 0)  # signal 0 only asks whether it exists
        return pid > 0  # 0 is the group of this process itself
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True


def print_commands(study: Study, args):
    """The commands of what isn't done, one a line, in levels: each needs only what stands in the levels above
    it."""
    tunings, grid = plan_runs(study)
    everything = grid + all_tuning_runs(tunings)
    study.failed.clear()  # to be tried again, as by a launcher
    runs = left_to_tune(study, tunings, args)
    is_tuning = bool(runs)
    if not is_tuning:
        runs = left_of_grid(study, grid, args)
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
                branch_from, _ = saved_prefix(study, run, everything)
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


def collect(study: Study):
    """Put the records of the finished runs into results/, without weights, beside those that are there."""
    tunings, grid = plan_runs(study)
    records = dict(read_records(study.records_path))
    count = 0
    for run in all_tuning_runs(tunings) + grid:
        folder = finished_folder(study, run, elsewhere=False)
        if folder:
            records[run.folder] = make_record(study, run.folder, folder)
            count += 1
    os.makedirs(study.results, exist_ok=True)
    write_records(study.records_path, records)
    print(f'{count} finished runs are in {study.records_path}')


if __name__ == '__main__':
    run_main(main)
