# Is a trained model worth growing? 12 layers, trained, then grown to 18, against training on at 12 and
# against 18 from scratch.
#
#   python prepare_demo.py
#   python study.py studies/cpu_pretrained.py --slots=cpu,cpu
#
# Every arm but the first three starts from the end of 'trained, 12' of its own seed, and gets as much
# compute again; the grown ones are judged by 'on at 12', which has the same first training behind it, in
# pairs by seed. A budget is steps of 18 layers. New layers that are random come out as those that are zero:
# with the three rates tried, on the tuning's seed, within .0007 of each other. The tuning's seed chose .02
# for 18 layers from scratch, by .009 before .01; other seeds don't hold with .02, so .01 has an arm and is
# the baseline. 21 runs and the tuning: two hours of two cores.
arms = {
    '18 from scratch': 'baseline --n_layer=18',
    '18 from scratch, rate .01': 'baseline --n_layer=18 --learning_rate=0.01',
    'trained, 12': 'baseline',
    'on at 12': "baseline --init_from='@trained, 12' --init_depth=12",
    'grown, zero': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 --phase1_fraction=0 "
                   '--grow_init=zero',
    'grown, stack': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 --phase1_fraction=0 "
                    '--grow_init=stack',
    'grown, interleave': "baseline --init_from='@trained, 12' --init_depth=12 --n_layer=18 "
                         '--phase1_fraction=0 --grow_init=interleave',
}
baseline = ('18 from scratch, rate .01', 'on at 12')
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'n_stages': 1,
    'eval_interval': 250, 'eval_after_growth': (10, 30, 100, 300), 'log_interval': 50, 'keep_checkpoints': 1,
    'hellaswag_interval': 1_000_000, 'hellaswag_limit': 1_000,  # at the end alone
}
budgets = (1_000,)
seeds = (1, 2, 3)
questions = (('grown, zero', 1_000), ('grown, stack', 1_000), ('grown, interleave', 1_000))
_trained = {'learning_rate': (1.25e-3, 2.5e-3)}  # a trained model asks for less; of two one is at the edge
tune = {
    'learning_rate': (2.5e-3, 5e-3, 1e-2), '18 from scratch, rate .01': {},
    'on at 12': _trained, 'grown, zero': _trained, 'grown, stack': _trained, 'grown, interleave': _trained,
}
tune_extend = 2
tune_seeds = (0,)
