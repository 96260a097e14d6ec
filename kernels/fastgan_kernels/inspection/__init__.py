"""What the kernels become when compiled, and what they move when run, both told on a machine without a GPU.

``python -m fastgan_kernels.inspection compiled`` compiles every kernel for four targets and checks the result;
:func:`fastgan_kernels.inspection.traffic.count_traffic` counts bytes under Triton's interpreter.
"""
