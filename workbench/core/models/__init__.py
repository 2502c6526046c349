"""The subject model: a name becomes a TransformerBridge."""
