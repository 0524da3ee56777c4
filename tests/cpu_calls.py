"""Calls of the compiled CPU kernels, and checks of them that a test and a program share."""

import torch

import frs_kernels

SIZES = [(24, 31), (9, 7), (1, 1)]
MEBIBYTE = 1 << 20


def make_call(
    dtype=torch.float32, layout=torch.contiguous_format, batch=2, sizes=SIZES, logits=21, channels=19
):
    """The tensors of frs_loss by name, each a list over levels."""
    generator = torch.Generator().manual_seed(0)

    def levels(channels, shift):
        made = [torch.randn(batch, channels, *size, generator=generator) * 3 + shift for size in sizes]
        return [t.to(dtype).contiguous(memory_format=layout) for t in made]

    return {
        "student_feats": levels(channels, 0), "teacher_feats": levels(channels, 0),
        "teacher_logits": levels(logits, -2), "student_logits": levels(logits, -2),
    }  # fmt: skip


def run(call, backend="native", **options):
    """The total loss and the gradients of all student levels."""
    names = "student_feats", "student_logits"
    students = {name: [t.detach().requires_grad_() for t in call[name]] for name in names}
    loss = frs_kernels.frs_loss(**call | students, backend=backend, **options)
    loss.total.backward()
    return [loss.total.detach(), *(t.grad for levels in students.values() for t in levels)]


def bits(tensors):
    """Copies of the tensors' bytes, which also compare NaN."""
    return [t.flatten().view(torch.uint8).clone() for t in tensors]


def large_call(height):
    """A call of one level whose logits' gradient has grad_bytes(height)."""
    return make_call(batch=1, sizes=[(height, 64)], logits=256, channels=1)


def grad_bytes(height):
    return 4 * 256 * 64 * height


def check_special_values():
    """NaN survives the vector maximum in every lane; NaN and infinity survive the rounding of gradients."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for layout in (torch.contiguous_format, torch.channels_last):
            for place in range(40):
                logits = torch.zeros(1, 40, 1, 33).to(dtype).contiguous(memory_format=layout)
                logits[0, place, 0, place % 33] = torch.nan
                (mask,) = frs_kernels.frs_mask([logits], backend="native")
                assert mask.isnan().sum() == 1 and mask[0, 0, place % 33].isnan()
            payload = torch.tensor([0x7FFFFFFF, 0x7F800001], dtype=torch.int32).view(torch.float32)
            student = torch.zeros(1, 2, 1, 1).to(dtype).requires_grad_()
            frs_kernels.weighted_bce(
                student, payload.reshape(1, 2, 1, 1), torch.ones(1, 1, 1), backend="native"
            ).backward()
            assert student.grad.isnan().all()
            student = torch.zeros(1, 40, 1, 2).to(dtype).contiguous(memory_format=layout).requires_grad_()
            mask = payload.reshape(1, 1, 2)
            frs_kernels.weighted_bce(student, student.detach(), mask, backend="native").backward()
            assert student.grad.isnan().all()
            largest = torch.finfo(dtype).max
            student = torch.full((1, 40, 1, 1), largest).to(dtype).requires_grad_()
            frs_kernels.weighted_mse(
                student, -student.detach(), torch.ones(1, 1, 1), backend="native"
            ).backward()
            assert student.grad.isinf().all()


def check_large_gradients():
    """Gradients of more than 16 MiB, written by non-temporal stores, have the bits of each image alone."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            shape = (10, 40, 104, 208)
            student, teacher = (
                torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=layout)
                for _ in range(2)
            )
            mask = torch.rand(10, 104, 208, generator=generator)
            assert student.numel() * student.element_size() > 16 * MEBIBYTE

            def gradient(student, teacher, mask):
                student = student.detach().requires_grad_()
                loss = frs_kernels.weighted_bce(student, teacher, mask, normalizer=3.0, backend="native")
                loss.backward()
                return student.grad

            together = gradient(student, teacher, mask)
            for image in (slice(0, 1), slice(9, 10)):
                alone = gradient(student[image], teacher[image], mask[image])
                assert torch.equal(together[image], alone)
