# Three recipes at toy budgets: whether a machine is set up, in two minutes on two cores. Its verdicts mean
# nothing.
#
#   python prepare_demo.py
#   python study.py studies/smoke.py --slots=cpu,cpu
arms = {
    'full depth': 'baseline',
    'Li, 4 stages': 'incremental_4stage',
    'Bu, tau .5': 'bu_1to12_wsd --stage_fractions=0.5,0',
}
baseline = 'full depth'
overlays = ('cpu',)
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'warmup_steps': 10,
    'batch_size': 16,  # a run has one core: one micro-step a step, not the two of two ranks
    'eval_interval': 20, 'val_tokens': 16_384, 'hellaswag_interval': 1_000_000, 'hellaswag_limit': 100,
}
budgets = (40, 80)
seeds = (1, 2)
tune = {'learning_rate': (5e-3, 1e-2)}
tune_at, tune_seeds = (40,), (0,)
