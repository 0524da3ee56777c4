"""Evaluation of a detector: COCO metrics, and pictures of its masks and detections."""
