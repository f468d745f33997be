"""Run directories as train.py leaves them, with losses that are known: for the tests of runs, judge, report,
figure."""

import json
import random
from dataclasses import replace

import numpy as np

import schedule
from config import TrainConfig, config_to_dict
from verdict.judge import judge_runs
from verdict.runs import Place, Run

COMING = [('grown', 'largest', budget) for budget in (5, 20, 80)]  # what ladder() holds out
RATES = {'tokens': 2048, 'flops': 3e10, 'flops_paper': 2e10, 'seconds': 0.25}  # per step

def power_law(step):
    return 2.0 + 4.0 * (step + 20)**-0.4

def shifted(loss, shift):
    """A loss curve moved by a constant: another seed's."""
    return lambda step: loss(step) + shift

def counters(step, rates):
    return {'step': step, **{name: step * rate for name, rate in rates.items()}, 'eval_seconds': 9.0,
            'checkpoint_seconds': 9.0}

def write_run(path, loss=power_law, rates=RATES, until=None, every=50, acc_norm=None, tail=b'', info=None,
              **settings):
    """A run directory of 1000 steps (by default) whose evaluations are loss(step) and whose costs are rates *
    step."""
    config = TrainConfig(**{'run_name': path.name, 'growth_steps': 1000, 'continual_steps': 0,
                            'total_batch_size': RATES['tokens'], 'batch_size': 2, **settings})
    phases = schedule.plan(config).phases
    total = phases[-1].stop
    path.mkdir(parents=True)
    (path / 'config.json').write_text(json.dumps(config_to_dict(config)))
    if info is not None:
        (path / 'run.json').write_text(json.dumps(info))
    lines = []
    for step in range(1 + (total if until is None else until)):
        at = {**counters(step, RATES | rates), 'stage': 1, 'phase': 'phase2', 'depth': config.n_layer}
        if step % every == 0 or step == total:
            scores = {}
            if acc_norm is not None:
                scores = {'hellaswag_acc': 0.5, 'hellaswag_acc_norm': acc_norm, 'hellaswag_n': 400}
            lines.append({'kind': 'eval', **at, 'val_loss': loss(step), **scores})
        for phase in phases:
            if phase.start == step:
                lines.append({'kind': 'phase', **at, 'stage': phase.stage, 'phase': phase.phase,
                              'depth': phase.depth,
                              'n_frozen': phase.n_frozen})
        if step and step % 20 == 0:
            lines.append({'kind': 'train', **at, 'loss': 9.0, 'lr': 1e-3, 'grad_norm': 1.0, 'tok_per_sec': 1})
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (path / 'metrics.jsonl').write_bytes(text.encode() + tail)
    return path

def write_seeds(folder, name, seeds, loss=power_law, sd=0.003, **settings):
    """One run per seed, each with an offset of its own that depends on name and seed only."""
    for seed in seeds:
        offset = random.Random(f'{name} {seed}').gauss(0, sd)
        write_run(folder / f'{name}_seed{seed}', shifted(loss, offset), seed=seed, **settings)

def make_run(name, loss=3.0, seed=1, steps=1000, until=None, info=None, **settings):
    """A run in memory that decays (WSD) to a loss, evaluated in the middle, .4 above it, and at its end, or
    until some step."""
    settings = {'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'continual_steps': 0, **settings}
    config = TrainConfig(run_name=name, seed=seed, growth_steps=steps, total_batch_size=RATES['tokens'],
                         **settings)
    records = []
    for step, height in ((steps // 2, loss + 0.4), (steps, loss)):
        if until is None or step <= until:
            records.append({'kind': 'eval', **counters(step, RATES), 'val_loss': height})
    return Run(f'out/{name}_s{seed}', config, schedule.plan(config), records, info or {})

def make_seeds(name, losses, **settings):
    """Runs in memory of seeds 1, 2, ..., one for each loss."""
    return [make_run(name, loss, seed, **settings) for seed, loss in enumerate(losses, 1)]

def truth(steps):
    return 1 + 4 * (steps + 20)**-0.4

def study(shifts, budgets=(500, 1000, 2000), questions=None, scales=('',), sizes=None):
    """A report on {arm: its loss minus full depth's}, or a function of (scale, budget) that gives it."""
    runs, places = [], {}
    for arm, shift in {'full depth': 0.0, **shifts}.items():
        settings = {} if arm == 'full depth' else {'n_stages': 4}
        for scale in scales:
            for budget in budgets:
                moved = shift(scale, budget) if callable(shift) else shift
                steps = round(budget * (sizes or {}).get(scale, 1))
                losses = truth(steps) + moved + 0.001 * np.array([-1, 0, 1])
                for run in make_seeds(arm, losses, steps=steps, **settings):
                    run = replace(run, path=f'{arm}/{scale}{budget}_s{run.seed}')
                    runs.append(run)
                    places[run.path] = Place(arm, scale, budget)
    return judge_runs(runs, ['full depth'], places, questions)

def ladder(b, c, scales, budgets=(5, 20, 80)):
    """Arms whose cost is known: .8 (N / 1e6)^b (D / 20)^c."""
    sizes = {'small': 1e6, 'middle': 2e6, 'large': 4e6, 'largest': 8e6}
    steps = {name: 10 * size / 1e6 for name, size in sizes.items()}

    def shift(scale, budget):
        cost = 0.8 * (sizes[scale] / 1e6)**b * (budget / 20)**c
        n = round(budget * steps[scale])
        return truth(n / cost) - truth(n)

    judged = study({'grown': shift}, budgets, scales=scales, sizes=steps)
    return judged, {name: round(size) for name, size in sizes.items()}
