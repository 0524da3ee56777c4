"""The backends: ``eager`` runs the reference, every other one is a namespace of registered operators."""
