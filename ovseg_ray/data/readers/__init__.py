"""Readers of data set formats behind one door; no reader decodes an image before it is asked for one."""
