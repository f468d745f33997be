# A Llama of GPT-2 124M's width and depth at full depth from the start (123.5M parameters: RMSNorm, rotary
# positions, SwiGLU 2048 wide, a tied head), under warm-up, stable, decay (last 10%): what llama_8stage.py is
# compared with. 20,000 steps * 524,288 tokens = 10.5B tokens; 9.0e18 FLOPs, 100.0% of full
# depth for the same tokens.
arch = 'llama'
n_stages = 1
growth_steps = 10_000
continual_steps = 10_000
baseline_steps = 20_000
lr_schedule = 'wsd'
warmup_steps = 400
decay_fraction = 0.1
