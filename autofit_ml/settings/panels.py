"""Panels of the command line, in order."""

INPUT, MODEL, STARTS = "Input", "Model", "Segmentation and starting values"
NOISE, SAMPLING = "Calibration, noise and PSF", "Sampling"
OUTPUT, WORK = "Output", "Running"
PANELS = (INPUT, MODEL, STARTS, NOISE, SAMPLING, OUTPUT, WORK)
