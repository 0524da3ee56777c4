"""What the operators loss and kl do with their arguments before anything is launched."""

import struct


def check(
    student_feats, teacher_feats, student_logits, teacher_logits, masks, channel_weights, per_image
):  # fmt: skip
    """Raises RuntimeError for lists that do not fit each other: a kernel would read outside of them."""
    levels = len(student_feats or student_logits)
    lists = {
        "student_feats": student_feats, "teacher_feats": teacher_feats, "student_logits": student_logits,
        "teacher_logits": teacher_logits, "masks": masks, "channel_weights": channel_weights,
    }  # fmt: skip
    for name, tensors in lists.items():
        if tensors and len(tensors) != levels:
            raise RuntimeError(f"{name} has {len(tensors)} levels, the student {levels}")
    for name, students, teachers in (
        ("feats", student_feats, teacher_feats),
        ("logits", student_logits, teacher_logits),
    ):
        for level, (s, t) in enumerate(zip(students, teachers, strict=bool(students))):
            if s.shape != t.shape:
                raise RuntimeError(
                    f"level {level}: student_{name} {list(s.shape)} and teacher_{name} {list(t.shape)} differ"
                )
    batches = [len(student) for student in student_feats or student_logits]
    if per_image and len(set(batches)) > 1:
        raise RuntimeError(f"per_image: the levels have {batches} images")
    for level, given in enumerate(masks):
        student = (student_feats or student_logits)[level]
        if given.numel() != student.shape[0] * student.shape[2:].numel():
            raise RuntimeError(f"level {level}: mask {list(given.shape)} does not fit {list(student.shape)}")


def check_kl(student, teacher, weights, over_locations, groups, per_image):
    """The same for the operator kl."""
    for name, tensors in {"teacher": teacher, "weights": weights}.items():
        if (tensors or name == "teacher") and len(tensors) != len(student):
            raise RuntimeError(f"{name} has {len(tensors)} levels, the student {len(student)}")
    for level, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.shape != t.shape:
            raise RuntimeError(f"level {level}: student {list(s.shape)} and teacher {list(t.shape)} differ")
        if groups < 1 or s.shape[1] % groups:
            raise RuntimeError(f"level {level}: {s.shape[1]} channels are no multiple of {groups} groups")
    if over_locations and groups != 1:
        raise RuntimeError(f"over_locations goes with 1 group, not with {groups}")
    for level, (s, given) in enumerate(zip(student, weights, strict=bool(weights))):
        if given.numel() != s.shape[0] * (s.shape[1] if over_locations else s.shape[2:].numel()):
            raise RuntimeError(f"level {level}: weights {list(given.shape)} do not fit {list(s.shape)}")
    batches = [len(s) for s in student]
    if per_image and len(set(batches)) > 1:
        raise RuntimeError(f"per_image: the levels have {batches} images")


def two_floats(value: float) -> tuple[float, float]:
    """A double as the sum of two floats: Triton passes Python floats as float32."""
    try:
        high = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return value, 0.0
    return high, (value - high if abs(high) != float("inf") else 0.0)
