# Does growing pay? Thirteen recipes at equal compute, tuned, at three budgets, over seeds, on the demo's
# corpus.
#
#   python prepare_demo.py
#   python study.py studies/cpu_growth.py --slots=cpu,cpu --budgets=1000        tuning and the first budget
#   python study.py studies/cpu_growth.py --slots=cpu,cpu                       all of it
#
# 12 layers of width 64, 0.63M parameters; 2,048 bytes a step. 1,000, 4,000 and 16,000 full-depth steps are 3,
# 14 and 55 bytes a parameter. One run at the first budget takes four minutes of one core. Shared
# prefixes spare 7% of the FLOPs: 17% of an arm in which nothing grows (all of a run but its decay, .2 of it,
# is the beginning of the next longer one), 10% and 6% of Bu's (the one-layer part, which is cheap), 1% or
# less of Li's and Gong's, whose stages stretch with the budget. Arms of one budget share next to nothing:
# they differ in depth from step 0 on.
arms = {
    'full depth': 'baseline',
    'Li, 8 stages': 'incremental_8stage',
    '8 stages, never frozen': 'nofreeze_8stage',
    'Bu, layer copied, tau .5': 'bu_1to12_wsd --grow_init=copy_last --stage_fractions=0.5,0',
    'Bu, random, tau .8': 'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0',
    'Bu, random, tau .8, rate .02':
        'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0 --learning_rate=2e-2',
    'Gong, 3 6 12': 'gong_3_6_12',
    'interleave, 6 12': 'interleave_6_12',
    '6 layers': 'baseline --n_layer=6',
    'full depth, Muon': 'baseline --optimizer=muon',
    '6 layers, Muon': 'baseline --n_layer=6 --optimizer=muon',
    'Li, 8 stages, Muon': 'incremental_8stage --optimizer=muon',
    'Bu, random, tau .8, Muon': 'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0 --optimizer=muon',
    'Gong, 3 6 12, Muon': 'gong_3_6_12 --optimizer=muon',
}
baseline = ('full depth', 'full depth, Muon')
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2,
    'eval_interval': 250, 'eval_after_growth': (100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'hellaswag_interval': 1_000_000, 'hellaswag_limit': 1_000,  # at the end alone
}
budgets = (1_000, 4_000, 16_000)
seeds = (1, 2, 3)
# What it was made for: each growing recipe at two budgets, and at the third what was chosen before its runs.
# Not asked: 6 layers, and rate .02 at the two budgets that chose it, on a seed that judges it (cpu_rates.py).
_growing = (
    'Li, 8 stages', '8 stages, never frozen', 'Bu, layer copied, tau .5', 'Bu, random, tau .8',
    'Gong, 3 6 12', 'interleave, 6 12', 'Li, 8 stages, Muon', 'Bu, random, tau .8, Muon',
    'Gong, 3 6 12, Muon')
questions = (
    *((arm, 1_000) for arm in _growing), *((arm, 4_000) for arm in _growing),
    ('Bu, random, tau .8, rate .02', 16_000), ('Gong, 3 6 12, Muon', 16_000))
# Full depth and the growing arm that was best at the first budget, under each optimizer. Bu goes on with the
# rate that is best at 4,000 (cpu_rates.py): eight times the one that was chosen at 1,000, where three of the
# four that were tried ended within the seeds' noise of each other.
only = {16_000: {'arms': ('full depth', 'Bu, random, tau .8, rate .02', 'full depth, Muon',
                          'Gong, 3 6 12, Muon'),
                 'seeds': (1, 2)}}
_muon = {'muon_learning_rate': (0.01, 0.02, 0.04)}
tune = {
    'learning_rate': (2.5e-3, 5e-3, 1e-2),
    'Bu, random, tau .8, rate .02': {},
    'full depth, Muon': _muon,
    '6 layers, Muon': _muon,
    'Li, 8 stages, Muon': _muon,
    'Bu, random, tau .8, Muon': _muon,
    'Gong, 3 6 12, Muon': _muon,
}
tune_extend = 2
tune_at, tune_seeds = (1_000,), (0,)
