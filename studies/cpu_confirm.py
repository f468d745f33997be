# Does the saving that cpu_growth.py saw at its first budget hold on seeds that had no part in finding it? Its
# best growing arm under each optimizer beside full depth, with the rates that were chosen there. Four
# comparisons, so that Holm's correction asks little.
#
#   python prepare_demo.py
#   python study.py studies/cpu_confirm.py --slots=cpu,cpu
#
# 16 runs of four minutes of one core, and 16 of 15.
arms = {
    'full depth': 'baseline --learning_rate=1e-2',
    'Bu, random, tau .8': 'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0 --learning_rate=2.5e-3',
    'full depth, Muon': 'baseline --optimizer=muon --muon_learning_rate=0.02',
    'Gong, 3 6 12, Muon': 'gong_3_6_12 --optimizer=muon --muon_learning_rate=0.01',
}
baseline = ('full depth', 'full depth, Muon')
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2,
    'eval_interval': 250, 'eval_after_growth': (100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'hellaswag_interval': 1_000_000, 'hellaswag_limit': 1_000,  # at the end alone
}
budgets = (1_000, 4_000)
seeds = (4, 5, 6, 7)
# Declared before its runs.
questions = (('Bu, random, tau .8', 1_000), ('Bu, random, tau .8', 4_000),
             ('Gong, 3 6 12, Muon', 1_000), ('Gong, 3 6 12, Muon', 4_000))
