"""COCO-format data sets: annotation files, images, training order, loader processes; and the digits."""
