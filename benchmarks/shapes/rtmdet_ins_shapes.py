"""mmdet configuration of the toy detector: RTMDet-Ins, narrow, on the shapes world's canvas doubled to 128 pixels.

Objects are 20 to 26 of 64 pixels wide, so two levels (strides 8 and 16 at 128 pixels) hold them all.
"""

default_scope = "mmdet"
classes = ("circle", "square", "triangle", "star", "cross", "ring")
norm = {"type": "BN", "momentum": 0.03, "eps": 0.001}
act = {"type": "SiLU", "inplace": True}
width = 48

model = {
    "type": "RTMDet",
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [127.5, 127.5, 127.5],
        "std": [60.0, 60.0, 60.0],
        "bgr_to_rgb": False,
    },
    "backbone": {
        "type": "CSPNeXt",
        # in, out, blocks, identity, spatial pyramid pooling; strides 4, 8, 16
        "arch_ovewrite": [[16, 24, 1, True, False], [24, 48, 1, True, False], [48, 96, 1, True, False]],
        "out_indices": (2, 3),
        "channel_attention": True,
        "norm_cfg": norm,
        "act_cfg": act,
    },
    "neck": {
        "type": "CSPNeXtPAFPN",
        "in_channels": [48, 96],
        "out_channels": width,
        "num_csp_blocks": 1,
        "norm_cfg": norm,
        "act_cfg": act,
    },
    "bbox_head": {
        "type": "RTMDetInsSepBNHead",
        "num_classes": len(classes),
        "in_channels": width,
        "stacked_convs": 2,
        "share_conv": True,
        "pred_kernel_size": 1,
        "feat_channels": width,
        "act_cfg": act,
        "norm_cfg": norm,
        "anchor_generator": {"type": "MlvlPointGenerator", "offset": 0, "strides": [8, 16]},
        "bbox_coder": {"type": "DistancePointBBoxCoder"},
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
        "loss_mask": {"type": "DiceLoss", "loss_weight": 2.0, "eps": 5e-6, "reduction": "mean"},
    },
    "train_cfg": {"assigner": {"type": "DynamicSoftLabelAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1},
    "test_cfg": {
        "nms_pre": 300,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 50,
        "mask_thr_binary": 0.5,
    },
}

test_dataloader = {
    "dataset": {
        "type": "CocoDataset",
        "metainfo": {"classes": classes},
        "ann_file": "",
        "test_mode": True,
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "Resize", "scale": (128, 128), "keep_ratio": True},
            {"type": "Pad", "size": (128, 128), "pad_val": {"img": (153, 153, 153)}},
            {"type": "PackDetInputs", "meta_keys": ("img_id", "ori_shape", "img_shape", "scale_factor")},
        ],
    }
}
