# Is a trained model worth growing? 12 layers, trained, then grown to 18, against training on and against 18
# from scratch.
#
#   python prepare_demo.py
#   python study.py studies/cpu_pretrained.py --slots=cpu,cpu
#
# Every arm but the first two starts from the end of 'trained, 12' of its own budget and seed. Judged by '18
# from scratch' of the same budget, the first training is a sunk cost; the report also counts it, against the
# ladder: grown at a budget of 1,000 from a model trained for 1,000 against 18 layers for 2,000. A budget is
# steps of 18 layers. 42 runs and the tuning: five hours of two cores.
arms = {
    '18 from scratch': 'baseline --n_layer=18',
    'trained, 12': 'baseline',
    'on at 12': "baseline --init_from='@trained, 12' --init_depth=12",
    'grown, zero': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 --phase1_fraction=0 "
                   '--grow_init=zero',
    'grown, random': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 --phase1_fraction=0",
    'grown, stack': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 --phase1_fraction=0 "
                    '--grow_init=stack',
    'grown, interleave': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 "
                         '--phase1_fraction=0 --grow_init=interleave',
}
baseline = '18 from scratch'
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'n_stages': 1,
    'eval_interval': 250, 'eval_after_growth': (10, 30, 100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'hellaswag_interval': 1_000_000, 'hellaswag_limit': 1_000,  # at the end alone
}
budgets = (1_000, 2_000)
seeds = (1, 2, 3)
tune = {'learning_rate': (2.5e-3, 5e-3, 1e-2)}
tune_extend = 2
