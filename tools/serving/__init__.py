"""A small model server, and what looks a model through for a large one.

Needs TensorFlow, tensorflow-text for models of texts, and tensorflow-serving-api for gRPC and for
warm-up requests. It imports nothing of `d2v_tf`, and serves any SavedModel.
"""
