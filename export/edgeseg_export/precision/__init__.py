"""Precision lives in the graph: from the fp32 master to each variant.

``variants`` says which there are and makes them, ``half`` lowers a graph to fp16 or bf16,
``calibration`` observes activations on real images, ``quantise`` inserts Q/DQ nodes,
``sensitivity`` ranks the layers by what their quantisation costs and ``budget`` puts the worst
back into floating point until the gates hold.
"""
