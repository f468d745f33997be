# Overlay: any schedule on the embedded corpus (python prepare_demo.py), a few minutes on two CPU cores.
#   python train.py configs/incremental_8stage.py configs/cpu.py
# Layers of width 64, as many as the schedule says; 16 sequences * 128 bytes = 2,048 tokens a step (two ranks
# of 8 sequences, or one in two micro-steps); every schedule goes on until it has spent the compute of 2,000
# steps at full depth (4.1M bytes), so that what differs in the end is what growing did. Expect a loss around
# 1.6 nats a byte at 12 layers.
data_dir = 'data/demo'
vocab_size = 320  # 256 bytes and end-of-text, rounded up to a multiple of 64
n_head = 4
n_embd = 64
block_size = 128
total_batch_size = 2048
batch_size = 8
dtype = 'float32'  # at this width bfloat16's casts cost more than its products save
shuffle = True
growth_steps = 1000
continual_steps = 'equal_compute'
baseline_steps = 2000
learning_rate = 5e-3
warmup_steps = 100
beta2 = 0.99
grad_clip = 1.0
eval_interval = 100
val_tokens = 65_536
hellaswag_interval = 1000
log_interval = 20
checkpoint_interval = 250
