# Overlay, behind cpu.py: the same by a Llama, whose heads share two of keys and values, and whose SwiGLU is
# 192 wide.
#   python train.py configs/incremental_8stage.py configs/cpu.py configs/cpu_llama.py
# 16 sequences * 128 bytes = 2,048 tokens a step; a layer's matrices have 49,152 weights, as GPT-2's.
arch = 'llama'
n_kv_head = 2
