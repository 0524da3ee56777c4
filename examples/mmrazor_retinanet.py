"""MMRazor configuration: RetinaNet R101 -> R50 with the FRS loss.

For an MMRazor 1.x checkout with MMDetection 3.x and mmcv: ``python tools/train.py <this file>``.
``examples/mmrazor_losses.py`` runs its losses without any of these.
"""

_base_ = ["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"]
custom_imports = dict(imports=["frs_kernels.integrations.mmrazor"], allow_failed_imports=False)

recorders = dict(
    neck=dict(type="ModuleOutputs", source="neck"),  # a tuple of levels
    head=dict(type="ModuleOutputs", source="bbox_head"),  # (class scores, boxes), lists of levels
)
distiller = dict(
    type="ConfigurableDistiller",
    student_recorders=recorders,
    teacher_recorders=recorders,
    distill_losses=dict(
        loss_frs=dict(
            type="FRSLoss", student_channels=256, teacher_channels=256, num_levels=5,
            feat_weight=0.005, head_weight=0.02, warmup_iters=500,
        )
    ),
    loss_forward_mappings=dict(
        loss_frs=dict(
            s_feature=dict(recorder="neck", from_student=True),
            t_feature=dict(recorder="neck", from_student=False),
            s_logits=dict(recorder="head", from_student=True),
            t_logits=dict(recorder="head", from_student=False),
        )
    ),
)  # fmt: skip
model = dict(
    _scope_="mmrazor",
    _delete_=True,
    type="SingleTeacherDistill",
    architecture=dict(cfg_path="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", pretrained=False),
    teacher=dict(cfg_path="mmdet::retinanet/retinanet_r101_fpn_1x_coco.py", pretrained=True),
    distiller=distiller,
)
custom_hooks = [dict(type="FRSWarmupHook")]  # tells the losses the optimizer's steps, for their warm-up
find_unused_parameters = True
val_cfg = dict(_delete_=True, type="mmrazor.SingleTeacherDistillValLoop")
