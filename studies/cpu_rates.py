# Are the rates that cpu_growth.py chose at 1,000 steps still right at 4,000? Half and twice of them, for full
# depth and for the growing arm that did best at 1,000 under each optimizer; where one of these is the best,
# the next one beyond. What the rates themselves give is in cpu_growth's records, with the same seed.
#
#   python prepare_demo.py
#   python study.py studies/cpu_rates.py --slots=cpu,cpu
#
# Fourteen runs of 15 minutes of one core.
_bu = 'bu_1to12_wsd --grow_init=random --stage_fractions=0.8,0'
arms = {
    'full depth, half': 'baseline --learning_rate=5e-3',
    'full depth, twice': 'baseline --learning_rate=2e-2',
    'Bu, random, tau .8, half': f'{_bu} --learning_rate=1.25e-3',
    'Bu, random, tau .8, twice': f'{_bu} --learning_rate=5e-3',
    'Bu, random, tau .8, four times': f'{_bu} --learning_rate=1e-2',
    'Bu, random, tau .8, eight times': f'{_bu} --learning_rate=2e-2',
    'Bu, random, tau .8, sixteen times': f'{_bu} --learning_rate=4e-2',
    'full depth, Muon, eighth': 'baseline --optimizer=muon --muon_learning_rate=0.0025',
    'full depth, Muon, quarter': 'baseline --optimizer=muon --muon_learning_rate=0.005',
    'full depth, Muon, half': 'baseline --optimizer=muon --muon_learning_rate=0.01',
    'full depth, Muon, twice': 'baseline --optimizer=muon --muon_learning_rate=0.04',
    'Gong, 3 6 12, Muon, quarter': 'gong_3_6_12 --optimizer=muon --muon_learning_rate=0.0025',
    'Gong, 3 6 12, Muon, half': 'gong_3_6_12 --optimizer=muon --muon_learning_rate=0.005',
    'Gong, 3 6 12, Muon, twice': 'gong_3_6_12 --optimizer=muon --muon_learning_rate=0.02',
}
baseline = ('full depth, half', 'full depth, Muon, half')
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2,
    'eval_interval': 250, 'eval_after_growth': (100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'hellaswag_interval': 1_000_000, 'hellaswag_limit': 1_000,  # at the end alone
}
budgets = (4_000,)
seeds = (1,)
