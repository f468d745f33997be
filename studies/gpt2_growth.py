# Does growing pay at GPT-2 124M? On FineWeb-Edu: 1.6e20 FLOPs, 27 hours of 8 GPUs that keep up 200 TFLOP/s,
# 340 GB of disk.
#
#   python prepare_fineweb.py
#   python study.py studies/gpt2_growth.py --dry_run --tflops=200 --slots=0,1,2,3,4,5,6,7
#   python study.py studies/gpt2_growth.py --slots=0,1,2,3,4,5,6,7
#
# One run a GPU, 32 sequences a micro-step. 2,500, 5,000 and 10,000 full-depth steps of 524,288 tokens are 11,
# 21 and 42 tokens a parameter. On a cluster: bash slurm_study.sh studies/gpt2_growth.py
arms = {
    'full depth': 'baseline',
    'Li, 8 stages': 'incremental_8stage',
    'Bu, tau .8': 'bu_1to12_wsd',
    'Gong, 3 6 12': 'gong_3_6_12',
    'interleave, 6 12': 'interleave_6_12',
    'full depth, Muon': 'baseline --optimizer=muon',
    'Bu, tau .8, Muon': 'bu_1to12_wsd --optimizer=muon',
}
baseline = ('full depth', 'full depth, Muon')
settings = {
    'lr_schedule': 'wsd', 'decay_fraction': 0.2, 'warmup_steps': 200, 'beta2': 0.95, 'weight_decay': 0.1,
    'grad_clip': 1.0,
    'eval_interval': 250, 'eval_after_growth': (30, 100, 300), 'keep_checkpoints': 1,
    'hellaswag_interval': 2_500,
}
budgets = (2_500, 5_000, 10_000)
seeds = (1, 2, 3)
_muon = {'muon_learning_rate': (0.01, 0.02, 0.04)}
tune = {'learning_rate': (6e-4, 1.2e-3, 2.4e-3), 'full depth, Muon': _muon, 'Bu, tau .8, Muon': _muon}
tune_extend = 1
tune_at, tune_seeds = (2_500,), (0,)
