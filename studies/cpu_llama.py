# Does the answer depend on the architecture? The Llama of configs/cpu_llama.py under Muon at two budgets, 3
# bytes a parameter and 13: full depth, 6 layers, and Gong's stacking, which under Muon was the one recipe
# that still showed something on GPT-2 (cpu_growth.py). 3 arms * 2 budgets * 3 seeds, 18 runs, and 36 to tune.
#
#   python prepare_demo.py
#   python study.py studies/cpu_llama.py --slots=cpu,cpu
arms = {
    'full depth': 'baseline',
    '6 layers': 'baseline --n_layer=6',
    'Gong, 3 6 12': 'gong_3_6_12',
}
baseline = ('full depth', '6 layers')
overlays = ('cpu', 'cpu_llama')
settings = {'optimizer': 'muon', 'lr_schedule': 'wsd', 'decay_fraction': 0.2}
budgets = (1_000, 4_000)
seeds = (1, 2, 3)
questions = (('Gong, 3 6 12', 1_000), ('Gong, 3 6 12', 4_000))
tune = {'muon_learning_rate': (0.01, 0.02, 0.04)}
