"""The endpoint: `api` and `problems` are what clients see, `app` is FastAPI, `deployment` is Ray Serve.

Nothing is imported here: a client takes `ovseg_ray.serving.api` and needs neither torch nor Ray.
"""
