"""A study whose runs are made up: records with the losses that a test wants, and nothing is trained."""

from config import config_to_dict
from grid.plan import all_tuning_runs, load_study, plan_runs
from grid.records import read_records, write_records

TWO_ARMS = {'arms': {'full': 'baseline', 'Li': 'incremental_8stage'}, 'baseline': 'full',
            'budgets': (100, 200), 'seeds': (1, 2), 'overlays': ('cpu',),
            'settings': {'lr_schedule': 'wsd', 'vocab_size': 320, 'hellaswag_interval': 0,
                         'warmup_steps': 10}}

def write_study(path, **names) -> str:
    path.write_text('\n'.join(f'{name} = {value!r}' for name, value in names.items()) + '\n')
    return str(path)

def make_study(tmp_path, **names):
    """A study of these names, whose records lie in tmp_path/results."""
    study = load_study(write_study(tmp_path / 'mine.py', **names), out=str(tmp_path / 'out'))
    study.results = str(tmp_path / 'results')
    (tmp_path / 'results').mkdir(exist_ok=True)
    return study

def record_of(run, loss: float | None) -> dict:
    """A record of a run that ends at a loss; None: it diverged."""
    rates = {'tokens': 2048, 'flops': run.flops() / run.total, 'flops_paper': 1e9, 'seconds': 1.0}
    metrics = []
    for step in (run.total // 2, run.total):
        at = {name: step * rate for name, rate in rates.items()}
        value = 9.0 if loss is None else loss + 1.0 * (step < run.total)
        metrics.append({'kind': 'eval', 'step': step, **at, 'eval_seconds': 0.0, 'checkpoint_seconds': 0.0,
                        'stage': 1, 'phase': 'continual', 'depth': 12, 'val_loss': value,
                        'val_tokens': run.config.val_tokens})
    info = {'ended': 'done'}
    if loss is None:
        metrics, info = metrics[:1], {'ended': 'diverged', 'ended_step': run.total // 2 + 1}
    return {'run': run.folder, 'config': config_to_dict(run.config), 'info': info, 'metrics': metrics}

def left(study) -> list:
    """The runs that the study asks for and that have no record."""
    tunings, grid = plan_runs(study)
    records = read_records(study.records_path)
    return [run for run in all_tuning_runs(tunings) + grid if run.folder not in records]

def finish(study, loss_of, runs=None) -> list:
    """Record the runs that are asked for now, each with loss_of(run); returns them."""
    runs = left(study) if runs is None else runs
    records = dict(read_records(study.records_path))
    for run in runs:
        records[run.folder] = record_of(run, loss_of(run))
    write_records(study.records_path, records)
    return runs

def finish_all(study, loss_of) -> list:
    """The same, until nothing is asked for: what a launcher does. Returns the runs in order."""
    done = []
    while some := finish(study, loss_of):
        done += some
        assert len(done) < 1000
    return done
