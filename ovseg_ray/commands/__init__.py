"""The verbs of `ovseg-ray`: each reads its options, connects to Ray and calls one function of the package."""
