# Overlay: any schedule on the embedded corpus (python prepare_demo.py), a few minutes on two CPU cores.
#   python train.py configs/incremental_8stage.py configs/cpu.py
data_dir = 'data/demo'
vocab_size = 320
n_layer = 12
n_head = 4
n_embd = 64
block_size = 128
total_batch_size = 2048
batch_size = 16
growth_steps = 600
continual_steps = 'equal_compute'
baseline_steps = 1000
learning_rate = 2e-3
eval_interval = 100
val_tokens = 65_536
hellaswag_interval = 500
hellaswag_data = 'data/demo/hellaswag.jsonl'
log_interval = 20
checkpoint_interval = 250
