"""Runs the losses in a thread with a stack of 256 KiB, in three dtypes and both layouts."""

import threading

import torch
from cpu_calls import make_call, run

import frs_kernels as frs


def work():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for layout in (torch.contiguous_format, torch.channels_last):
            call = make_call(dtype, layout, batch=1, sizes=[(150, 150)], logits=70, channels=4)
            run(call)
            with torch.no_grad():
                frs.frs_loss(**call, backend="native")
            kl = {"student": call["student_logits"], "teacher": call["teacher_logits"], "backend": "native"}
            for over in ("channels", "locations"):
                frs.weighted_kl(**kl, over=over)
    print("done")


torch.set_num_threads(1)
threading.stack_size(256 * 1024)
thread = threading.Thread(target=work)
thread.start()
thread.join()
