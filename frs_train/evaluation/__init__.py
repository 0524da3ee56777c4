"""What a detector is worth: COCO metrics, and pictures of its masks and detections."""
