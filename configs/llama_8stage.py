# The paper's 8 stages (Li, Fung, Huang, arXiv 2411.18700) on a Llama of GPT-2 124M's width and depth: depths
# 2 3 5 6 8 9 11 12, stages of 1,250 steps (from the second on half of them with the earlier layers frozen),
# then 10,000 continual steps. The paper claims for GPT-2 that growing saves compute at first and that the
# continual training it then takes to catch up spends it again.
# 20,000 steps * 524,288 tokens = 10.5B tokens; 7.1e18 FLOPs, 79.3% of full depth for the same
# tokens (73.4% by the paper's ledger).
arch = 'llama'
n_stages = 8
growth_steps = 10_000
phase1_fraction = 0.5
continual_steps = 10_000
baseline_steps = 20_000
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
